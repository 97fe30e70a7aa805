"""What can go wrong on a vhost-user connection.

Every error says which message it is about, what is wrong and which rule (ids of the specification's rules, as
in docs/messages.md) was broken. The root, and how all errors hang together: ``vhost_user.spec.errors``.
"""

from vhost_user.spec.errors import VhostUserError

__all__ = [
    "Disconnected",
    "OutstandingReplyError",
    "PeerTimeout",
    "ProtocolError",
    "RequestRefused",
    "SocketError",
    "VhostUserError",
]


class ProtocolError(VhostUserError):
    """The peer broke the framing, or left no way to answer: the connection must be closed."""

    rule: str

    def __init__(self, reason: str, *, rule: str, message: str | None = None) -> None:
        self.reason = reason
        self.rule = rule
        self.message = message
        super().__init__(
            f"{message + ': ' if message else ''}{reason} [{rule}]; the connection must be closed"
        )


class RequestRefused(VhostUserError):  # noqa: N818  # a refusal is an answer, and the name colleagues know
    """A request that is not carried out: the connection lives on, the peer gets a non-zero ack if it asked.

    Handlers raise it with a reason and a rule; ``message`` and ``queue`` are filled in by the session.
    """

    def __init__(
        self, reason: str, *, rule: str | None = None, message: str | None = None, queue: int | None = None
    ) -> None:
        self.reason = reason
        self.rule = rule
        self.message = message
        self.queue = queue
        super().__init__(reason)

    def __str__(self) -> str:
        where = f"{self.message or 'request'}{'' if self.queue is None else f' (queue {self.queue})'}"
        return f"{where} refused: {self.reason}{f' [{self.rule}]' if self.rule else ''}"


class Disconnected(VhostUserError):  # noqa: N818  # the normal end of a session is not a failure
    """The peer closed the connection. ``clean`` tells whether it did so between two messages (C016)."""

    def __init__(self, reason: str = "the peer closed the connection", *, clean: bool = True) -> None:
        self.clean = clean
        self.rule = None if clean else "C016"
        super().__init__(reason if clean else f"{reason} [{self.rule}]")


class PeerTimeout(VhostUserError, TimeoutError):  # noqa: N818  # named after the TimeoutError it is
    """The peer neither read nor wrote in the time given (H90)."""

    def __init__(self, reason: str, *, rule: str | None = None) -> None:
        super().__init__(f"{reason} [{rule}]" if rule else reason)
        self.rule = rule


class OutstandingReplyError(VhostUserError, RuntimeError):
    """One request at a time: the reply to the one before has not come yet (C102)."""

    rule = "C102"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason} [{self.rule}]")


class SocketError(VhostUserError, OSError):
    """A socket could not be opened or listened on; the text says which and what to do."""
