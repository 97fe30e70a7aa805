"""Our own framework and device with one thing made wrong, by the check that must notice."""

from __future__ import annotations

from tests.conformance.faults import (
    Patch,
    after,
    around,
    base,
    base_set,
    blocking,
    calls_at_rest,
    dies,
    dies_of_anything,
    dies_of_rings,
    features,
    in_this_thread,
    keep_call,
    keep_regions,
    late_end,
    leak,
    log_flag,
    logs_once,
    loses,
    loses_if,
    message,
    no_fifo,
    no_offset,
    no_socket,
    nothing,
    only_the_first_log,
    only_when_started,
    only_with_memory,
    plugged_once,
    refuse,
    refuses_without_memory,
    some_regions,
    speaks_at_once,
    speaks_at_rest,
    spoil,
    started,
    stop,
    stop_rings,
    stuck,
    too_long,
    views,
    when_started,
    write_gap,
    write_late,
    write_table,
)
from tests.conformance.iommu_faults import IOMMU_MUTANTS
from tests.conformance.postcopy_faults import POSTCOPY_MUTANTS
from vhost_user.backend import device_state
from vhost_user.backend.handler import VhostUserHandler
from vhost_user.backend.in_band import InBand
from vhost_user.backend.memory_requests import MemoryRequests
from vhost_user.backend.state import SessionState
from vhost_user.backend.state_transfer import StateTransfer
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import VringState

