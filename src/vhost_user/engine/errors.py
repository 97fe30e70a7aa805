"""Errors of the engine: what a hostile ring or a broken memory table turns into.

Each carries the rule it broke (an id of the conformance list in docs/rules.md) and the place: queue, head,
guest address, length. Plain Python on purpose, so that the classes can be raised from any compiled module.
"""

from __future__ import annotations

from vhost_user.spec.errors import VhostUserError


class EngineError(VhostUserError):
    """Base of everything the engine raises about shared memory.

    ``rule`` is the id of the rule that was broken, ``reason`` says how. The text has both, after the place
    (``where``: the queue, the head), if there is one.
    """

    rule: str

    def __init__(self, reason: str, *, rule: str = "", where: str = "") -> None:
        super().__init__(f"{where}{': ' if where else ''}{reason}{f' [{rule}]' if rule else ''}")
        self.reason = reason
        self.rule = rule


class MemoryTableError(EngineError):
    """A memory region cannot be mapped or does not fit the table (C035 to C043): the table stays as it was."""


class MemoryFault(EngineError):
    """A guest address range is not mapped, wholly or in part (V011).

    ``address`` and ``length`` give the range in guest-physical bytes; ``queue`` and ``head`` the request it
    came from, or -1 where there is none.
    """

    def __init__(
        self, address: int, length: int, *, queue: int = -1, head: int = -1, rule: str = "V011", reason: str = "is not mapped"
    ) -> None:
        where = f"queue {queue}, head {head}" if queue >= 0 else ""
        super().__init__(f"guest memory {address:#x}+{length:#x} {reason}", rule=rule, where=where)
        self.address = address
        self.length = length
        self.queue = queue
        self.head = head


class MemoryLost(EngineError):
    """The front-end took pages of its shared memory away (truncated the file): the session must end (C039, H85)."""


class RingError(EngineError):
    """The driver broke a rule of the virtqueue: the ring is stopped, everything else goes on (V003 to V032).

    ``queue`` is the ring's index, ``head`` the chain's head or buffer id (-1 if the ring itself is malformed).
    """

    def __init__(self, message: str, *, rule: str, queue: int, head: int = -1) -> None:
        where = f"queue {queue}, head {head}" if head >= 0 else f"queue {queue}"
        super().__init__(message, rule=rule, where=where)
        self.queue = queue
        self.head = head


class RingSetupError(EngineError):
    """A ring is set up in a way that cannot work (C056 to C073): it stays as it was. ``queue`` is its index."""

    def __init__(self, reason: str, *, rule: str, queue: int) -> None:
        super().__init__(reason, rule=rule, where=f"queue {queue}")
        self.queue = queue


class RingValueError(RingSetupError, ValueError):
    """A size, an address or a base that no such ring can have."""


class RingStateError(RingSetupError, RuntimeError):
    """Not now: the ring runs, or it cannot start because something is missing or does not fit."""


class DoorbellError(EngineError, ValueError):
    """A file descriptor that cannot be a doorbell: nothing to signal and to wait for without blocking (C067)."""


class RequestError(EngineError):
    """A request was used in a way its buffers do not allow: completed twice, written past its end, or after its session ended."""


class DeviceBroken(EngineError):  # noqa: N818  # a state of the device, as in the specification
    """The device broke a rule of the ring that this driver shares with it (V014, V041, V053 to V055, H109).

    ``picture`` shows the ring in words.
    """

    def __init__(self, message: str, *, rule: str, queue: int, picture: str = "") -> None:
        super().__init__(f"the device broke the ring: {message}", rule=rule, where=f"queue {queue}")
        self.queue = queue
        self.picture = picture


class QueueFull(EngineError):  # noqa: N818  # a state of the ring
    """Not enough free descriptors in the driver's queue; reap first."""
