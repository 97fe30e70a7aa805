"""IOTLB messages carried out wrongly, for the checks that must notice (C088 to C092)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from tests.conformance.faults import Patch, features, message
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import IotlbType


def _wants_a_permission(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    if payload.perm > 3:
        raise RequestRefused("no such permission")
    return old(handler, payload, fds)


def _waits_for_translations(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    deadline = time.monotonic() + 0.5
    while handler.rings[payload.index].vring.translation.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    return old(handler, payload, fds)


def _takes_any_memory(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    with contextlib.suppress(RequestRefused):
        old(handler, payload, fds)


def _remembers(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    return old(handler, payload, fds) if payload.type == IotlbType.UPDATE else None


IOMMU_MUTANTS: dict[str, Patch] = {
    "C088-translated": features(lambda bits: bits & ~int(VirtioFeature.ACCESS_PLATFORM)),
    "C089-invalidate": message("iotlb_msg", _wants_a_permission),
    "C090-no-answer": message("get_vring_base", _waits_for_translations),
    "C091-unknown-memory": message("iotlb_msg", _takes_any_memory),
    "C091-forgotten": message("iotlb_msg", _remembers),
    "C092-read-only": message(
        "iotlb_msg",
        lambda old, handler, payload, fds: old(handler, dataclasses.replace(payload, perm=3), fds),
    ),
}
