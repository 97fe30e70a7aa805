"""A block device in a real guest: file systems, queues, reboots, and a back-end that comes and goes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.front_end import until
from tests.support.programs import COMMAND, run_program
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess
from vhost_user.testing.guest_initramfs import find_program

pytestmark = pytest.mark.guest

if TYPE_CHECKING:
    from tests.guest.conftest import AttachBlk

StartBlk = Callable[..., BackendProcess]

# Writes /pattern block by block past the cache, so that each block is a request that the guest waits for.
WRITER = b"""#!/bin/sh -e
for n in $(seq 0 $(($2 - 1))); do
    dd if=/pattern of=/dev/vda bs=$1 skip=$n seek=$n count=1 oflag=direct conv=notrunc 2>/dev/null
done
"""


OURS = ["vhost-user", "vhost-user packed", "vhost-user from Python"]

# A disk that leaves a mark for each time it makes the writes so far durable.
COUNTED = """
from vhost_user import serve
from vhost_user.devices import Blk, FileStorage

class Counted(FileStorage):
    def flush(self):
        super().flush()
        with open({flushes!r}, "ab") as file:
            file.write(b"x")

serve(Blk(Counted({image!r})))
"""


def assert_clean(image: Path) -> None:
    """Let the host's e2fsck look at the image, without repairing anything."""
    done = run_program([find_program("e2fsck"), "-f", "-n", image])
    assert done.returncode == 0, done.stdout + done.stderr


def sha256_in_image(image: Path, name: str, folder: Path) -> str:
    """Take a file out of an ext4 image on the host and return its checksum."""
    out = folder / "dumped"
    subprocess.run(
        [find_program("debugfs"), "-R", f"dump /{name} {out}", image], capture_output=True, check=True
    )
    return hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize("num_queues", [1, 4])
