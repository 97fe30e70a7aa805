"""Memory on file systems that may never answer, here one in user space (C036, H85)."""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vhost_user import VhostUserDaemon
from vhost_user.backend.serve import add_serve_arguments, serve_options
from vhost_user.devices import Rng
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory import Bitmap, MemoryRegion
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Log, Memory
from vhost_user.spec.structs import MemoryRegion as Region

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

SIZE = 1 << 20
LOOKUP, GETATTR, OPEN, INIT, OPENDIR = 1, 3, 14, 26, 27
MNT_DETACH = 2


class Fuse:
    """A file system with one file, `memory`. It looks it up and opens it; reads it does not answer."""

    def __init__(self, at: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._at = str(at).encode()
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if self._libc.mount(b"test", self._at, b"fuse.test", 0, options) != 0:
            number = ctypes.get_errno()
            os.close(self._device)
            pytest.fail(f"a FUSE file system cannot be mounted here: {os.strerror(number)}")
        self._thread = threading.Thread(target=self._serve, name="fuse")
        self._thread.start()

    def close(self) -> None:
        self._libc.umount2(self._at, MNT_DETACH)
        self._thread.join(10)

    def _serve(self) -> None:
        try:
            self._answer_all()
        except OSError:
            return  # unmounted
        finally:
            # Aborts whoever waits for an answer.
            os.close(self._device)

    def _answer_all(self) -> None:
        while True:
            request = os.read(self._device, 1 << 17)
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            answer = self._answer(operation, node)
            if answer is not None:
                os.write(self._device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)

    def _answer(self, operation: int, node: int) -> bytes | None:
        if operation == INIT:
            return struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0) + bytes(28)
        if operation == LOOKUP:
            return struct.pack("<QQQQII", 2, 0, 60, 60, 0, 0) + self._attributes(2)
        if operation == GETATTR:
            return struct.pack("<QII", 60, 0, 0) + self._attributes(node)
        if operation in {OPEN, OPENDIR}:
            return struct.pack("<QII", 1, 0, 0)
        return None

    def _attributes(self, node: int) -> bytes:
        mode = 0o40777 if node == 1 else 0o100666
        return struct.pack("<6Q10I", node, SIZE, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextmanager
def remote_file(at: Path) -> Iterator[int]:
    """A file of a FUSE file system, open."""
    at.mkdir()
    fuse = Fuse(at)
    try:
        fd = os.open(at / "memory", os.O_RDWR)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        fuse.close()


def test_C036_memory_in_user_space_is_refused_in_words(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, front = stage.serve(Rng())
    front.bring_up()
    with remote_file(tmp_path / "fuse") as fd:
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_MEM_TABLE, Memory((Region(0, SIZE, 0),)), [fd])
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_LOG_BASE, Log(SIZE, 0), [fd])
    assert "user space (FUSE)" in caplog.text
    assert "--allow-remote-memory" in caplog.text
    assert "[C036]" in caplog.text
    assert "[C082]" in caplog.text
    assert len(front.request(writable=8)) == 8


def test_C036_the_engine_says_what_to_do(tmp_path: Path) -> None:
    with remote_file(tmp_path / "fuse") as fd:
        with pytest.raises(MemoryTableError, match=r"FUSE.*allow_remote_memory=True.*C036"):
            MemoryRegion(fd, guest_address=0, size=SIZE)
        with pytest.raises(MemoryTableError, match="C082"):
            Bitmap().map(fd, SIZE)
        assert MemoryRegion(fd, guest_address=0, size=SIZE, allow_remote=True).size == SIZE


def test_C036_a_daemon_can_be_told_to_take_it(stage: Stage, tmp_path: Path) -> None:
    with VhostUserDaemon("remote", Rng(), allow_remote_memory=True) as daemon:
        ours, theirs = socket.socketpair()
        daemon.start_connection(theirs)
        front = stage.front_end(ours)
        front.negotiate()
        with remote_file(tmp_path / "fuse") as fd:
            front.call(Ask.SET_MEM_TABLE, Memory((Region(0, SIZE, 0),)), [fd])
            assert [region.size for region in daemon.memory.memory().regions] == [SIZE]


@pytest.mark.parametrize("given", [False, True])
def test_the_option_of_the_command(given: bool) -> None:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    argv = ["--socket-path=x", *(["--allow-remote-memory"] if given else [])]
    assert serve_options(parser.parse_args(argv)).allow_remote_memory is given
