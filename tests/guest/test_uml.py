"""User-mode Linux, a kernel that is a program and a front-end of its own make, on a disk of ours.

It asks for an ack from its first message on, hands over ends of socket pairs as doorbells, and sends a table
of two regions of which one counts.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from vhost_user import Listener, VhostUserDaemon
from vhost_user.devices import Blk
from vhost_user.protocol.trace import TraceLog
from vhost_user.testing.guest_initramfs import Archive, find_program
from vhost_user.testing.guest_kernel import GuestKernel, module_content, module_order

pytestmark = pytest.mark.guest

MODULES = Path("/usr/lib/uml/modules")
HALF = 4 << 20
INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin
for module in $(cat /modules/order); do insmod "/modules/$module"; done
dd if=/dev/vda of=/copy bs=1M count={HALF >> 20} iflag=direct &&
    dd if=/copy of=/dev/vda bs=1M seek={HALF >> 20} count={HALF >> 20} oflag=direct conv=notrunc &&
    echo "copied it all"
poweroff -f
"""


def initramfs() -> bytes:
    """Busybox, the disk's driver and what is to be done."""
    folder = next(MODULES.iterdir())
    kernel = GuestKernel(folder.name, find_program("linux.uml"), folder)
    order = module_order(kernel, ("virtio_blk",))
    archive = Archive()
    archive.add_character_device("/dev/console", 5, 1)
    archive.add_file("/init", INIT.encode())
    archive.add_file("/bin/busybox", find_program("busybox").read_bytes())
    for path in order:
        archive.add_file(f"/modules/{path.name}", module_content(path), 0o644)
    archive.add_file("/modules/order", "".join(f"{path.name}\n" for path in order).encode(), 0o644)
    return archive.finished()


@pytest.mark.parametrize("in_band", [False, True], ids=["socket pairs", "messages"])
def test_C094_C133_user_mode_linux_copies_half_of_a_disk_to_its_other_half(
    tmp_path: Path, in_band: bool
) -> None:
    """Its doorbells are ends of socket pairs, or messages where those are offered."""
    messages = TraceLog(100_000)
    content = random.Random(7).randbytes(HALF)
    image, ramdisk, path = tmp_path / "image", tmp_path / "initramfs", tmp_path / "s"
    image.write_bytes(content + bytes(HALF))
    ramdisk.write_bytes(initramfs())
    with (
        Listener.bind(path) as listener,
        VhostUserDaemon("disk", Blk(image), tracer=messages, in_band_notifications=in_band) as daemon,
    ):
        daemon.start(listener)
        command: list[str | Path] = [
            find_program("linux.uml"), "mem=128M", f"initrd={ramdisk}", f"virtio_uml.device={path}:2",
            f"uml_dir={tmp_path}/", "con0=null,fd:1", "con=null", "ssl=null",
        ]  # fmt: skip
        uml = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said = uml.communicate(timeout=30)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(uml.pid, 9)  # the kernel and its processes
            said = uml.communicate()[0].decode(errors="replace") + "\nit hangs\n"
    assert "copied it all" in said, said[-3000:]
    assert image.read_bytes() == 2 * content
    said_in_messages = {event.name for event in messages.events}
    assert ({"VRING_KICK", "VRING_CALL"} <= said_in_messages) == in_band
    assert ("SET_VRING_KICK" in said_in_messages) != in_band
