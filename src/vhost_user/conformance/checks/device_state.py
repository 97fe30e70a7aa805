"""Moving the state of a device (C122 to C127)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.refusals import refusals, refused
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import RequestRefused, VhostUserError
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import TransferState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
SMALLEST_PIPE = 4096
"""Bytes that a pipe holds, at least."""


@check(
    "C122-running",
    MUST,
    "Migrating device state",
    "Device state is transferred only while all rings are stopped.",
)
def state_running(context: CheckContext) -> None:
    """SET_DEVICE_STATE_FD is refused while a ring runs."""
    context.need(ProtocolFeature.DEVICE_STATE)
    driver = context.driver()
    _read, write = context.fds.tell_tale()
    refused(driver.frontend, REQUEST.SET_DEVICE_STATE_FD, TransferState(0, 0), "a running ring", (write,))


@check("C122-numbers", ROBUSTNESS, "Migrating device state", "Direction is 0 or 1, phase is 0.")
def state_numbers(context: CheckContext) -> None:
    """SET_DEVICE_STATE_FD with an unknown direction or phase is refused."""
    context.need(ProtocolFeature.DEVICE_STATE)
    _read, write = context.fds.tell_tale()
    refusals(
        context.session,
        [
            (REQUEST.SET_DEVICE_STATE_FD, TransferState(2, 0), "direction 2"),
            (REQUEST.SET_DEVICE_STATE_FD, TransferState(0, 1), "phase 1"),
        ],
        write,
    )


@check("C124-save-and-load", MUST, "Migrating device state", "What a device saves it can load again.")
def save_and_load(context: CheckContext) -> None:
    """Device state that was saved can be loaded, and both are reported as done."""
    context.need(ProtocolFeature.DEVICE_STATE)
    state = _transfer(context, direction=0)
    _transfer(context, direction=1, data=state)


@check(
    "C124-slow-reader",
    MUST,
    "Migrating device state",
    "The back-end answers while its state is moved: the front-end may read it later.",
)
def slow_reader(context: CheckContext) -> None:
    """Messages are answered while nobody reads the state, and the state is whole afterwards."""
    context.need(ProtocolFeature.DEVICE_STATE)
    frontend = context.session()
    read, write = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    ours = _begin(frontend, 0, read, write)
    try:
        frontend.get_features()
    except VhostUserError as error:
        os.close(ours)
        raise Deviation(f"GET_FEATURES while the state is not read: {error}") from error
    _finish(context, frontend, ours, direction=0)


@check(
    "C127-bad-state",
    ROBUSTNESS,
    "Migrating device state",
    "A state that is cut short, or is none, is refused, and the back-end lives.",
)
def bad_state(context: CheckContext) -> None:
    """States that are cut short or foreign are refused, and the back-end answers afterwards."""
    context.need(ProtocolFeature.DEVICE_STATE)
    state = _transfer(context, direction=0)
    if not state:
        raise Skip("the device's state has no bytes")
    for name, data in (
        ("the first half of its state", state[: len(state) // 2]),
        ("its state without the last byte", state[:-1]),
        ("bytes that are not its state", b"\xff" * 64),
    ):
        frontend = context.session()
        read, write = os.pipe2(os.O_CLOEXEC)
        ours = _begin(frontend, 1, write, read)
        _move(context, frontend, ours, direction=1, data=data)
        try:
            frontend.check_device_state()
        except RequestRefused:
            pass
        except VhostUserError as error:
            raise Deviation(f"CHECK_DEVICE_STATE after {name}: {error}") from error
        else:
            raise Deviation(f"CHECK_DEVICE_STATE says that {name} was loaded")
        frontend.get_features()


@check("C125-no-transfer", SHOULD, "Migrating device state", "CHECK_DEVICE_STATE tells how a transfer went.")
def no_transfer(context: CheckContext) -> None:
    """CHECK_DEVICE_STATE without a transfer reports a failure."""
    context.need(ProtocolFeature.DEVICE_STATE)
    refusals(context.session, [(REQUEST.CHECK_DEVICE_STATE, b"", "no transfer before")])


def _transfer(context: CheckContext, *, direction: int, data: bytes = b"") -> bytes:
    frontend = context.session()
    read, write = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (read, write) if direction == 0 else (write, read)
    ours = _begin(frontend, direction, ours, theirs)
    return _finish(context, frontend, ours, direction=direction, data=data)


def _begin(frontend: Frontend, direction: int, ours: int, theirs: int) -> int:
    """Send one end of a pipe away; the end that is used here, which may be another one (C123)."""
    try:
        other = frontend.set_device_state_fd(theirs, direction)
    except VhostUserError as error:
        os.close(ours)
        raise Deviation(f"direction {direction}: {error}") from error
    finally:
        os.close(theirs)
    if other is not None:
        os.close(ours)
        return other
    return ours


def _finish(
    context: CheckContext, frontend: Frontend, ours: int, *, direction: int, data: bytes = b""
) -> bytes:
    state = _move(context, frontend, ours, direction=direction, data=data)
    try:
        frontend.check_device_state()
    except VhostUserError as error:
        raise Deviation(f"CHECK_DEVICE_STATE after direction {direction}: {error}") from error
    return state


def _move(context: CheckContext, frontend: Frontend, ours: int, *, direction: int, data: bytes) -> bytes:
    """Write or read all of it, and close ``ours``."""
    chunks: list[bytes] = []

    def move() -> None:
        with contextlib.suppress(OSError), os.fdopen(ours, "rb" if direction == 0 else "wb") as file:
            if direction == 0:
                chunks.append(file.read())
            else:
                file.write(data)

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    thread.join(context.timeout)
    if thread.is_alive():
        frontend.close()
        raise Deviation(f"the transfer does not end within {context.timeout} s")
    return b"".join(chunks)
