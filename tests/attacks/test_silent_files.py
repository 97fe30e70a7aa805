"""Files whose server never answers, sent as memory, as a doorbell, or for nothing (C036, C067, H84, H85).

The server is a process of its own: whoever waits for it waits in the kernel, where no signal ends that. So it
is gone before this process closes its own descriptor of the file, and no process is started while that is
open: the new one would close its copy, and wait.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.victims import Filler
from tests.support.front_end import PATIENCE, FrontEnd, until
from tests.support.programs import programs
from vhost_user import RequestRefused, VhostUserDaemon
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.listener import Listener, connect
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Log, Memory, MemoryRegion, MemorySlot, VringFd

PROGRAM = Path(__file__).parents[1] / "support" / "fuse_file.py"
SIZE = 1 << 20


@pytest.fixture
def file_of(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Open a file of a file system in user space, whose server is `honest` or `silent`."""
    with programs() as running, ExitStack() as stack:

        def make(kind: str) -> int:
            place = tmp_path / kind
            place.mkdir()
            server = running.python(PROGRAM, place, SIZE, kind, stdin=subprocess.PIPE)
            assert server.stdout is not None
            assert server.stderr is not None
            if server.stdout.readline() != "mounted\n":
                server.wait(10)
                pytest.skip(f"no file system in user space here: {server.stderr.read().strip()}")
            fd = os.open(place / "memory", os.O_RDWR | os.O_CLOEXEC)
            # Called in the opposite order: first the server ends, and with it every wait.
            stack.callback(unmount, place)
            stack.callback(close_late, fd)
            stack.callback(server.communicate, "", timeout=30)
            return fd

        yield make


def unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def close_late(fd: int) -> None:
    with suppress(OSError):  # the server is gone, and the kernel says so
        os.close(fd)


def test_C036_H85_memory_in_a_file_whose_server_is_silent(
    arena: Callable[..., Any], file_of: Callable[[str], int]
) -> None:
    with arena("rng") as attack:
        fd = file_of("silent")
        front = attack.front_end()
        front.negotiate()
        for _ in range(3):
            with pytest.raises(RequestRefused):
                front.call(Ask.SET_MEM_TABLE, Memory((MemoryRegion(1 << 30, SIZE, 1 << 30, 0),)), [fd])
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_LOG_BASE, Log(4096, 0), [fd])
        attack.wait_in_log("which is not known to be local")
        front.share_memory()
        front.start_ring()
        assert len(front.request(writable=8)) == 8


@pytest.mark.parametrize("ask", [Ask.SET_VRING_KICK, Ask.SET_VRING_CALL, Ask.SET_VRING_ERR])
def test_C067_H84_a_file_whose_server_is_silent_as_a_doorbell(
    arena: Callable[..., Any], file_of: Callable[[str], int], ask: Ask
) -> None:
    with arena("rng") as attack:
        fd = file_of("silent")
        front = attack.front_end()
        front.negotiate()
        front.share_memory()
        with pytest.raises(RequestRefused):
            front.call(ask, VringFd.of(0), [fd])
        assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_H84_a_file_whose_server_is_silent_with_a_message_that_has_none(
    arena: Callable[..., Any], file_of: Callable[[str], int]
) -> None:
    with arena("rng") as attack:
        fd = file_of("silent")
        attack.connect().send(Message(encode(Ask.SET_OWNER, 1), (fd,)))


def test_C036_an_honest_file_in_user_space_serves_where_it_is_allowed(
    file_of: Callable[[str], int], tmp_path: Path
) -> None:
    fd = file_of("honest")
    path = tmp_path / "filler"
    with (
        VhostUserDaemon("filler", Filler(), allow_remote_memory=True) as daemon,
        Listener.bind(path) as listener,
    ):
        daemon.start(listener)
        front = FrontEnd(connect(path, timeout=PATIENCE))
        try:
            front.negotiate()
            front.share_memory()
            front.call(Ask.ADD_MEM_REG, MemorySlot(MemoryRegion(1 << 40, SIZE, 1 << 40, 0)), [fd])
            front.start_ring()
            ring = front.rings[0]
            ring.write_descriptor(0, (1 << 40) + 100, 8, 2, 0)
            ring.write_avail(0, 0)
            ring.set_avail_index(1)
            ring.kick(force=True)
            until(lambda: os.pread(fd, 10, 99) == b"\0" + b"\xaa" * 8 + b"\0", "the answer")
        finally:
            front.close()
            daemon.close()