MUTANTS: dict[str, Patch] = {
    **IOMMU_MUTANTS,
    **POSTCOPY_MUTANTS,
    "C109-marks": message("set_inflight_fd", nothing),
    "C111-recovery": message("set_inflight_fd", nothing),
    "C113-saved-descriptors": message("set_inflight_fd", nothing),
    "C115-hostile-area": message("set_inflight_fd", lambda _old, session, _payload, _fds: stop(session)),
    "C133-kick": around(InBand, "kick", lambda _old, _self, _queue: True),
    "C133-call": around(
        InBand, "_send", lambda old, self, message, queue: old(self, message, queue + 1) if queue else None
    ),
    "C133-stopped": after("get_features", calls_at_rest),
    "C076-quiet": after("get_features", speaks_at_rest),
    "C029-features-again": message(
        "set_features",
        lambda old, handler, payload, fds: (
            stop_rings(handler, payload) if started(handler) else old(handler, payload, fds)
        ),
    ),
    "C035-several": after("set_mem_table", some_regions),
    "C035-replaced": message("set_mem_table", keep_regions),
    "C036-offset": around(MemoryRequests, "_mapped", no_offset),
    "C039-truncated": around(
        VhostUserHandler,
        "_check_memory",
        lambda _old, self: stop(self) if self.memory.memory().lost else None,
    ),
    "C040-live-table": after("set_mem_table", stop_rings),
    "C041-late-table": message(
        "set_vring_addr",
        lambda old, handler, payload, fds: (
            old(handler, payload, fds) if handler.memory.memory().regions else refuse()
        ),
    ),
    "C048-straddle": spoil(write_gap),
    "C042-add": message("add_mem_reg", nothing),
    "C044-live-removal": message("rem_mem_reg", nothing),
    "C063-idempotent": message("set_vring_enable", only_when_started),
    "C049-disabled": after(
        "set_vring_kick", lambda handler, payload: handler.rings[payload.index].set_enabled(True)
    ),
    "C050-start-without-kick": after(
        "set_vring_num", lambda handler, _: setattr(handler.backend, "skip_events", 2)
    ),
    "C051-start-with-kick": after(
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
    "C060-enabled-is-remembered": after(
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
    "C065-replace-call": message("set_vring_call", when_started),
    "C066-replace-kick": message("set_vring_kick", when_started),
    "C067-pipes": message("set_vring_kick", no_fifo),
    "C068-flags": message("set_vring_kick", blocking),
    "H87-full-call": lambda patch: (loses(999)(patch), message("set_vring_call", stuck)(patch)),
    "H87-other-queues": loses(0),  # nothing may be signalled: in this process that would stop the test
    "C024-enable-first": message("set_vring_enable", only_with_memory),
    "C067-socket-pairs": message("set_vring_kick", no_socket),
    "C057-half-base": base_set(lambda value: value if value >> 16 else value & 0xFFFF | 0x80030000),
    "C057-zero-base": base_set(lambda value: value or 0x80038003),
    "C037-plugged-again": message("add_mem_reg", plugged_once),
    "V008-long-table": loses_if(lambda request: views(request) > 100),
    "V030-long-table": loses_if(lambda request: views(request) > 100),
    "H88-endless-kick": loses(1),
    "V019-spurious-kicks": loses(1),
    "V016-call": message("set_vring_call", nothing),
    "V016-no-call": message("set_vring_call", keep_call),
    "V017-event-index": features(lambda bits: bits & ~int(VirtioFeature.RING_EVENT_IDX)),
    "V018-kick-suppression": loses(7),
    "C067-error-signal": message("set_vring_err", nothing),
    "V002-sizes": loses(6),
    "V002-index-wrap": loses(6),
    "V005-full-chain": loses_if(lambda request: views(request) > 7),
    "V009-framing": loses_if(lambda request: views(request) > 10),
    "V013-read-only": spoil(write_table),
    "V014-used-length": spoil(too_long),
    "V008-indirect": loses_if(lambda request: views(request) > 10),
    "V008-mixed": loses_if(lambda request: views(request) > 2),
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
    "H93-ring-as-buffer": spoil(dies),
    "V024-wrap": loses(8),
    "V024-any-size": loses(7),
    "V029-chain-offsets": loses_if(lambda request: views(request) > 2),
    "V023-packed-many": loses(20),
    "V030-indirect": loses(0),
    "V033-no-call": message("set_vring_call", keep_call),
    "V033-event-index": loses(5),
    "V031-hostile": dies_of_rings,
    "C078-buffers": features(lambda bits: bits & ~int(VirtioFeature.LOG_ALL)),
    "C079-used-ring": message("set_vring_addr", lambda *given: log_flag(*given, flags=0)),
    "C079-not-asked": message("set_vring_addr", lambda *given: log_flag(*given, flags=1)),
    "C086-off": features(lambda bits: bits | VirtioFeature.LOG_ALL),
    "C082-short-log": message("set_log_base", lambda _old, handler, *_: stop(handler)),
    "C083-eventfd": message("set_log_fd", nothing),
    "C086-while-running": around(SessionState, "set_logging", logs_once),
    "C081-replaced": message("set_log_base", only_the_first_log),
    "C085-nothing-after-stop": after("get_vring_base", write_late),
    "C124-save-and-load": message("check_device_state", refuse),
    "C124-slow-reader": around(StateTransfer, "begin", in_this_thread),
    "C127-bad-state": lambda patch: patch.setattr(device_state, "load", lambda *_: None),
    "C134-quiet": around(SessionState, "end", late_end),
    "C134-memory": around(SessionState, "end", leak),
    "C135-leaks": around(SessionState, "end", leak),
}

VARIANTS: dict[str, tuple[str, Patch]] = {
    "C076-quiet, at once": ("C076-quiet", after("set_mem_table", speaks_at_once)),
    "C133-kick, refused": ("C133-kick", message("vring_kick", refuse)),
    "C133-call, another queue": (
        "C133-call",
        around(InBand, "_send", lambda old, self, message, queue: old(self, message, 1 - queue)),
    ),
    "C024-enable-first, refused": ("C024-enable-first", message("set_vring_enable", refuses_without_memory)),
    "C067-socket-pairs, call": ("C067-socket-pairs", message("set_vring_call", no_socket)),
    "V008-indirect, no table longer than the ring": (
        "V008-indirect",
        loses_if(lambda request: views(request) >= 16),
    ),
}
"""Other ways to break a rule that has a mutant above: name, check, what is made wrong."""
