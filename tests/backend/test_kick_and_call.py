"""The descriptors of a ring's kicks and calls, over the socket: C065 to C068, H84."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from tests.support.front_end import quiet
from vhost_user import RequestRefused
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import VringFd

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def test_C065_a_replaced_call_fd_is_signalled_once_and_used(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [other])
    assert os.eventfd_read(other) == 1
    front.post(readable=b"abc", writable=3)
    assert select.select([other], [], [], 10)[0]
    os.close(other)


def test_C065_call_and_err_may_come_before_everything_else(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    event = os.eventfd(0)
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [event], need_reply=False)
    front.call(Ask.SET_VRING_ERR, VringFd.of(0), [event], need_reply=False)
    front.bring_up()
    assert front.request(readable=b"abc", writable=3) == b"cba"
    os.close(event)


def test_C066_a_replaced_kick_fd_works_and_the_old_one_is_no_longer_listened_to(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    old = os.dup(front.rings[0].kick_fd)
    new = os.eventfd(0)
    front.call(Ask.SET_VRING_KICK, VringFd.of(0), [new])
    before = daemon.vrings[0].statistics()["kicks"]
    # The old eventfd is still open here: had it only been closed over there, it would still wake the worker.
    os.eventfd_write(old, 1)
    for _ in range(3):
        front.post(readable=b"abc", writable=3, kick=False)
        os.eventfd_write(new, 1)
        assert front.collect()[1] == 3
    wakeups = daemon.get_epoll_handlers()[0].statistics()["wakeups"]
    assert quiet(front)
    assert daemon.get_epoll_handlers()[0].statistics()["wakeups"] - wakeups <= 3, "the old fd is waited for"
    assert os.eventfd_read(old) >= 1
    assert daemon.vrings[0].statistics()["kicks"] - before <= 3
    os.close(old)
    os.close(new)


def test_C066_a_kick_pending_on_the_old_fd_is_not_lost(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    front.enable(on=False)
    front.post(readable=b"abc", writable=3, kick=False)
    front.rings[0].kick(force=True)
    new = os.eventfd(0)
    front.call(Ask.SET_VRING_KICK, VringFd.of(0), [new])
    front.enable()
    assert front.collect()[1] == 3
    os.close(new)


def test_C067_kick_and_call_may_be_pipes(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    kick_read, kick_write = os.pipe()
    call_read, call_write = os.pipe()
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [call_write])
    front.call(Ask.SET_VRING_KICK, VringFd.of(0), [kick_read])
    front.enable()
    for _ in range(3):
        front.post(readable=b"abc", writable=3, kick=False)
        os.write(kick_write, (1).to_bytes(8, "little"))
        assert select.select([call_read], [], [], 10)[0]
        os.read(call_read, 4096)
        assert front.rings[0].poll() is not None
        front.rings[0].enable_notifications()
    for fd in (kick_read, kick_write, call_read, call_write):
        os.close(fd)


@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_C068_a_kick_fd_keeps_its_mode_and_never_blocks_the_worker(stage: Stage, flags: int) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    kick = os.eventfd(0, flags)
    front.call(Ask.SET_VRING_KICK, VringFd.of(0), [kick])
    front.enable()
    assert os.get_blocking(kick) is (flags == 0)
    for _ in range(3):
        front.post(readable=b"abc", writable=3, kick=False)
        os.eventfd_write(kick, 1)
        assert front.collect()[1] == 3
    os.close(kick)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_H84_a_kick_fd_that_cannot_be_waited_for_is_refused(stage: Stage, what: str) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    fd = os.open("/", os.O_RDONLY) if what == "directory" else os.memfd_create("kick")
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_KICK, VringFd.of(0), [fd])
    os.close(fd)
    assert daemon.vrings[0].has_kick
    assert front.request(readable=b"abc", writable=3) == b"cba"