def test_ext4_made_and_filled_in_the_guest_is_clean_and_equal_on_the_host(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path, tmp_path: Path, num_queues: int
) -> None:
    backend = start_blk(image, num_queues=num_queues)
    with Guest(devices=[attach_blk(backend, num_queues=num_queues)]) as guest:
        assert guest.run("cat /sys/block/vda/device/features")[34] == str(int(attach_blk.packed))
        assert guest.run("cat /sys/block/vda/size").strip() == str(image.stat().st_size // 512)
        assert len(guest.run("ls /sys/block/vda/mq").split()) == num_queues
        guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt")
        # One writer on each CPU, so that each queue carries data of its own.
        writers = "\n".join(
            f"taskset {1 << cpu:x} dd if=/dev/urandom of=/mnt/file{cpu} bs=256k count=16 2>/dev/null &"
            for cpu in range(num_queues)
        )
        guest.run(f"{writers}\nwait")
        sums = guest.run("cd /mnt && sha256sum file*")
        guest.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -o ro /dev/vda /mnt")
        assert guest.run("cd /mnt && sha256sum file*") == sums
        guest.run("umount /mnt")
        guest.run("e2fsck -f -n /dev/vda")
        guest.shutdown()
    backend.stop()
    assert_clean(image)
    in_guest = {name: checksum for checksum, name in (line.split() for line in sums.splitlines())}
    assert sorted(in_guest) == [f"file{cpu}" for cpu in range(num_queues)]
    assert {name: sha256_in_image(image, name, tmp_path) for name in in_guest} == in_guest


def test_guest_reboots_twice_on_the_same_backend(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path
) -> None:
    backend = start_blk(image, num_queues=2)
    with Guest(devices=[attach_blk(backend, num_queues=2)]) as guest:
        guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo boot 0 >/mnt/log && umount /mnt")
        for boot in (1, 2):
            guest.reboot()
            log = guest.run(
                f"mount /dev/vda /mnt && echo boot {boot} >>/mnt/log && cat /mnt/log && umount /mnt"
            )
            assert log == "".join(f"boot {number}\n" for number in range(boot + 1))
        guest.run("e2fsck -f -n /dev/vda")
        guest.shutdown()
    backend.stop()
    assert_clean(image)


def test_reset_in_the_middle_of_writing_leaves_a_device_that_works(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path
) -> None:
    backend = start_blk(image, num_queues=2)
    with Guest(devices=[attach_blk(backend, num_queues=2)]) as guest:
        guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
        guest.start("while true; do dd if=/dev/urandom of=/mnt/busy bs=1M count=16 conv=fsync; done")
        until(lambda: image.stat().st_blocks * 512 > 12 << 20, "writing", 60)
        guest.reset()
        # The journal is replayed by the mount; what remains must be consistent.
        guest.run("mount /dev/vda /mnt && echo alive >/mnt/log && umount /mnt && e2fsck -f -n /dev/vda")
        guest.shutdown()
    backend.stop()
    assert_clean(image)


# The peer is left out: it is not ours to judge how it comes back. So are packed rings: nothing in the guest's
# memory tells where a back-end that went away had stopped, and QEMU 7.2 does not know it either.
@pytest.mark.parametrize("start_blk", ["vhost-user"], indirect=True)
def test_C134_backend_restarts_under_reconnect_while_the_guest_writes(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path
) -> None:
    block, count = 16 << 10, 150
    pattern = b"".join((f"block {number}\n".encode() * block)[:block] for number in range(count))
    backend = start_blk(image)
    with Guest(
        devices=[attach_blk(backend)], reconnect=1, files={"/pattern": pattern, "/write": WRITER}
    ) as guest:
        job = guest.start(f"/write {block} {count}")
        for written in (20, 60):
            until(partial(filled, image, written * block), f"writing {written} blocks", 60)
            backend.stop()
            assert not filled(image, (count - 1) * block), "the writer ended before the back-end went away"
            backend.start()
        result = job.wait(60)
        assert result.status == 0, result.output
        guest.shutdown()
    assert image.read_bytes()[: len(pattern)] == pattern


def test_read_only_disk_can_be_read_and_not_written(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path
) -> None:
    subprocess.run([find_program("mkfs.ext4"), "-q", image], check=True)
    before = hashlib.sha256(image.read_bytes()).digest()
    backend = start_blk(image, read_only=True)
    with Guest(devices=[attach_blk(backend)]) as guest:
        assert guest.run("cat /sys/block/vda/ro").strip() == "1"
        assert "lost+found" in guest.run("mount -o ro /dev/vda /mnt && ls /mnt && umount /mnt")
        assert guest.start("echo x >/dev/vda").wait().status != 0
        guest.shutdown()
    backend.stop()
    assert hashlib.sha256(image.read_bytes()).digest() == before


@pytest.mark.parametrize("fast_path", [(), ("--no-fast-path",)], ids=["fast", "Python"])
def test_ext4_on_an_image_past_the_page_cache(
    start_program: Callable[..., BackendProcess], image: Path, tmp_path: Path, fast_path: tuple[str, ...]
) -> None:
    options = [f"--blk-file={image}", "--direct", "--num-queues=2", "--block-size=4096", *fast_path]
    backend = start_program(COMMAND, "serve", "blk", *options)
    with Guest(devices=[VhostUserBlk(backend.socket, num_queues=2)]) as guest:
        assert guest.run("cat /sys/block/vda/queue/logical_block_size").strip() == "4096"
        guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt")
        guest.run("dd if=/dev/urandom of=/mnt/file bs=1M count=16 && dd if=/mnt/file of=/mnt/copy bs=12345")
        checksum = guest.run("cd /mnt && sha256sum file").split()[0]
        guest.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -o ro /dev/vda /mnt")
        assert {line.split()[0] for line in guest.run("cd /mnt && sha256sum file copy").splitlines()} == {
            checksum
        }
        guest.run("umount /mnt && e2fsck -f -n /dev/vda")
        guest.shutdown()
    backend.stop()
    assert_clean(image)
    assert sha256_in_image(image, "copy", tmp_path) == checksum


@pytest.mark.parametrize("start_blk", OURS, indirect=True)
def test_C130_disk_grows_and_shrinks_under_the_guest(
    start_blk: StartBlk, attach_blk: AttachBlk, image: Path
) -> None:
    backend = start_blk(image, num_queues=2)
    before = image.stat().st_size
    with Guest(devices=[attach_blk(backend, num_queues=2)]) as guest:
        assert guest.run("cat /sys/block/vda/size").strip() == str(before // 512)
        for size in (before + (64 << 20), before // 2):
            os.truncate(image, size)
            os.kill(backend.pid, signal.SIGHUP)
            guest.run(f"until [ $(cat /sys/block/vda/size) = {size // 512} ]; do sleep 0.1; done")
            last = size // 4096 - 1
            guest.run(f"echo here | dd of=/dev/vda bs=4k count=1 seek={last} conv=sync,notrunc oflag=direct")
            assert image.stat().st_size == size
            with image.open("rb") as file:
                file.seek(last * 4096)
                assert file.read(5) == b"here\n"
        guest.shutdown()
    backend.stop()


def test_write_through_chosen_by_the_guest_outlives_the_back_end(
    start_program: Callable[..., BackendProcess], image: Path, tmp_path: Path
) -> None:
    flushes, program = tmp_path / "flushes", tmp_path / "counted.py"
    flushes.touch()
    program.write_text(COUNTED.format(image=str(image), flushes=str(flushes)))
    backend = start_program(sys.executable, program)
    with Guest(devices=[VhostUserBlk(backend.socket)], reconnect=1) as guest:

        def flushed() -> int:
            before = flushes.stat().st_size
            guest.run("dd if=/dev/urandom of=/dev/vda bs=4k count=8 oflag=direct conv=notrunc")
            return flushes.stat().st_size - before

        assert guest.run("cat /sys/block/vda/cache_type").strip() == "write back"
        assert flushed() == 0
        guest.run("echo 'write through' >/sys/block/vda/cache_type")
        assert flushed() == 8
        backend.stop()
        backend.start()
        assert guest.run("cat /sys/block/vda/cache_type").strip() == "write through"
        assert flushed() == 8
        guest.run("echo 'write back' >/sys/block/vda/cache_type")
        assert flushed() == 0
        guest.run("echo 'write through' >/sys/block/vda/cache_type")
        guest.reboot()
        assert guest.run("cat /sys/block/vda/cache_type").strip() == "write through"
        assert flushed() == 8
        guest.shutdown()
    backend.stop()


def filled(image: Path, offset: int) -> bool:
    """Say whether the guest has written at an offset of the image."""
    with image.open("rb") as file:
        file.seek(offset)
        return file.read(1) not in (b"", b"\0")
