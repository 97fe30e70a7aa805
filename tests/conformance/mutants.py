"""Our own framework and device with one thing made wrong, by the check that must notice."""

from __future__ import annotations

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

from vhost_user import Device, Request
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.dispatch import takes_fds, takes_payload
from vhost_user.backend.handler import GROUPS, VhostUserHandler
from vhost_user.backend.memory_requests import MemoryRequests
from vhost_user.backend.state import SessionState
from vhost_user.devices.rng import Rng
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.blk import BlkFeature
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS
from vhost_user.spec.structs import U64, Empty, VringState

Patch = Callable[[pytest.MonkeyPatch], object]
EXTRA = int(ProtocolFeature.DEVICE_STATE | ProtocolFeature.SHMEM)


class Rich(Rng):
    """Our device with everything that the framework can do; mutants change what it does with requests."""

    packed = True
    in_order = False
    device_features = int(VirtioFeature.RING_RESET)
    """Nothing offers it by itself (see DEFAULT_FEATURES); the checks forward it."""
    extra_protocol_features = EXTRA
    queues = 2
    daemon: VhostUserDaemon
    spoil: Callable[[Rich, Request], bool] = staticmethod(lambda _device, _request: False)
    """Called with each request; True when the device is not to answer it."""
    skip_events = 0
    calls: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []
        self.count = 0
        self.lost: list[Request] = []
        """Requests that are never answered; nobody may forget them, or they go back empty."""
        self.moving: threading.Thread | None = None

    def handle(self, request: Request) -> None:
        self.count += 1
        if type(self).spoil(self, request):
            if not request.completed:
                request.hold()
                self.lost.append(request)
            return
        for fd in self.calls:
            os.eventfd_write(fd, 1)
        super().handle(request)

    def queue_event(self, vring: Any) -> object:
        if self.skip_events > 0:
            self.skip_events -= 1
            return None
        return super().queue_event(vring)

    def get_shmem_config(self) -> dict[int, int]:
        return {0: 4096}

    def set_device_state_fd(self, direction: int, phase: int, fd: int) -> int | None:
        del phase
        self.moving = threading.Thread(target=self._move, args=(direction, fd))
        self.moving.start()
        return None

    def _move(self, direction: int, fd: int) -> None:
        with os.fdopen(fd, "rb" if direction else "wb") as file:
            if direction:
                self.loaded = file.read()
            else:
                file.write(b"state" * 50_000)

    def check_device_state(self) -> None:
        if self.moving is None:
            raise RequestRefused("nothing was moved")
        self.moving.join()
        self.moving = None

    def close(self) -> None:
        for fd in self.calls:
            os.close(fd)
        self.calls.clear()
        super().close()


class LyingBlk(Device, type="blk"):
    """A block device that answers everything with OK and remembers nothing; its capacity can be written."""

    config = bytearray((100).to_bytes(8, "little") + bytes(24) + b"\1" + bytes(63))
    config_writable = (range(8), range(32, 33))
    device_features = int(BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.FLUSH | BlkFeature.CONFIG_WCE)

    def handle(self, request: Request) -> None:
        kind = int.from_bytes(request.read(4), "little")
        request.fill(0, request.writable - 1)
        request.write(b"\x07" if kind == 8 else b"\0")


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


def _dies(device: Rich, _request: Request) -> bool:
    device.daemon.stop()
    return False


def started(handler: Any) -> bool:
    return any(ring.vring.started for ring in handler.rings)


def base(change: Callable[[int], int]) -> Patch:
    def get(old: Any, handler: Any, payload: Any, fds: Any) -> VringState:
        return VringState(payload.index, change(old(handler, payload, fds).num))

    return message("get_vring_base", get)


