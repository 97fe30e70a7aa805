"""Giving a session to another process: rings at rest between two requests, and everything written down.

Until the successor is told to go on, the session is ours, and whatever goes wrong has it go on here. From
then on it is the successor's, and nothing here touches guest memory again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.backend import device_state
from vhost_user.backend.draining import OVERDUE_DRAIN
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import ProtocolFeature

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.backend.ring import Ring
    from vhost_user.backend.state import SessionState
    from vhost_user.protocol.transport import Connection

Record = dict[str, Any]
"""Plain data, as docs/upgrade.md lists it. Descriptors are their places in the list that goes with it."""

PATIENCE = 5.0
"""Seconds that requests in flight, and a request on the back channel, may take to end."""
STANDING = ("features_refused", "status", "owned", "_ran", "_prepared", "channel_is_new")
"""What a session knows besides its rings, memory and features."""
NEGOTIATED = (
    "acked_features",
    "acked_protocol_features",
    "features_set",
    "protocol_features_set",
)


class UpgradeError(VhostUserError):
    """There is no successor, or it cannot go on: this process does. The text says why."""


class SuccessorLostError(UpgradeError):
    """The successor had been told to go on and is gone: the front-end has to connect again."""


class Fds:
    """Descriptors to send, by their places; they stay their owners'."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def add(self, fd: int | None) -> int | None:
        """The place of ``fd``; None for none."""
        if fd is None or fd < 0:
            return None
        self.numbers.append(fd)
        return len(self.numbers) - 1


