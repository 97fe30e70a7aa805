"""Things made wrong in our own framework and device, one by one (see mutants.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.rich import Rich
from vhost_user import Request
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.dispatch import takes_fds, takes_payload
from vhost_user.backend.handler import GROUPS
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.protocol.errors import RequestRefused, VhostUserError
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.framing import Message, encode
from vhost_user.spec.requests import FRONTEND_REQUESTS, BackendRequest
from vhost_user.spec.structs import U64, Empty, VringState

Patch = Callable[[pytest.MonkeyPatch], object]


def spoil(how: Callable[[Rich, Request], bool]) -> Patch:
    return lambda patch: patch.setattr(Rich, "spoil", staticmethod(how))


def loses(after: int) -> Patch:
    """Requests are lost from number ``after`` on."""
    return spoil(lambda device, _request: device.count > after)


def around(kind: type, name: str, function: Callable[..., Any]) -> Patch:
    """``function`` in place of a method; it gets the old one first."""
    old = getattr(kind, name)
    return lambda patch: patch.setattr(kind, name, lambda *given: function(old, *given))


def message(name: str, function: Callable[..., Any]) -> Patch:
    """``function(old, session, payload, fds)`` in place of what carries a message out."""
    (group,) = [group for group in GROUPS if name in vars(group)]
    method = getattr(group, name)
    (row,) = [row for row in FRONTEND_REQUESTS if row.handler == name]

    def mutant(self: Any, *given: Any) -> Any:
        fds = given[-1] if takes_fds(row) else OwnedFds()
        payload = given[0] if takes_payload(row) else Empty()

        def old(_session: Any, payload: Any, fds: Any) -> Any:
            return method(self, *[payload] * takes_payload(row), *[fds] * takes_fds(row))

        return function(old, self.session, payload, fds)

    return lambda patch: patch.setattr(group, name, mutant)


def nothing(*_given: Any) -> None:
    """Does nothing and says that it is done."""


def refuse(*_given: Any) -> None:
    raise RequestRefused("by a mutant")


def in_this_thread(_begin: Callable[..., object], transfer: Any) -> None:
    """The state is moved before anything else is answered."""
    transfer._thread.start()
    transfer._thread.join(3)


def features(change: Callable[[int], int]) -> Patch:
    """Other features than those that the front-end acknowledges."""
    return message(
        "set_features", lambda old, handler, payload, fds: old(handler, U64(change(payload.value)), fds)
    )


def stop(self: Any) -> None:
    daemon(self).stop()


def daemon(handler: Any) -> VhostUserDaemon:
    found = handler.backend.daemon
    assert isinstance(found, VhostUserDaemon)
    return found


def dies_of_rings(patch: pytest.MonkeyPatch) -> None:
    # Without the err signal: it comes before the callback, and the suite would go on at once.
    message("set_vring_err", nothing)(patch)
    patch.setattr(VhostUserDaemon, "_ring_broken", lambda self, _vring, _error: self.stop())
    patch.setattr(Rich, "fail", lambda self, _request, _error: self.daemon.stop())
    patch.setattr(Rich, "spoil", staticmethod(_dies_of_requests))


def _dies_of_requests(device: Rich, request: Request) -> bool:
    if request.writable != 64:
        device.daemon.stop()
    return False


def dies(device: Rich, _request: Request) -> bool:
    device.daemon.stop()
    return False


def started(handler: Any) -> bool:
    return any(ring.vring.started for ring in handler.rings)


def base(change: Callable[[int], int]) -> Patch:
    def get(old: Any, handler: Any, payload: Any, fds: Any) -> VringState:
        return VringState(payload.index, change(old(handler, payload, fds).num))

    return message("get_vring_base", get)


def after(name: str, then: Callable[[Any, Any], object]) -> Patch:
    """``then(handler, payload)`` after the message was carried out."""

    def both(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
        answer = old(handler, payload, fds)
        then(handler, payload)
        return answer

    return message(name, both)


def some_regions(handler: Any, _payload: Any) -> None:
    handler.set_memory(GuestMemory(handler.memory.memory().regions[:4], handler.bitmap))


def keep_regions(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    before = handler.memory.memory().regions
    old(handler, payload, fds)
    now = handler.memory.memory().regions
    kept = [each for each in before if each.guest_address not in [one.guest_address for one in now]]
    handler.set_memory(GuestMemory([*now, *kept], handler.bitmap))


def stop_rings(handler: Any, _payload: Any) -> None:
    for ring in handler.rings:
        ring.stop()


def when_started(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if not handler.rings[payload.index].vring.started:
        old(handler, payload, fds)


def only_when_started(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if handler.rings[payload.index].vring.started:
        old(handler, payload, fds)


def write_gap(device: Rich, request: Request) -> bool:
    memory = device.daemon.memory.memory()
    if memory.is_mapped(0x50000000, 1):
        memory.write(0x50000000, b"x")
    del request
    return False


def write_table(device: Rich, _request: Request) -> bool:
    ring = device.daemon._rings[0]
    assert ring._areas is not None
    device.daemon.memory.memory().write(ring._areas[0] + 16 * 40, b"x")
    return False


def too_long(device: Rich, request: Request) -> bool:
    del device
    request.write(b"short")
    request.complete(64)
    return True


def keep_call(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        handler.backend.calls.append(os.dup(fd))
        fds.add([fd])
    old(handler, payload, fds)


def no_fifo(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            refuse()
    old(handler, payload, fds)


def blocking(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_NONBLOCK)
    old(handler, payload, fds)


def stuck(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            handler.backend.count = 1000
    old(handler, payload, fds)


def no_socket(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            refuse()
    old(handler, payload, fds)


def only_with_memory(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    """Forgets what is said before the front-end has shared memory."""
    if handler.memory.memory().regions:
        old(handler, payload, fds)


def refuses_without_memory(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if not handler.memory.memory().regions:
        refuse()
    old(handler, payload, fds)


def plugged_once(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if getattr(handler.backend, "plugged", False):
        refuse()
    handler.backend.plugged = True
    old(handler, payload, fds)


def base_set(change: Callable[[int], int]) -> Patch:
    """The ring goes on somewhere else than where SET_VRING_BASE says."""
    return message(
        "set_vring_base",
        lambda old, handler, payload, fds: old(handler, VringState(payload.index, change(payload.num)), fds),
    )


def dies_of_anything(patch: pytest.MonkeyPatch) -> None:
    dies_of_rings(patch)
    patch.setattr(Rich, "spoil", staticmethod(dies))


def late_end(old: Any, state: Any) -> None:
    time.sleep(0.3)
    old(state)


LEFT: list[Any] = []


def leak(old: Any, state: Any) -> None:
    LEFT.append(os.dup(2))
    LEFT.append(mmap.mmap(-1, 4096))
    old(state)


def log_flag(old: Any, handler: Any, payload: Any, fds: Any, *, flags: int) -> None:
    old(handler, dataclasses.replace(payload, flags=flags, log=0 if flags else payload.log), fds)


def no_offset(old: Any, handler: Any, region: Any, fd: int) -> Any:
    return old(handler, dataclasses.replace(region, mmap_offset=0), fd)


def loses_if(test: Callable[[Request], bool]) -> Patch:
    return spoil(lambda _device, request: test(request))


def views(request: Request) -> int:
    return len(request.writable_views())


def says(handler: Any, request: BackendRequest, payload: bytes = b"") -> None:
    """Sends a message over the back channel, whatever the state of the rings."""
    with contextlib.suppress(AttributeError, OSError, VhostUserError):  # there may be no channel
        handler.channel._connection.send(Message(encode(request, 1, payload), ()))


def speaks_at_rest(handler: Any, _payload: Any) -> None:
    """With the answer to a question while all rings are stopped."""
    if handler._ran and handler.all_stopped:
        says(handler, BackendRequest.CONFIG_CHANGE_MSG)


def calls_at_rest(handler: Any, _payload: Any) -> None:
    for ring in handler.rings:
        if handler.in_band is not None and ring.left_at is not None:
            says(handler, BackendRequest.VRING_CALL, VringState(ring.index).pack())


def speaks_at_once(handler: Any, _payload: Any) -> None:
    says(handler, BackendRequest.CONFIG_CHANGE_MSG)


def logs_once(old: Any, state: Any, enabled: bool) -> None:
    """Logging is switched on for one migration only."""
    if not enabled or not hasattr(state.backend, "migrated"):
        old(state, enabled)
    if not enabled and state.bitmap.mapped:
        state.backend.migrated = True


def only_the_first_log(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if not handler.bitmap.mapped:
        old(handler, payload, fds)


def write_late(handler: Any, _payload: Any) -> None:
    memory = handler.memory.memory()
    address = memory.regions[0].guest_address + memory.regions[0].size - 8
    late = threading.Timer(0.02, memory.write, (address, b"late"))
    late.daemon = True
    late.start()
