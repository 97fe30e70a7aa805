"""Which method carries out which request, and what it is given: what the row of the table says, no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vhost_user.spec.structs import Empty

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user.backend.state import SessionState
    from vhost_user.protocol.responder import ReceivedMessage
    from vhost_user.spec.structs import Payload
    from vhost_user.spec.table import RequestRow


@dataclass(frozen=True, slots=True)
class FdReply:
    """A reply with a file descriptor, which is closed once it is sent."""

    payload: Payload | None
    fd: int


class RequestGroup:
    """Carries out the requests of one subject, a method for each: ``RequestRow.handler`` is its name.

    A method takes what its row carries: the payload, unless that is empty, and then ``fds: OwnedFds``, if
    descriptors come with the message and are not just closed. It returns the payload of the reply, an
    FdReply, or None for success without more to say. It runs in the control thread, after everything that
    the row says was checked, and raises RequestRefused to refuse. Groups know the session, not each other.
    """

    def __init__(self, session: SessionState) -> None:
        self.session = session


def takes_payload(row: RequestRow) -> bool:
    """Whether the method of this row is given the payload."""
    return row.payload is not Empty


def takes_fds(row: RequestRow) -> bool:
    """Whether the method of this row is given the descriptors."""
    return row.carries_fds and row.fds.keep


class Dispatcher:
    """The methods of several groups, by the requests that they carry out.

    Raises TypeError when a row of the table has no method, or several.
    """

    def __init__(self, rows: Iterable[RequestRow], groups: Iterable[RequestGroup]) -> None:
        groups = tuple(groups)
        self._methods: dict[int, Callable[..., Payload | FdReply | None]] = {}
        for row in rows:
            found = [group for group in groups if callable(getattr(group, row.handler, None))]
            if len(found) != 1:
                names = " and ".join(type(group).__name__ for group in found) or "no group"
                raise TypeError(f"{row.name} is carried out by {names}; exactly one has {row.handler}()")
            self._methods[row.id] = getattr(found[0], row.handler)

    def carry_out(self, request: ReceivedMessage) -> Payload | FdReply | None:
        """Call the method of a request with what its row carries."""
        arguments: list[Any] = []
        if takes_payload(request.row):
            arguments.append(request.payload)
        if takes_fds(request.row):
            arguments.append(request.fds)
        return self._methods[request.row.id](*arguments)
