"""Moving the state of a device over a pipe, bounded in size and time (C122 to C125, H110)."""

import os
import select
import time

from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import PeerTimeout, ProtocolError
from vhost_user.spec.structs import TransferDirection

MAX_STATE = 256 << 20
"""Bytes of state that are taken from a back-end."""
PIECE = 1 << 20


def save_device_state(frontend: Frontend, *, limit: int = MAX_STATE, timeout: float = 30.0) -> bytes:
    """The device's state, read until the back-end closes the pipe, and checked.

    Raises ProtocolError when there are more than ``limit`` bytes, PeerTimeout when the end does not come
    within ``timeout`` seconds (H110), RequestRefused when the back-end says that it failed.
    """
    fd = _begin(frontend, TransferDirection.SAVE)
    state = bytearray()
    try:
        deadline = time.monotonic() + timeout
        while True:
            _wait(fd, select.POLLIN, deadline)
            piece = os.read(fd, PIECE)
            if not piece:
                break
            state += piece
            if len(state) > limit:
                raise ProtocolError(
                    f"the state has more than {limit} bytes", rule="H110", message="SET_DEVICE_STATE_FD"
                )
    finally:
        os.close(fd)
    frontend.check_device_state()
    return bytes(state)


def load_device_state(frontend: Frontend, state: bytes, *, timeout: float = 30.0) -> None:
    """Hand ``state`` to the device.

    Raises PeerTimeout when it does not read, RequestRefused when it says no (C125).
    """
    fd = _begin(frontend, TransferDirection.LOAD)
    try:
        os.set_blocking(fd, False)
        deadline = time.monotonic() + timeout
        rest = memoryview(state)
        while rest:
            _wait(fd, select.POLLOUT, deadline)
            rest = rest[os.write(fd, rest[:PIECE]) :]
    finally:
        os.close(fd)
    frontend.check_device_state()


def _begin(frontend: Frontend, direction: TransferDirection) -> int:
    """Make a pipe and send the back-end's end away; our end, which the caller owns.

    The back-end may answer with a descriptor of its own: that is our end then (C123).
    """
    reading, writing = os.pipe()
    theirs, ours = (writing, reading) if direction is TransferDirection.SAVE else (reading, writing)
    try:
        other = frontend.set_device_state_fd(theirs, direction)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    if other is None:
        return ours
    os.close(ours)
    return other


def _wait(fd: int, events: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, events)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000) or time.monotonic() > deadline:
        raise PeerTimeout("the transfer of the device's state did not end in time", rule="H110")
