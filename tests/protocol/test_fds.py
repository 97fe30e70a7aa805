"""Ownership of descriptors."""

import os

import pytest

from vhost_user.protocol.fds import OwnedFds, close_all


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_is_not_taken_is_closed() -> None:
    every = [os.eventfd(0) for _ in range(3)]
    taken, *rest = every
    with OwnedFds(every) as fds:
        assert len(fds) == 3
        assert repr(fds) == f"OwnedFds({every})"
        assert fds.take_one() == taken
    assert is_open(taken)
    assert not any(map(is_open, rest))
    os.close(taken)


def test_taking_hands_over_all() -> None:
    fds = OwnedFds([os.eventfd(0)])
    fds.add([os.eventfd(0)])
    taken = fds.take()
    fds.close()
    assert len(taken) == 2
    assert all(map(is_open, taken))
    assert fds.take_one() is None
    close_all(taken)


def test_a_descriptor_that_is_closed_already_does_not_stop_the_others() -> None:
    gone, other = os.eventfd(0), os.eventfd(0)
    os.close(gone)
    close_all([gone, other])
    assert not is_open(other)


def test_H13_forgotten_descriptors_are_closed_and_told() -> None:
    fd = os.eventfd(0)
    with pytest.warns(ResourceWarning, match="neither taken nor closed"):
        OwnedFds([fd]).__del__()
    assert not is_open(fd)