def _after(name: str, then: Callable[[Any, Any], object]) -> Patch:
    """``then(handler, payload)`` after the message was carried out."""

    def both(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
        answer = old(handler, payload, fds)
        then(handler, payload)
        return answer

    return message(name, both)


def _some_regions(handler: Any, _payload: Any) -> None:
    handler.set_memory(GuestMemory(handler.memory.memory().regions[:4], handler.bitmap))


def _keep_regions(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    before = handler.memory.memory().regions
    old(handler, payload, fds)
    now = handler.memory.memory().regions
    kept = [each for each in before if each.guest_address not in [one.guest_address for one in now]]
    handler.set_memory(GuestMemory([*now, *kept], handler.bitmap))


def _stop_rings(handler: Any, _payload: Any) -> None:
    for ring in handler.rings:
        ring.stop()


def _when_started(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if not handler.rings[payload.index].vring.started:
        old(handler, payload, fds)


def _only_when_started(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if handler.rings[payload.index].vring.started:
        old(handler, payload, fds)


def _write_gap(device: Rich, request: Request) -> bool:
    memory = device.daemon.memory.memory()
    if memory.is_mapped(0x50000000, 1):
        memory.write(0x50000000, b"x")
    del request
    return False


def _write_table(device: Rich, _request: Request) -> bool:
    ring = device.daemon._rings[0]
    assert ring._areas is not None
    device.daemon.memory.memory().write(ring._areas[0] + 16 * 40, b"x")
    return False


def _too_long(device: Rich, request: Request) -> bool:
    del device
    request.write(b"short")
    request.complete(64)
    return True


def _keep_call(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        handler.backend.calls.append(os.dup(fd))
        fds.add([fd])
    old(handler, payload, fds)


def _no_fifo(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            refuse()
    old(handler, payload, fds)


def _blocking(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_NONBLOCK)
    old(handler, payload, fds)


def _stuck(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            handler.backend.count = 1000
    old(handler, payload, fds)


def _no_socket(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    fd = fds.take_one()
    if fd is not None:
        fds.add([fd])
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            refuse()
    old(handler, payload, fds)


def _only_with_memory(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    """Forgets what is said before the front-end has shared memory."""
    if handler.memory.memory().regions:
        old(handler, payload, fds)


def _refuses_without_memory(old: Any, handler: Any, payload: Any, fds: Any) -> None:
    if not handler.memory.memory().regions:
        refuse()
    old(handler, payload, fds)


def _plugged_once(old: Any, handler: Any, payload: Any, fds: Any) -> None:
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
    patch.setattr(Rich, "spoil", staticmethod(_dies))


def _late_end(old: Any, state: Any) -> None:
    time.sleep(0.3)
    old(state)


LEFT: list[Any] = []


def _leak(old: Any, state: Any) -> None:
    LEFT.append(os.dup(2))
    LEFT.append(mmap.mmap(-1, 4096))
    old(state)


def _log_flag(old: Any, handler: Any, payload: Any, fds: Any, *, flags: int) -> None:
    old(handler, dataclasses.replace(payload, flags=flags, log=0 if flags else payload.log), fds)


def _no_offset(old: Any, handler: Any, region: Any, fd: int) -> Any:
    return old(handler, dataclasses.replace(region, mmap_offset=0), fd)


def _loses_if(test: Callable[[Request], bool]) -> Patch:
    return spoil(lambda _device, request: test(request))


def views(request: Request) -> int:
    return len(request.writable_views())


MUTANTS: dict[str, Patch] = {
    "C109-marks": message("set_inflight_fd", nothing),
    "C111-recovery": message("set_inflight_fd", nothing),
    "C113-saved-descriptors": message("set_inflight_fd", nothing),
    "C115-hostile-area": message("set_inflight_fd", lambda _old, session, _payload, _fds: stop(session)),
    "C029-features-again": message(
        "set_features",
        lambda old, handler, payload, fds: (
            _stop_rings(handler, payload) if started(handler) else old(handler, payload, fds)
        ),
    ),
    "C035-several": _after("set_mem_table", _some_regions),
    "C035-replaced": message("set_mem_table", _keep_regions),
    "C036-offset": around(MemoryRequests, "_mapped", _no_offset),
    "C039-truncated": around(
        VhostUserHandler,
        "_check_memory",
        lambda _old, self: stop(self) if self.memory.memory().lost else None,
    ),
    "C040-live-table": _after("set_mem_table", _stop_rings),
    "C041-late-table": message(
        "set_vring_addr",
        lambda old, handler, payload, fds: (
            old(handler, payload, fds) if handler.memory.memory().regions else refuse()
        ),
    ),
    "C048-straddle": spoil(_write_gap),
    "C042-add": message("add_mem_reg", nothing),
    "C044-live-removal": message("rem_mem_reg", nothing),
    "C063-idempotent": message("set_vring_enable", _only_when_started),
    "C049-disabled": _after(
        "set_vring_kick", lambda handler, payload: handler.rings[payload.index].set_enabled(True)
    ),
    "C050-start-without-kick": _after(
        "set_vring_num", lambda handler, _: setattr(handler.backend, "skip_events", 2)
    ),
    "C051-start-with-kick": _after(
        "set_vring_num", lambda handler, _: setattr(handler.backend, "skip_events", 9)
    ),
    "C052-polled-kick": message(
        "set_vring_kick",
        lambda old, handler, payload, fds: None if payload.no_fd else old(handler, payload, fds),
    ),
    "C052-polled-call": message(
        "set_vring_call",
        lambda old, handler, payload, fds: refuse() if payload.no_fd else old(handler, payload, fds),
    ),
    "C053-stopped": message(
        "get_vring_base",
        lambda _old, handler, payload, _fds: VringState(
            payload.index, handler.rings[payload.index].vring.base()
        ),
    ),
    "C054-drained": base(lambda value: value + 1),
    "C056-base-counts": base(lambda _value: 0),
    "C057-packed-base": base(lambda value: value & 0xFFFF),
    "C060-restart": message(
        "set_vring_base", lambda old, handler, payload, fds: old(handler, VringState(payload.index, 0), fds)
    ),
    "C060-packed-restart": message(
        "set_vring_base",
        lambda old, handler, payload, fds: old(handler, VringState(payload.index, 0x80008000), fds),
    ),
    "C060-enabled-is-remembered": _after(
        "get_vring_base", lambda handler, payload: handler.rings[payload.index].set_enabled(False)
    ),
    "C061-disable": message(
        "set_vring_enable",
        lambda old, handler, payload, fds: old(handler, payload, fds) if payload.num else None,
    ),
    "C062-without-bit-30": features(lambda bits: bits | VirtioFeature.PROTOCOL_FEATURES),
    "C064-disable-then-stop": base(lambda value: value + 1),
    "C075-reset": message("reset_device", nothing),
    "C069-all-queues": spoil(lambda _device, request: request.queue > 0),
    "V045-ring-reset": message("get_vring_base", refuse),
    "C065-replace-call": message("set_vring_call", _when_started),
    "C066-replace-kick": message("set_vring_kick", _when_started),
    "C067-pipes": message("set_vring_kick", _no_fifo),
    "C068-flags": message("set_vring_kick", _blocking),
    "H87-full-call": lambda patch: (loses(999)(patch), message("set_vring_call", _stuck)(patch)),
    "H87-other-queues": loses(0),  # nothing may be signalled: in this process that would stop the test
    "C024-enable-first": message("set_vring_enable", _only_with_memory),
    "C067-socket-pairs": message("set_vring_kick", _no_socket),
    "C057-half-base": base_set(lambda value: value if value >> 16 else value & 0xFFFF | 0x80030000),
    "C057-zero-base": base_set(lambda value: value or 0x80038003),
    "C037-plugged-again": message("add_mem_reg", _plugged_once),
    "V008-long-table": _loses_if(lambda request: views(request) > 100),
    "V030-long-table": _loses_if(lambda request: views(request) > 100),
    "H88-endless-kick": loses(1),
    "V019-spurious-kicks": loses(1),
    "V016-call": message("set_vring_call", nothing),
    "V016-no-call": message("set_vring_call", _keep_call),
    "V017-event-index": features(lambda bits: bits & ~int(VirtioFeature.RING_EVENT_IDX)),
    "V018-kick-suppression": loses(7),
    "C067-error-signal": message("set_vring_err", nothing),
    "V002-sizes": loses(6),
    "V002-index-wrap": loses(6),
    "V005-full-chain": _loses_if(lambda request: views(request) > 7),
    "V009-framing": _loses_if(lambda request: views(request) > 10),
    "V013-read-only": spoil(_write_table),
    "V014-used-length": spoil(_too_long),
    "V008-indirect": _loses_if(lambda request: views(request) > 10),
    "V008-mixed": _loses_if(lambda request: views(request) > 2),
    "V008-ignored-flag": loses(0),
    "V023-many": loses(20),
    "V041-in-order": loses(20),
    "V003-index-jump": dies_of_rings,
    "V004-head": dies_of_rings,
    "V004-next": dies_of_rings,
    "V005-loop": dies_of_rings,
    "V006-order": dies_of_rings,
    "V007-not-negotiated": dies_of_anything,
    "V007-malformed": dies_of_rings,
    "V010-empty-descriptor": dies_of_rings,
    "V011-unmapped": dies_of_rings,
    "V021-same-head": dies_of_rings,
    "H93-ring-as-buffer": spoil(_dies),
    "V024-wrap": loses(8),
    "V024-any-size": loses(7),
    "V029-chain-offsets": _loses_if(lambda request: views(request) > 2),
    "V023-packed-many": loses(20),
    "V030-indirect": loses(0),
    "V033-no-call": message("set_vring_call", _keep_call),
    "V033-event-index": loses(5),
    "V031-hostile": dies_of_rings,
    "C078-buffers": features(lambda bits: bits & ~int(VirtioFeature.LOG_ALL)),
    "C079-used-ring": message("set_vring_addr", lambda *given: _log_flag(*given, flags=0)),
    "C079-not-asked": message("set_vring_addr", lambda *given: _log_flag(*given, flags=1)),
    "C086-off": features(lambda bits: bits | VirtioFeature.LOG_ALL),
    "C082-short-log": message("set_log_base", lambda _old, handler, *_: stop(handler)),
    "C083-eventfd": message("set_log_fd", nothing),
    "C124-save-and-load": message("check_device_state", refuse),
    "C134-quiet": around(SessionState, "end", _late_end),
    "C134-memory": around(SessionState, "end", _leak),
    "C135-leaks": around(SessionState, "end", _leak),
}

VARIANTS: dict[str, tuple[str, Patch]] = {
    "C024-enable-first, refused": ("C024-enable-first", message("set_vring_enable", _refuses_without_memory)),
    "C067-socket-pairs, call": ("C067-socket-pairs", message("set_vring_call", _no_socket)),
    "V008-indirect, no table longer than the ring": (
        "V008-indirect",
        _loses_if(lambda request: views(request) >= 16),
    ),
}
"""Other ways to break a rule that has a mutant above: name, check, what is made wrong."""
