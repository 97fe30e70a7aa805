"""What a guest boots from: the kernel out of its package, and the initramfs made on the spot."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from vhost_user.testing.guest_errors import GuestUnavailableError
from vhost_user.testing.guest_initramfs import Archive, build_initramfs, find_program
from vhost_user.testing.guest_kernel import GuestKernel, locate_kernel, module_order, uncompressed

pytestmark = pytest.mark.guest

ELF = b"\x7fELF and so on"


def bzimage(payload: bytes) -> bytes:
    """Return an image whose header points at a compressed kernel."""
    header = bytearray(1024)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 16, len(payload))
    return bytes(header) + bytes(16) + payload + b"what follows"


@pytest.mark.parametrize(
    "payload", [gzip.compress(ELF) + bytes(4), lzma.compress(ELF) + bytes(4)], ids=["gzip", "xz"]
)
def test_kernel_is_taken_out_of_its_image(payload: bytes) -> None:
    assert uncompressed(bzimage(payload)) == ELF


def test_an_image_that_holds_no_kernel_is_refused() -> None:
    with pytest.raises(GuestUnavailableError, match=r"unknown way.*0102"):
        uncompressed(bzimage(b"\x01\x02\x03\x04\x05\x06"))
    with pytest.raises(GuestUnavailableError, match="not hold an ELF kernel"):
        uncompressed(bzimage(gzip.compress(b"text") + bytes(4)))


def test_modules_come_after_those_they_depend_on() -> None:
    order = [
        path.name.removesuffix(".ko") for path in module_order(locate_kernel(), ("virtio_pci", "virtio-rng"))
    ]
    assert order.index("virtio_ring") < order.index("virtio") < order.index("virtio_pci")
    assert order.index("virtio") < order.index("virtio-rng")
    assert len(order) == len(set(order))
    assert module_order(locate_kernel(), ("ext4",)) == [], "ext4 is built into this kernel"


def test_newest_kernel_is_the_one_with_the_highest_numbers(tmp_path: Path) -> None:
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"):
        (tmp_path / f"kernel-{release}").mkdir()
        (tmp_path / f"kernel-{release}" / "vmlinux").touch()
    folder = tmp_path / "kernel-6.1.0-10-cloud-amd64"
    assert locate_kernel(tmp_path) == GuestKernel(
        "6.1.0-10-cloud-amd64", folder / "vmlinux", folder / "modules"
    )


def test_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = Archive()
    archive.add_file("/a/b/file", b"content", 0o640)
    archive.add_file("/a/odd", b"12345")
    archive.add_file("/a/odd", b"a second one of that name is left out")
    subprocess.run(
        [find_program("busybox"), "cpio", "-idm"],
        input=archive.finished(),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "a/b/file").read_bytes() == b"content"
    assert (tmp_path / "a/b/file").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "a/odd").read_bytes() == b"12345"
    assert archive.finished().count(b"a/odd\0") == 1


def test_initramfs_holds_programs_with_their_libraries() -> None:
    listing = subprocess.run(
        [find_program("busybox"), "cpio", "-t"],
        input=build_initramfs(locate_kernel(), ["virtio_blk"], ["e2fsck"], {"/etc/greeting": b"hello"}),
        check=True,
        capture_output=True,
    ).stdout.decode()
    names = listing.split()
    assert {"init", "bin/busybox", "usr/sbin/e2fsck", "modules/virtio_blk.ko", "etc/greeting"} <= set(names)
    assert [name for name in names if "libext2fs.so" in name]
    assert [name for name in names if "ld-linux" in name]
