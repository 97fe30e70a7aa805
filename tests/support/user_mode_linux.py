"""User-mode Linux, a kernel that is a program, with one device of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vhost_user.testing.guest_initramfs import Archive, find_program
from vhost_user.testing.guest_kernel import GuestKernel, module_content, module_order

MODULES = Path("/usr/lib/uml/modules")
PATIENCE = 30
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin
for module in $(cat /modules/order); do insmod "/modules/$module"; done
{work}
poweroff -f
"""


def initramfs(modules: Sequence[str], work: str) -> bytes:
    """Busybox, the device's driver and what is to be done."""
    folder = next(MODULES.iterdir())
    kernel = GuestKernel(folder.name, find_program("linux.uml"), folder)
    order = module_order(kernel, tuple(modules))
    archive = Archive()
    archive.add_character_device("/dev/console", 5, 1)
    archive.add_file("/init", INIT.replace("{work}", work).encode())
    archive.add_file("/bin/busybox", find_program("busybox").read_bytes())
    for path in order:
        archive.add_file(f"/modules/{path.name}", module_content(path), 0o644)
    archive.add_file("/modules/order", "".join(f"{path.name}\n" for path in order).encode(), 0o644)
    return archive.finished()


def user_mode_linux(folder: Path, socket: Path, virtio_id: int, modules: Sequence[str], work: str) -> str:
    """Boot it with the device that listens at ``socket``, have it do this work, and give what it said."""
    ramdisk = folder / "initramfs"
    ramdisk.write_bytes(initramfs(modules, work))
    command: list[str | Path] = [
        find_program("linux.uml"), "mem=128M", f"initrd={ramdisk}", f"virtio_uml.device={socket}:{virtio_id}",
        f"uml_dir={folder}/", "con0=null,fd:1", "con=null", "ssl=null",
    ]  # fmt: skip
    uml = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return uml.communicate(timeout=PATIENCE)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(uml.pid, 9)  # the kernel and its processes
        return uml.communicate()[0].decode(errors="replace") + "\nit hangs\n"
