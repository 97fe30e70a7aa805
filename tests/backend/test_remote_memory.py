"""Guest memory on file systems that are not known to be local: C036, H85.

A network or FUSE file system cannot be had in a test without risking that it hangs in the kernel for ever; a
file of sysfs is regular, has a page, and lies on a file system that is not in the list either.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.backend.conftest import Stage
from vhost_user import Device, Request, RequestRefused, VhostUserDaemon
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.region import MemoryRegion
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Memory
from vhost_user.spec.structs import MemoryRegion as Region

PAGE = 4096
FOREIGN = "/sys/kernel/uevent_seqnum"


class Quiet(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.fill(1)


@pytest.fixture
def foreign() -> Iterator[int]:
    fd = os.open(FOREIGN, os.O_RDONLY)
    assert os.fstat(fd).st_size >= PAGE
    yield fd
    os.close(fd)


def test_C036_a_region_on_a_strange_file_system_is_refused_in_words(foreign: int) -> None:
    with pytest.raises(MemoryTableError, match=r"not known to be local.*--allow-remote-memory") as refused:
        MemoryRegion(foreign, guest_address=0, size=PAGE)
    assert refused.value.rule == "C036"
    # Allowed, it goes on to what this file system can do: it cannot be mapped.
    with pytest.raises(MemoryTableError) as other:
        MemoryRegion(foreign, guest_address=0, size=PAGE, allow_remote=True)
    assert "not known to be local" not in str(other.value)


@pytest.mark.parametrize("allowed", [False, True])
def test_C036_H85_a_front_end_is_told_and_the_session_goes_on(
    stage: Stage, foreign: int, allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    ours, theirs = socket.socketpair()
    with VhostUserDaemon("quiet", Quiet(), allow_remote_memory=allowed) as daemon:
        daemon.start_connection(theirs)
        front = stage.front_end(ours)
        front.negotiate()
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_MEM_TABLE, Memory((Region(1 << 30, PAGE, 1 << 30, 0),)), [foreign])
        assert ("not known to be local" in caplog.text) is not allowed
        front.share_memory()
        front.start_ring()
        assert front.request(writable=4) == b"\1\1\1\1"