class Handover:
    """One attempt, carried out by the control thread of a daemon between two messages.

    ``give`` hands a record and its descriptors over and returns when the successor has loaded them;
    ``abandon`` makes sure that there is no successor any more; ``commit`` tells it to go on and returns when
    it does. They raise UpgradeError, and ``commit`` SuccessorLostError.
    """

    def __init__(
        self,
        give: Callable[[Record, Sequence[int]], None],
        commit: Callable[[], None],
        abandon: Callable[[], None],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._give = give
        self._commit = commit
        self._abandon = abandon
        self._patience = patience
        self._ended = threading.Event()
        self._claim = threading.Lock()
        """Taken by who carries it out, or withdraws it."""
        self.failure: BaseException | None = None
        """Why it came to nothing."""
        self.pause = 0.0
        """Seconds from the first ring that was held until the successor went on; 0 without a session."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it was carried out; whether it was."""
        return self._ended.wait(timeout)

    def withdraw(self) -> bool:
        """Have nobody carry it out; False when somebody has begun."""
        return self._claim.acquire(blocking=False)

    def refuse(self, error: BaseException) -> None:
        """Nobody is going to carry it out."""
        self.failure = error
        self._ended.set()

    def carry_out(
        self, backend: VhostUserBackend, state: SessionState | None, connection: Connection | None
    ) -> bool:
        """Hand everything over. Whether it is gone, to a successor or with it; else all goes on as before."""
        if not self._claim.acquire(blocking=False):
            return False
        began = time.monotonic()
        running: list[Ring] = []
        try:
            if state is not None:
                running = bring_to_rest(state, self._patience)
            self._give(*written_down(backend, state, connection))
        except BaseException as error:  # noqa: BLE001  # whatever the device raises: it goes on
            self._abandon()
            if state is not None:
                resume(state, running)
            self.refuse(error)
            return False
        try:
            self._commit()
        except SuccessorLostError as error:
            self._abandon()
            self.refuse(error)
            return state is not None
        except BaseException as error:  # noqa: BLE001  # it was never told
            self._abandon()
            if state is not None:
                resume(state, running)
            self.refuse(error)
            return False
        self.pause = time.monotonic() - began if state is not None else 0.0
        self._ended.set()
        return True


def bring_to_rest(state: SessionState, patience: float) -> list[Ring]:
    """Stop all rings with nothing in flight; those that ran.

    UpgradeError, and they run, if it takes too long.
    """
    if state.transfer is not None:
        raise UpgradeError("the device's state is being moved by a migration: try again when that is over")
    if state.negotiation.has_protocol_feature(ProtocolFeature.INBAND_NOTIFICATIONS):
        raise UpgradeError("kicks and calls are messages in this session (INBAND_NOTIFICATIONS)")
    if state.postcopy.active:
        raise UpgradeError("post-copy brings the guest's memory: try again when that is over")
    if state.iommu is not None:
        raise UpgradeError("the translations of the guest's IOMMU are not handed over (ACCESS_PLATFORM)")
    for ring in state.rings:
        ring.runs = ring.vring.started
    running = [ring for ring in state.rings if ring.runs]
    for ring in running:
        if not ring.vring.mapped:
            raise UpgradeError(f"the memory of queue {ring.index} is away: try again when it is back")
    if state.channel is not None:
        state.channel.keep_quiet(True)
        if not state.channel.at_rest(patience):
            state.quiet_down_or_wake()
            raise UpgradeError("a request on the back channel waits for its answer")
    stuck = _pause(state, running, patience)
    if stuck is not None:
        count = stuck.vring.in_flight
        resume(state, running)
        raise UpgradeError(f"{count} requests of queue {stuck.index} did not end within {patience:.3g} s")
    return running


def _pause(state: SessionState, rings: Sequence[Ring], seconds: float) -> Ring | None:
    """Stop rings that run, as ``Draining.bring_to_rest`` does, and within so many seconds.

    While requests are waited for the rings are only held, so that they can go on as if nothing had been.
    Gives the ring whose requests did not end in time; all of them are still started then.
    """
    until = time.monotonic() + seconds
    for ring in rings:
        ring.hold(True)
    for ring in rings:
        patience = state.draining.stopping(ring)
        left = max(0.0, until - time.monotonic())
        if not ring.vring.drain(left if patience is None else min(left, patience)) and patience is None:
            return ring
    for ring in rings:
        ring.stop()
        if not ring.vring.drain(0):
            state.tell("vring_overdue", ring)
            ring.vring.drain(OVERDUE_DRAIN)
            ring.vring.give_back()
        state.tell("vring_stopped", ring)
    return None


def resume(state: SessionState, running: Sequence[Ring]) -> None:
    """Have the rings go on where they are: the upgrade came to nothing."""
    for ring in running:
        if not ring.vring.started:
            with state.starting():
                ring.go_on(state.memory.memory(), guest=state.guest_ring_addresses, event_idx=state.event_idx)
        state.ring_started(ring)
    state.hold_until_driver_ok()
    state.quiet_down_or_wake()


def written_down(
    backend: VhostUserBackend, state: SessionState | None, connection: Connection | None
) -> tuple[Record, list[int]]:
    """Everything that a successor must know, and the descriptors that belong to it."""
    fds = Fds()
    record: Record = {"device": device_state.save(backend), "session": None}
    if state is not None and connection is not None:
        record["session"] = _session(state, connection, fds)
    return record, fds.numbers


def _session(state: SessionState, connection: Connection, fds: Fds) -> Record:
    negotiation = state.negotiation
    memory = state.memory.memory()
    return {
        "connection": fds.add(connection.fileno()),
        "negotiation": {name: getattr(negotiation, name) for name in NEGOTIATED}
        | {"shmem": int(negotiation.shmem)},
        "standing": {name: getattr(state, name) for name in STANDING},
        "memory": [
            {
                "guest_address": region.guest_address,
                "user_address": region.user_address,
                "size": region.size,
                "file_offset": region.file_offset,
                "fd": _kept(state.files.of_region(region), fds, "a memory region"),
            }
            for region in memory.regions
        ],
        "log": _log(state, fds),
        "rings": [_ring(ring, fds) for ring in state.rings],
        "channel": _channel(state, fds),
        "inflight": _inflight(state, fds),
    }


def _kept(fd: int | None, fds: Fds, what: str) -> int | None:
    if fd is None:
        raise UpgradeError(f"the file of {what} could not be kept open (RLIMIT_NOFILE)")
    return fds.add(fd)


def _log(state: SessionState, fds: Fds) -> Record | None:
    if not state.bitmap.mapped:
        return None
    kept = state.files.log
    if kept is None:
        raise UpgradeError("the file of the dirty log could not be kept open (RLIMIT_NOFILE)")
    return {
        "fd": fds.add(kept[0]),
        "size": kept[1],
        "offset": kept[2],
        "notify": fds.add(state.files.log_notify),
    }


def _inflight(state: SessionState, fds: Fds) -> Record | None:
    if state.inflight.area is None:
        return None
    kept = state.files.inflight
    if kept is None:
        raise UpgradeError("the file of the in-flight area could not be kept open (RLIMIT_NOFILE)")
    return {
        "fd": fds.add(kept[0]),
        "size": kept[1],
        "offset": kept[2],
        "queues": kept[3],
        "queue_size": kept[4],
    }


def _ring(ring: Ring, fds: Fds) -> Record:
    vring, addresses = ring.vring, ring.addresses
    return {
        "size": vring.size or None,
        "base": vring.base(),
        "addresses": None
        if addresses is None
        else [addresses.flags, addresses.descriptor, addresses.used, addresses.available, addresses.log],
        "enabled": vring.enabled,
        "kick": fds.add(vring.kick),
        "call": fds.add(vring.call),
        "err": fds.add(vring.err),
        "left_at": ring.left_at,
        "runs": ring.runs,
    }


def _channel(state: SessionState, fds: Fds) -> Record | None:
    channel = state.channel
    if channel is None or channel.closed:
        return None
    return {"fd": fds.add(channel.fileno()), "config_pending": channel.config_pending}
