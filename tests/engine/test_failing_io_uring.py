"""io_uring_enter that fails: nothing waits for what the kernel never got, and nothing of it is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.pair import MakePair
from tests.engine.test_fast_path import READ, WRITE, Handler, header, prepared, process
from tests.support.programs import programs
from tests.support.seccomp import Injection, fails
from vhost_user.engine.blk.file_fast_path import FileFastPath
from vhost_user.frontend import BlockDriver
from vhost_user.protocol.errors import SocketError
from vhost_user.spec.blk import BlkFeature
from vhost_user.spec.features import VirtioFeature

BLOCKS = 64
BLOCK = 4096
ALWAYS = 1 << 30


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    content = os.urandom(BLOCKS * BLOCK)
    path = tmp_path / "disk"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)
    yield fd, content
    os.close(fd)


def under_injection(test: Callable[[Injection], None]) -> None:
    """In a thread of its own, for a filter cannot be taken away again."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            with fails() as injection:
                test(injection)
        except BaseException as error:  # noqa: BLE001  # raised again where it is seen
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


@pytest.mark.parametrize("times", [1, 3, ALWAYS], ids=["once", "three times", "always"])
@pytest.mark.parametrize(
    "error", [errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM], ids=errno.errorcode.get
)
def test_requests_are_answered_although_the_kernel_takes_none(
    make_pair: MakePair, image: tuple[int, bytes], error: int, times: int
) -> None:
    fd, content = image

    def test(injection: Injection) -> None:
        pair, handler = prepared(make_pair, 128), Handler()
        fast_path = FileFastPath(fd, len(content), io_uring=True)
        injection.error, injection.times = error, times
        buffers = []
        for number in range(16):
            buffers.append(pair.buffer(BLOCK + 1))
            pair.queue.add([pair.buffer(header(READ, number * 8))], [buffers[-1]])
        pair.queue.publish()
        # In one go: whatever is under way afterwards is in the kernel.
        assert len(process(pair, fast_path, handler, expect=16)) == 16
        assert injection.count > 0
        for number, buffer in enumerate(buffers):
            assert pair.memory.read(*buffer) == content[number * BLOCK : (number + 1) * BLOCK] + b"\0"
        assert fast_path.statistics()["under_way"] == 0
        assert handler.seen == []
        fast_path.close()

    under_injection(test)


def test_what_was_taken_back_is_not_submitted_later(make_pair: MakePair, image: tuple[int, bytes]) -> None:
    """A write that was carried out otherwise must not happen once more, over what came after it."""
    fd, content = image

    def test(injection: Injection) -> None:
        fast_path = FileFastPath(fd, len(content), io_uring=True)
        handler = Handler()
        for turn in range(40):  # more entries in all than the queue has room for
            pair = prepared(make_pair, 64)
            injection.error, injection.times = errno.EAGAIN, ALWAYS if turn % 20 < 18 else 0
            for number in range(8):
                pair.add([header(WRITE, number * 8), bytes((turn,)) * BLOCK], [1])
            assert len(process(pair, fast_path, handler, expect=8)) == 8
            assert os.pread(fd, 8 * BLOCK, 0) == bytes((turn,)) * 8 * BLOCK
            # The session ends, and its memory goes.
            pair.vring.stop()
            pair.guest.close()
        assert injection.count >= 36
        assert handler.seen == []
        assert fast_path.statistics()["under_way"] == 0
        fast_path.close()

    under_injection(test)


def test_a_part_of_the_queue_goes_and_the_rest_is_carried_out_here(
    make_pair: MakePair, image: tuple[int, bytes]
) -> None:
    """Failures between large requests, each of which is submitted at once, and at the end of the batch."""
    fd, content = image

    def test(injection: Injection) -> None:
        pair, handler = prepared(make_pair, 128), Handler()
        fast_path = FileFastPath(fd, len(content), io_uring=True)
        whole = [([pair.buffer(header(READ, 0))], [pair.buffer(len(content) + 1)]) for _ in range(3)]
        blocks = [([pair.buffer(header(READ, 8))], [pair.buffer(BLOCK + 1)]) for _ in range(6)]
        for turn in range(20):
            injection.error, injection.times = errno.EBUSY, turn % 4
            for readable, writable in (whole[0], *blocks[:3], *whole[1:], *blocks[3:]):
                pair.queue.add(readable, writable)
            pair.queue.publish()
            assert len(process(pair, fast_path, handler, expect=9)) == 9
            for _, ((address, length),) in whole:
                assert pair.memory.read(address, length) == content + b"\0"
                pair.memory.write(address, bytes(length))
            for _, ((address, length),) in blocks:
                assert pair.memory.read(address, length) == content[BLOCK : 2 * BLOCK] + b"\0"
                pair.memory.write(address, bytes(length))
        assert injection.count > 0
        assert handler.seen == []
        fast_path.close()

    under_injection(test)


@pytest.mark.parametrize("error", ["EAGAIN", "EBUSY", "EINTR", "EPERM"])
def test_C142_SIGTERM_ends_a_disk_whose_io_uring_always_fails(tmp_path: Path, error: str) -> None:
    image, path = tmp_path / "disk.img", tmp_path / "disk.sock"
    image.write_bytes(os.urandom(1 << 20))
    command = [sys.executable, "-m", "tests.support.seccomp", error, sys.executable, "-m", "vhost_user.cli"]
    command += ["serve", "blk", f"--socket-path={path}", f"--blk-file={image}"]
    with programs() as running:
        daemon = running.start(command)
        wanted = int(VirtioFeature.VERSION_1 | BlkFeature.FLUSH)
        for _ in range(3):
            with connected(path, wanted, daemon) as disk:
                assert disk.read(0, 2048) == image.read_bytes()
                disk.write(8, b"x" * 4096)
                assert disk.read(8, 8) == b"x" * 4096
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0


def connected(path: Path, features: int, daemon: subprocess.Popen[str]) -> BlockDriver:
    """A driver as soon as somebody listens."""
    while True:
        try:
            return BlockDriver(str(path), features=features)
        except SocketError:
            assert daemon.poll() is None
            time.sleep(0.02)
