"""The descriptors that a ring is told by and tells by: C052, C065 to C068, C073, H87."""

from __future__ import annotations

import os
import select

import pytest

from tests.engine.pair import MakePair
from tests.engine.serving import complete_one
from vhost_user.engine.errors import RingError


def test_C052_a_ring_without_call_fd_signals_nobody(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.set_call(None)
    assert not pair.vring.has_call
    assert complete_one(pair) == 0
    assert not pair.vring.signal_used_queue()


# ---------------------------------------------------------------------- doorbells
def test_C065_a_new_call_fd_is_signalled_once(make_pair: MakePair) -> None:
    pair = make_pair()
    fresh = os.eventfd(0, os.EFD_NONBLOCK)
    pair.vring.set_call(os.dup(fresh))
    assert os.eventfd_read(fresh) == 1
    assert complete_one(pair) == 0
    assert os.eventfd_read(fresh) == 1
    os.close(fresh)


def test_C065_a_call_fd_before_the_start_is_not_signalled(make_pair: MakePair) -> None:
    pair = make_pair(start=False)
    assert pair.queue.call_count() == 0


@pytest.mark.parametrize("blocking", [False, True])
def test_C067_H87_a_full_call_fd_stops_nobody(make_pair: MakePair, blocking: bool) -> None:
    pair = make_pair()
    fd = os.eventfd(0, 0 if blocking else os.EFD_NONBLOCK)
    os.eventfd_write(fd, 0xFFFF_FFFF_FFFF_FFFE)
    pair.vring.set_call(os.dup(fd))
    for _ in range(3):
        complete_one(pair)
    assert os.eventfd_read(fd) >= 0xFFFF_FFFF_FFFF_FFFE
    complete_one(pair)
    assert os.eventfd_read(fd) == 1
    assert os.get_blocking(fd) == blocking  # C068
    os.close(fd)


@pytest.mark.parametrize("blocking", [False, True])
def test_C067_H87_a_full_pipe_as_call_stops_nobody(make_pair: MakePair, blocking: bool) -> None:
    pair = make_pair()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, blocking)
    pair.vring.set_call(writing)
    for _ in range(3):
        complete_one(pair)
    os.set_blocking(reading, False)
    while select.select([reading], [], [], 0)[0]:
        os.read(reading, 65536)
    complete_one(pair)
    assert os.read(reading, 64) == (1).to_bytes(8, "little")
    os.close(reading)


def test_C067_a_call_pipe_whose_reader_went_away_is_harmless(make_pair: MakePair) -> None:
    pair = make_pair()
    reading, writing = os.pipe()
    pair.vring.set_call(writing)
    os.close(reading)
    assert complete_one(pair) == 0


def test_C066_replacing_the_kick_closes_the_old_one(make_pair: MakePair) -> None:
    pair = make_pair()
    old = pair.vring.kick
    pair.vring.set_kick(os.dup(pair.queue.kick_fd))
    assert pair.vring.kick != old
    with pytest.raises(OSError):
        os.fstat(old)
    pair.vring.set_kick(None)
    assert (pair.vring.has_kick, pair.vring.kick) == (False, -1)


def test_C073_the_error_fd_is_signalled_when_the_ring_breaks(make_pair: MakePair) -> None:
    pair = make_pair()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    pair.vring.set_err(os.dup(fd))
    if pair.packed:
        pair.ring.write_descriptor(0, 0, 16, 0, 0x80 | 4 | 1)
    else:
        pair.make_available(99)
    pair.refused()
    assert os.eventfd_read(fd) == 1
    os.close(fd)


def test_C073_a_ring_that_the_device_refuses_is_as_a_broken_one_until_it_starts_again(
    make_pair: MakePair,
) -> None:
    pair = make_pair()
    vring = pair.vring
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    vring.set_err(os.dup(fd))
    held = pair.serve([b"x"], [4])
    reason = RingError("not while the other has it", rule="", queue=vring.index)
    for _ in range(2):  # the second has nothing to add
        vring.refuse(reason)
    assert (vring.runnable, vring.broken) == (False, reason)
    assert os.eventfd_read(fd) == 1
    waiting = pair.add([b"ping"], [4])
    assert vring.pop() is None
    held.complete()  # what is in flight comes back all the same
    assert pair.queue.poll() is not None
    vring.stop()
    vring.refuse(reason)
    assert not select.select([fd], [], [], 0)[0], "a stopped ring is refused"
    vring.start()
    assert (vring.runnable, vring.broken) == (True, None)
    request = vring.pop()
    assert request is not None
    request.complete()
    used = pair.queue.poll()
    assert used is not None
    assert used[0] == waiting
    os.close(fd)
