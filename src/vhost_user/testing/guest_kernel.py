"""The guest's kernel: Debian's cloud kernel, taken from its package without being installed.

`python3 -m vhost_user.testing.guest_kernel` fetches it (as any user; it needs no root) into the cache folder:
the one that the environment variable VHOST_USER_CACHE names, else `vhost-user` in the user's cache folder.
"""

from __future__ import annotations

import gzip
import lzma
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vhost_user.testing.guest_errors import GuestUnavailableError

PACKAGE = "linux-image-cloud-amd64"
FETCH_COMMAND = "python3 -m vhost_user.testing.guest_kernel"

# Offsets in the header of a bzImage (Linux, Documentation/arch/x86/boot.rst).
_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class GuestKernel:
    """A kernel that can be booted.

    Attributes:
        release: what `uname -r` prints in the guest.
        image: the kernel as an uncompressed ELF file, which QEMU enters without the decompressor (PVH entry).
        modules: the folder that holds the modules.
    """

    release: str
    image: Path
    modules: Path


def cache_folder() -> Path:
    """Return the folder that keeps fetched kernels."""
    chosen = os.environ.get("VHOST_USER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vhost-user"


def locate_kernel(cache: Path | None = None) -> GuestKernel:
    """Return the newest kernel in the cache.

    Raises:
        GuestUnavailableError: there is none; the message says which command fetches one.
    """
    cache = cache or cache_folder()
    kernel = newest(cache, "kernel-")
    if kernel is None:
        raise GuestUnavailableError(
            f"no guest kernel in {cache}. Fetch one (a 27 MB package, unpacked and not installed): "
            f"{FETCH_COMMAND}"
        )
    return kernel


def newest(cache: Path, prefix: str) -> GuestKernel | None:
    """The newest kernel among the folders of this prefix."""
    found = sorted(cache.glob(f"{prefix}*/vmlinux"), key=lambda path: _version(path.parent.name))
    if not found:
        return None
    folder = found[-1].parent
    return GuestKernel(folder.name.removeprefix(prefix), folder / "vmlinux", folder / "modules")


def fetch_kernel(cache: Path | None = None) -> GuestKernel:
    """Download Debian's cloud kernel with apt-get, unpack it into the cache and return it. Needs no root.

    Raises:
        GuestUnavailableError: a program is missing, or apt-get does not find the package.
    """
    cache = cache or cache_folder()
    machine_is_known()
    package = image_package(PACKAGE)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        work = Path(name)
        # As root, apt-get would drop to a user of its own that cannot write here, and warn about it.
        run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], work)
        archive = next(work.glob("*.deb"))
        run(["dpkg", "-x", archive.name, "unpacked"], work)
        image = next((work / "unpacked/boot").glob("vmlinuz-*"))
        release = image.name.removeprefix("vmlinuz-")
        kernel = work / f"kernel-{release}"
        kernel.mkdir()
        (work / "unpacked/lib/modules" / release).rename(kernel / "modules")
        (kernel / "vmlinux").write_bytes(uncompressed(image.read_bytes()))
        final = cache / kernel.name
        if final.exists():
            shutil.rmtree(final)
        kernel.rename(final)
    return GuestKernel(release, final / "vmlinux", final / "modules")


def uncompressed(image: bytes) -> bytes:
    """Return the ELF kernel that a bzImage carries.

    Raises:
        GuestUnavailableError: the program that decompresses is missing, or the image carries no ELF kernel.
    """
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = (image[_SETUP_SECTORS] + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(b"\x02\x21\x4c\x18"):
        # The kernel's build appends the uncompressed size, which lz4 would take for another block.
        kernel = _filtered(["lz4", "-dc"], payload[:-4], package="lz4")
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        kernel = _filtered(["zstd", "-dcq"], payload[:-4], package="zstd")
    elif payload.startswith(b"\xfd7zXZ"):
        kernel = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        kernel = gzip.decompress(payload[:-4])
    else:
        raise GuestUnavailableError(
            f"the kernel image is compressed in an unknown way (it starts {payload[:6].hex()})"
        )
    if not kernel.startswith(_ELF):
        raise GuestUnavailableError("the kernel image does not hold an ELF kernel")
    return kernel


def module_order(kernel: GuestKernel, wanted: tuple[str, ...]) -> list[Path]:
    """Return the files of the wanted modules and of all they depend on, in an order in which they load.

    What is built into the kernel is left out. `-` and `_` in names mean the same, as for modprobe.

    Raises:
        GuestUnavailableError: the kernel has no such module.
    """
    files = {_module_name(path): path for path in kernel.modules.rglob("*.ko*")}
    built_in = {_module_name(Path(line)) for line in (kernel.modules / "modules.builtin").read_text().split()}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in order or name in built_in:
            return
        if name not in files:
            raise GuestUnavailableError(f"the guest kernel {kernel.release} has no module {name}")
        for dependency in _dependencies(files[name]):
            add(dependency)
        order[name] = files[name]

    for name in wanted:
        add(name.replace("-", "_"))
    return list(order.values())


def module_content(path: Path) -> bytes:
    """Return a module as the kernel loads it, uncompressed."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _dependencies(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module_content(module))
    return [] if found is None else [name for name in found[1].decode().replace("-", "_").split(",") if name]


def _module_name(path: Path) -> str:
    return path.name.split(".", 1)[0].replace("-", "_")


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def machine_is_known() -> None:
    """Raise GuestUnavailableError on a machine that there are no guests for."""
    if platform.machine() != "x86_64":
        raise GuestUnavailableError(f"guests are x86-64 only so far; this machine is {platform.machine()}")


def image_package(always_newest: str) -> str:
    """Return the name of the package that the always-newest package stands for."""
    listing = run(["apt-cache", "depends", always_newest], Path.cwd())
    found = re.search(r"Depends: (linux-image-\S+)", listing)
    if found is None:
        raise GuestUnavailableError(
            f"apt does not know the package {always_newest}; as root, run: apt-get update"
        )
    return found[1]


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder and return what it printed. Raises GuestUnavailableError when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise GuestUnavailableError(
            f"{command[0]} is missing: a guest kernel can be fetched on Debian and what descends from it"
        ) from error
    if done.returncode:
        raise GuestUnavailableError(
            f"`{' '.join(command)}` failed with status {done.returncode}. If the package lists are old, run "
            f"as root: apt-get update\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def _filtered(command: list[str], content: bytes, package: str) -> bytes:
    try:
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise GuestUnavailableError(
            f"{command[0]} is needed to unpack the guest kernel; as root, run: apt-get install {package}"
        ) from error
    except subprocess.CalledProcessError as error:
        raise GuestUnavailableError(
            f"{command[0]} could not unpack the guest kernel: {error.stderr!r}"
        ) from error


def main() -> int:
    """Fetch the guest kernel; return the exit status."""
    try:
        kernel = fetch_kernel()
    except GuestUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"guest kernel {kernel.release} is in {kernel.image.parent}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
