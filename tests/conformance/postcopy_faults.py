"""Post-copy carried out wrongly, for the checks that must notice (C118 to C121)."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.conformance.faults import Patch, around, message, nothing, refuse
from vhost_user.backend.dispatch import FdReply
from vhost_user.backend.pager import Pager
from vhost_user.spec.structs import Memory


def _another_descriptor(_old: Any, _handler: Any, _payload: Any, _fds: Any) -> FdReply:
    return FdReply(None, os.eventfd(0))


def _answers_what_it_was_told(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    answer = old(handler, payload, fds)
    return payload if isinstance(answer, Memory) else answer


def _waits_for_requests(old: Any, handler: Any, payload: Any, fds: Any) -> Any:
    deadline = time.monotonic() + 4
    while any(ring.vring.in_flight for ring in handler.rings) and time.monotonic() < deadline:
        time.sleep(0.01)
    return old(handler, payload, fds)


POSTCOPY_MUTANTS: dict[str, Patch] = {
    "C118-userfaultfd": message("postcopy_advise", _another_descriptor),
    "C118-order": message("postcopy_listen", nothing),
    "C119-addresses": message("set_mem_table", _answers_what_it_was_told),
    "C120-end": message("postcopy_end", refuse),
    "C121-faults": around(Pager, "add", lambda old, *given: old(*given) + (1 << 40)),
    "C121-main-channel": message("get_features", _waits_for_requests),
}
