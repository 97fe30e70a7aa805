"""Each check fails on a back-end that breaks its rule: otherwise a pass would mean nothing."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.faults import LEFT
from tests.conformance.mutants import MUTANTS, VARIANTS
from tests.conformance.postcopy_faults import POSTCOPY_MUTANTS
from tests.conformance.rich import EXTRA, LyingBlk, Rich
from tests.conformance.yes_man import FACTS, REQUEST, YesManTarget
from vhost_user.conformance import PROFILES, Check, Facts, Outcome, Result, Runner, Target, all_checks
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

CHECKS = {check.id: check for check in all_checks()}
ON_YES_MAN: dict[str, dict[str, Any]] = {
    "C001-layout": {"bugs": ["long-reply"]},
    "C001-split": {"bugs": ["one-read"]},
    "C002-version": {},
    "C003-reply-flags": {"bugs": ["plain-flags"]},
    "C004-reply-bit": {},
    "C005-reserved-flags": {},
    "C006-reply-id": {"bugs": ["other-id"]},
    "C007-size-limit": {},
    "C008-short-payload": {},
    "C008-long-payload": {},
    "C015-pipelined": {"bugs": ["greedy"]},
    "C015-descriptor-order": {"bugs": ["greedy"]},
    "C016-end-inside": {"bugs": ["dies-inside"]},
    "C017-gone-reader": {"bugs": ["tires"]},
    "C020-unknown-request": {},
    "H99-random-bytes": {"bugs": ["checks-version"]},
    "C009-late-descriptor": {},
    "C010-nine-descriptors": {},
    "C012-close-on-exec": {},
    "C013-unwanted-descriptor": {},
    "C013-closed": {},
    "C014-missing-descriptor": {},
    "C014-surplus-descriptor": {},
    "H84-odd-memory": {},
    "H84-odd-kick": {"fatal": [REQUEST.SET_VRING_ERR], "up": True},
    "H89-own-socket": {"fatal": [REQUEST.SET_BACKEND_REQ_FD]},
    "C022-protocol-features-first": {"bugs": ["hangs-up-on-GET_PROTOCOL_FEATURES"]},
    "C024-gated": {},
    "C025-unoffered-protocol-bits": {},
    "C026-unoffered-bits": {},
    "C027-inband": {},
    "C028-dependent-bits": {
        "facts": dataclasses.replace(FACTS, protocol_features=int(ProtocolFeature.GET_VRING_BASE_INFLIGHT))
    },
    "C031-multiqueue": {"bugs": ["no-queues"]},
    "C033-reset-owner": {"bugs": ["hangs-up-on-RESET_OWNER"]},
    "V040-version-1": {"facts": dataclasses.replace(FACTS, features=0)},
    "V044-transport-bits": {
        "facts": dataclasses.replace(FACTS, features=int(VirtioFeature.NOTIFICATION_DATA))
    },
    "C094-no-ack-before": {},
    "C094-ack-of-acks": {"bugs": ["no-acks"]},
    "C128-legacy-offset": {"bugs": ["far-zeros"]},
    "C093-acks": {"bugs": ["no-acks"]},
    "C093-one-reply": {"bugs": ["two-replies"]},
    "C093-no-ack-unasked": {"bugs": ["eager"]},
    "C098-back-channel": {},
    "C105-shared-memory": {},
    "C133-numbers": {},
    "H56-shared-object": {"bugs": ["hangs-up-on-GET_SHARED_OBJECT"]},
    "C106-inflight": {},
    "C107-inflight-range": {},
    "C035-count": {},
    "C037-overlap": {},
    "C038-wrap": {},
    "C039-short-file": {},
    "H86-empty-file": {"fatal": [REQUEST.SET_MEM_TABLE]},
    "C042-remove": {},
    "C043-promise": {"bugs": ["hangs-up-on-GET_MAX_MEM_SLOTS"]},
    "C043-too-many": {},
    "C042-overlap": {},
    "C013-removal-descriptor": {},
    "C058-base": {},
    "C058-echo": {},
    "C063-other-number": {},
    "C063-without-bit-30": {},
    "C069-index": {},
    "C069-base-index": {},
    "H05-truncated-index": {"bugs": ["stores-base"]},
    "C070-size": {},
    "C071-alignment": {},
    "C071-unmapped": {},
    "C071-flags": {},
    "C072-running": {},
    "C073-unconfigured": {"fatal": [REQUEST.SET_VRING_KICK]},
    "C081-reply": {"bugs": ["log-echo"]},
    "C082-bad-log": {"fatal": [REQUEST.SET_LOG_BASE]},
    "C087-log-offered": {"facts": dataclasses.replace(FACTS, protocol_features=0)},
    "C128-echo": {},
    "C128-out-of-range": {},
    "C129-out-of-range": {},
    "C131-status": {},
    "C131-wide": {},
    "C122-running": {},
    "C122-numbers": {},
    "C125-no-transfer": {},
    "C134-next-session": {"bugs": ["one-session"]},
    "C134-descriptors": {},
    "C137-second-front-end": {"bugs": ["jealous"]},
    "H90-unread-replies": {"bugs": ["tires"]},
}
ON_LYING_BLK = {
    "C129-read-only", "BLK-write", "BLK-unknown-request", "BLK-beyond-end", "BLK-identity",
    "BLK-writeback-start", "BLK-writeback-value",
}  # fmt: skip
OTHERS = {"C032-fresh-start", "C046-guest-addresses"}


def run(target: Target, check: Check, facts: Facts, device: str) -> Result:
    runner = Runner(target, device=device, timeout=0.1, quiet=0.03)
    runner.facts, runner.profile = facts, PROFILES[device]
    result = runner.one(check)
    if target.restartable:
        runner.look_after(result)
    return result


def failed(result: Result) -> None:
    assert result.outcome is Outcome.FAIL, (result.outcome, result.text)


def test_every_check_has_a_back_end_that_fails_it() -> None:
    assert set(ON_YES_MAN) | set(MUTANTS) | ON_LYING_BLK | OTHERS == set(CHECKS)


@pytest.mark.parametrize("name", ON_YES_MAN)
def test_it_fails_on_a_back_end_that_says_yes_to_everything(
    name: str, tmp_path: Path, stack: ExitStack
) -> None:
    options = dict(ON_YES_MAN[name])
    options.pop("up", None)
    target = stack.enter_context(YesManTarget(tmp_path / "backend.sock", **options))
    failed(run(target, CHECKS[name], options.get("facts", FACTS), "generic"))


MADE_WRONG = [
    *(pytest.param(name, mutant, id=name) for name, mutant in MUTANTS.items()),
    *(pytest.param(*each, id=name) for name, each in VARIANTS.items()),
]


@pytest.mark.parametrize(("name", "mutant"), MADE_WRONG)
def test_it_fails_on_our_back_end_made_wrong(  # noqa: PLR0917  # fixtures
    name: str,
    mutant: Callable[[pytest.MonkeyPatch], object],
    serve: Callable[..., Target],
    monkeypatch: pytest.MonkeyPatch,
    stack: ExitStack,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    stack.callback(_clean_up)
    offered = 0
    if name in POSTCOPY_MUTANTS:
        # The framework offers it, for a device that has no IOMMU.
        offered = int(ProtocolFeature.PAGEFAULT)
        monkeypatch.setattr(Rich, "device_features", 0)
    device = Rich()
    device.in_order = name == "V041-in-order"
    facts = Facts(device.features(), device.protocol_features() | offered, device.queues, 509)
    mutant(monkeypatch)
    failed(run(serve(device, iommu=not offered), CHECKS[name], facts, "rng"))


@pytest.mark.parametrize("name", sorted(ON_LYING_BLK))
def test_it_fails_on_a_block_device_that_lies(name: str, serve: Callable[..., Target]) -> None:
    target = serve(LyingBlk())
    failed(run(target, CHECKS[name], _facts(target), "blk"))


def test_C032_is_seen_when_features_outlive_their_connection(
    serve: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vhost_user.protocol.sessions import BackendSession

    target = serve(Rich())
    facts = _facts(target)
    old = BackendSession.__init__
    former: list[BackendSession] = []

    def remember(self: BackendSession, *given: Any, **named: Any) -> None:
        old(self, *given, **named)
        if former:
            self.negotiation.acked_protocol_features = former[-1].negotiation.acked_protocol_features
        former.append(self)

    monkeypatch.setattr(BackendSession, "__init__", remember)
    failed(run(target, CHECKS["C032-fresh-start"], facts, "rng"))


def test_C046_is_seen_when_ring_addresses_are_taken_for_user_addresses(
    serve: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vhost_user.backend.ring_requests import RingRequests
    from vhost_user.backend.state import SessionState

    device = Rich()
    device.extra_protocol_features = EXTRA | int(ProtocolFeature.GPA_ADDRESSES)
    target = serve(device)
    facts = _facts(target)
    assert run(target, CHECKS["C046-guest-addresses"], facts, "rng").outcome is Outcome.PASS
    monkeypatch.setattr(
        SessionState, "event_idx", True
    )  # takes six bytes more: a guest address of 0 still fits
    monkeypatch.setattr(
        SessionState,
        "guest_ring_addresses",
        property(lambda session: session.memory.memory().regions == ()),
    )
    monkeypatch.setattr(RingRequests, "set_vring_addr", _refuse_zero)
    failed(run(target, CHECKS["C046-guest-addresses"], facts, "rng"))


def _refuse_zero(*_given: Any) -> None:
    from vhost_user.protocol.errors import RequestRefused

    raise RequestRefused("0 is no address")


def _facts(target: Target) -> Facts:
    runner = Runner(target, device="generic", timeout=2.0)
    runner.learn()
    return runner.facts


def _clean_up() -> None:
    for each in LEFT:
        if isinstance(each, int):
            os.close(each)
        else:
            each.close()
    LEFT.clear()
