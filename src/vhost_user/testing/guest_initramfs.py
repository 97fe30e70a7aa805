"""The guest's file system: an initramfs of busybox, kernel modules and a few of the host's programs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from vhost_user.testing.guest_errors import GuestUnavailableError
from vhost_user.testing.guest_kernel import GuestKernel, module_content, module_order

_PACKAGES = {"busybox": "busybox-static", "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "ldd": "libc-bin"}
_SYSTEM_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))

# Process 1 of the guest, and the shell that takes commands. That talks on the second serial port, so that the
# kernel's messages, which go to the first, can never come between the lines of an answer.
# Host to guest: `+BASE64` appends to the command's text, `!ID` runs it.
# Guest to host: `@ready`; `@+` for each appended line; `@begin ID`, the output in base64, `@end ID STATUS`.
# What commands leave behind in the background becomes a child of process 1 and ends when it likes. The signal
# of that makes the shell's `read` begin anew, without what it has of the line. So a child of process 1 reads.
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
while read -r module; do
    insmod "/modules/$module" || echo "init: module $module was not loaded"
done </modules/order
(
    exec <>/dev/ttyS1 >&0
    stty raw -echo
    printf "\\n@ready\\n"
    while IFS= read -r line; do
        id=${line#?}
        case $line in
        +*)
            echo "$id" >>/run/command.base64
            echo "@+"
            ;;
        !*)
            base64 -d </run/command.base64 >/run/command
            rm /run/command.base64
            setsid sh -e /run/command </dev/null >"/run/output.$id" 2>&1
            status=$?
            echo "@begin $id"
            base64 "/run/output.$id"
            echo "@end $id $status"
            rm "/run/output.$id"
            ;;
        esac
    done
)
echo "init: the command channel ended" >/dev/console
poweroff -f
"""


class Archive:
    """A cpio archive in the `newc` form that Linux unpacks as its first file system."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._names: set[PurePosixPath] = {PurePosixPath("/")}

    def add_file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        """Add a regular file under an absolute name, with the folders that lead to it."""
        self._add(PurePosixPath(name), stat.S_IFREG | mode, content)

    def add_character_device(self, name: str, major: int, minor: int) -> None:
        """Add a device node. That takes no privilege, since only the archive holds it."""
        self._add(PurePosixPath(name), stat.S_IFCHR | 0o600, device=(major, minor))

    def finished(self) -> bytes:
        """Return the whole archive."""
        self._write("TRAILER!!!", 0, b"", (0, 0))
        return bytes(self._content)

    def _add(
        self, name: PurePosixPath, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        if name in self._names:
            return
        if name.parent not in self._names:
            self._add(name.parent, stat.S_IFDIR | 0o755)
        self._names.add(name)
        self._write(str(name).lstrip("/"), mode, content, device)

    def _write(self, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        encoded = name.encode() + b"\0"
        inode = len(self._names)
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self._content += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._pad()
        self._content += content
        self._pad()

    def _pad(self) -> None:
        self._content += bytes(-len(self._content) % 4)


def build_initramfs(
    kernel: GuestKernel,
    modules: Iterable[str] = (),
    programs: Iterable[str] = (),
    files: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return an initramfs as QEMU takes it.

    Args:
        kernel: the kernel that it is for.
        modules: names of the modules to load before the first command; those they depend on are added.
        programs: programs of the host to bring along with their shared libraries, by name.
        files: further files: absolute name in the guest, and content.

    Raises:
        GuestUnavailableError: a program or a module is not there; the message names the package to install.
    """
    archive = Archive()
    archive.add_character_device("/dev/console", 5, 1)
    archive.add_file("/init", INIT.encode())
    _add_program(archive, "busybox", "/bin/busybox")
    for program in programs:
        _add_program(archive, program, f"/usr/sbin/{program}")
    order = module_order(kernel, tuple(modules))
    for path in order:
        archive.add_file(f"/modules/{path.name}", module_content(path), 0o644)
    archive.add_file("/modules/order", "".join(f"{path.name}\n" for path in order).encode(), 0o644)
    configuration = Path("/etc/mke2fs.conf")
    if configuration.exists():
        archive.add_file(str(configuration), configuration.read_bytes(), 0o644)
    for name, content in (files or {}).items():
        archive.add_file(name, content)
    return archive.finished()


def find_program(name: str) -> Path:
    """Return where a program of the host is; the folders of the administrator's programs count too.

    Raises:
        GuestUnavailableError: it is nowhere; the message names the package to install.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_PATH)))
    if found is None:
        package = _PACKAGES.get(name, name)
        raise GuestUnavailableError(f"{name} is missing; as root, run: apt-get install {package}")
    return Path(found)


def _add_program(archive: Archive, name: str, destination: str) -> None:
    path = find_program(name)
    archive.add_file(destination, path.read_bytes())
    for library in _shared_libraries(path):
        archive.add_file(str(library), library.read_bytes())


def _shared_libraries(program: Path) -> list[Path]:
    """Return the shared libraries of a program and its loader, under the names it asks for them by."""
    listing = subprocess.run(
        [find_program("ldd"), program],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,  # status 1: a static program, which has none
    )
    words = (line.split() for line in listing.stdout.splitlines())
    return [Path(path) for line in words for path in line if path.startswith("/") and not path.endswith(":")]
