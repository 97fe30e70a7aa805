"""Every request has one method, in one group, that takes what the row of the table says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from vhost_user.backend.dispatch import Dispatcher, RequestGroup, takes_fds, takes_payload
from vhost_user.backend.handler import GROUPS
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, VringState
from vhost_user.spec.table import ReplyKind, RequestRow

ROWS = list(FRONTEND_REQUESTS)
SESSION: Any = SimpleNamespace()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_has_one_method_that_takes_what_the_row_carries(row: RequestRow) -> None:
    (group,) = [group for group in GROUPS if hasattr(group, row.handler)]
    hints = get_type_hints(getattr(group, row.handler))
    answer = hints.pop("return")
    # What says in post-copy that page faults are served comes by the same number (C119).
    payload = row.payload | U64 if row.request is FrontendRequest.SET_MEM_TABLE else row.payload
    assert list(hints.values()) == [payload] * takes_payload(row) + [OwnedFds] * takes_fds(row)
    if row.reply is ReplyKind.ACK:
        answers = {type(None), row.postcopy_reply and row.postcopy_reply | None}
        assert answer in answers, "success is acked by the session"


def test_a_row_without_a_method_is_refused_when_the_dispatcher_is_made() -> None:
    with pytest.raises(TypeError, match=r"GET_FEATURES is carried out by no group; exactly one has get_fea"):
        Dispatcher(FRONTEND_REQUESTS, [group(SESSION) for group in GROUPS[1:]])


def test_a_row_with_two_methods_is_refused_when_the_dispatcher_is_made() -> None:
    class Second(RequestGroup):
        def get_vring_base(self, payload: VringState) -> VringState:
            return payload

    row = FRONTEND_REQUESTS[FrontendRequest.GET_VRING_BASE]
    with pytest.raises(TypeError, match="GET_VRING_BASE is carried out by RingRequests and Second"):
        Dispatcher([row], [group(SESSION) for group in (*GROUPS, Second)])


@pytest.mark.parametrize(
    ("request_id", "expected"),
    [
        (FrontendRequest.SET_OWNER, ()),
        (FrontendRequest.SET_VRING_NUM, ("payload",)),
        (FrontendRequest.SET_LOG_FD, ("fds",)),
        (FrontendRequest.SET_VRING_KICK, ("payload", "fds")),
    ],
)
def test_a_method_is_given_what_its_row_carries(
    request_id: FrontendRequest, expected: tuple[str, ...]
) -> None:
    row = FRONTEND_REQUESTS[request_id]
    group = RequestGroup(SESSION)
    given: list[tuple[object, ...]] = []
    setattr(group, row.handler, lambda *arguments: given.append(arguments))
    request: Any = SimpleNamespace(row=row, payload="payload", fds="fds")
    Dispatcher([row], [group]).carry_out(request)
    assert given == [expected]
