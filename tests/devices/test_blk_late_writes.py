"""A write that a front-end left behind, still under way when the next front-end has come (C134, C139).

It must not overwrite what is written after it to the same place, so nobody is served before it has ended.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.front_end import REQUEST, FrontEnd, until
from vhost_user import Listener, Request, VhostUserDaemon
from vhost_user.devices import Blk, FileStorage
from vhost_user.engine.blk.file_fast_path import FileFastPath, liburing_built
from vhost_user.protocol.transport import Connection
from vhost_user.spec.blk import BlkConfig
from vhost_user.spec.structs import Config

SIZE = 1 << 20
OLD, NEW = b"\x55" * 4096, b"\xaa" * 4096


def write(data: bytes) -> bytes:
    return (1).to_bytes(4, "little") + bytes(12) + data


class SlowFile(FileStorage):
    """The first write waits until it is let go; the others do not."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.let_go = threading.Event()
        self.began = threading.Event()

    def write(self, request: Request, offset: int, length: int) -> int:
        if not self.began.is_set():
            self.began.set()
            self.let_go.wait(60)
        return super().write(request, offset, length)


class InTheKernel(FileStorage):
    """The fast path of queue 0 writes to a full pipe: io_uring has the write until somebody reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.out, self.into = os.pipe()
        self.filled = fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 4096)
        os.write(self.into, bytes(self.filled))
        self.made: list[FileFastPath] = []

    def fast_path(self, *, read_only: bool) -> FileFastPath:
        fd = self.fd if self.made else self.into
        self.made.append(FileFastPath(fd, self.size, read_only=read_only, io_uring=True))
        return self.made[-1]

    def give_up(self) -> None:
        """Whatever waits for room in the pipe fails; for the end of a test that went wrong."""
        os.close(self.out)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.into)
        super().close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Served:
    """A disk at a socket, and whatever connects to it."""

    def __init__(self, storage: FileStorage, folder: Path, stack: ExitStack) -> None:
        self._path = folder / "s"
        self._stack = stack
        self.disk = Blk(storage, num_queues=2, workers=2)
        stack.callback(self.disk.close)
        daemon = stack.enter_context(VhostUserDaemon("disk", self.disk))
        daemon.start(stack.enter_context(Listener.bind(self._path)))

    def connect(self) -> FrontEnd:
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(str(self._path))
        front_end = FrontEnd(Connection(ours))
        self._stack.callback(front_end.close)
        front_end.negotiate()
        front_end.share_memory()
        # A driver that has read it knows that the disk is write-back; only then the fast path takes writes.
        front_end.call(REQUEST.GET_CONFIG, Config(BlkConfig.WRITEBACK_OFFSET, bytes(1), 0))
        for queue in range(2):
            front_end.start_ring(queue)
        return front_end


def waits(front: FrontEnd, caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """A write to queue 1, which does not come back: its token, and the address of its status."""
    token, address = front.post(1, write(NEW), 1)
    until(lambda: "queue 1 waits: requests of the session before" in caplog.text, "the wait")
    for _ in range(20):
        front.rings[1].kick()
        assert front.call(REQUEST.GET_FEATURES).value
        assert front.rings[1].poll() is None, "served while a write of the session before may still come"
    return token, address


def carried_out(front: FrontEnd, token: int, address: int) -> None:
    """The write has come back, and has gone well."""
    assert front.collect(1) == (token, 1)
    assert front.memory.read(address, 1) == b"\0"


@pytest.mark.parametrize("how", ["gone", "reset"])
def test_C134_a_handler_of_the_session_before_ends_first(
    how: str, image: Path, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    storage = SlowFile(image)
    served = Served(storage, tmp_path, stack)
    stack.callback(storage.let_go.set)
    first = served.connect()
    first.post(0, write(OLD), 1)
    assert storage.began.wait(10)
    if how == "gone":
        first.close()
        second = served.connect()
    else:
        second = first
        second.call(REQUEST.RESET_DEVICE)
        second.enable(1)
    # By another queue, which has a worker of its own.
    waiting = waits(second, caplog)
    storage.let_go.set()
    carried_out(second, *waiting)
    assert image.read_bytes()[:4096] == NEW


def test_C134_what_the_kernel_has_of_the_session_before_ends_first(
    image: Path, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    assert liburing_built(), "these tests want liburing-dev when the engine is built"
    storage = InTheKernel(image)
    served = Served(storage, tmp_path, stack)
    stack.callback(storage.give_up)
    first = served.connect()
    first.post(0, write(OLD), 1)
    until(lambda: storage.made[0].statistics()["under_way"] == 1, "the write by io_uring")
    first.close()
    second = served.connect()
    waiting = waits(second, caplog)
    os.read(storage.out, storage.filled)
    carried_out(second, *waiting)
    assert os.read(storage.out, 4096) == OLD
    assert image.read_bytes()[:4096] == NEW
