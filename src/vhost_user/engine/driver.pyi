"""The driver's side of a virtqueue in memory of our own: what split and packed rings have in common.

Make one with ``SplitDriverQueue`` or ``PackedDriverQueue``. The device is not trusted: what it returns is
judged by the driver's own record (V053 to V055), and a device that breaks a rule raises DeviceBroken from
then on. Addresses are guest addresses, lengths bytes. A queue may be used by several threads, one at a time
each call.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vhost_user.engine.driver_memory import DriverMemory
from vhost_user.engine.errors import EngineError

MAX_QUEUE_SIZE: int

class DeviceBroken(EngineError):  # noqa: N818  # a state of the device, as in the specification
    """The device broke a rule of the ring (V014, V041, V053 to V055, H109).

    ``picture`` shows the ring in words.
    """

    queue: int
    picture: str
    def __init__(self, message: str, *, rule: str, queue: int, picture: str = "") -> None: ...

class QueueFull(EngineError):  # noqa: N818  # a state of the ring
    """Not enough free descriptors; reap first."""

class DriverQueue:
    """A virtqueue as the driver sees it.

    ``start`` is the ring's first index, in the form of SET_VRING_BASE (C057).

    The queue makes its kick and call eventfds; with ``polled_kicks`` or ``polled_calls`` it has none and the
    side concerned polls (C052). ``tolerate_length`` clamps a used length that is too long instead of calling
    the device broken. Raises ValueError for a size that this kind of ring cannot have (C070), MemoryError
    without room.
    """

    tolerate_length: bool
    def __init__(
        self,
        memory: DriverMemory,
        size: int,
        *,
        index: int = 0,
        event_idx: bool = False,
        indirect: bool = False,
        in_order: bool = False,
        start: int = 0,
        polled_kicks: bool = False,
        polled_calls: bool = False,
    ) -> None: ...
    @property
    def memory(self) -> DriverMemory: ...
    @property
    def index(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def packed(self) -> bool: ...
    @property
    def event_idx(self) -> bool: ...
    @property
    def indirect(self) -> bool: ...
    @property
    def in_order(self) -> bool: ...
    @property
    def descriptor_address(self) -> int: ...
    @property
    def driver_address(self) -> int:
        """Avail ring, or driver event structure of a packed ring."""
    @property
    def device_address(self) -> int:
        """Used ring, or device event structure of a packed ring."""
    @property
    def base(self) -> int:
        """What SET_VRING_BASE must carry for a ring that was just made or reset."""
    @property
    def kick_fd(self) -> int: ...
    @property
    def call_fd(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def free_slots(self) -> int:
        """Free descriptors."""
    @property
    def outstanding(self) -> int:
        """Buffers lent to the device and not yet reaped."""
    @property
    def broken_by(self) -> DeviceBroken | None:
        """The error that every call raises now, if the device broke a rule and somebody looked."""
    @property
    def kicks(self) -> int: ...
    @property
    def kicks_suppressed(self) -> int: ...
    @property
    def calls(self) -> int:
        """Signals taken from the call eventfd."""
    @property
    def missed_calls(self) -> int:
        """How often ``wait`` ran out of time although used buffers were there: the device owed a call."""
    def add(
        self,
        readable: Sequence[tuple[int, int]] = (),
        writable: Sequence[tuple[int, int]] = (),
        *,
        indirect: bool = False,
        direct: int = 0,
    ) -> int:
        """Lend a buffer of (guest address, length) segments to the device.

        The device sees it after ``publish``. Returns its token.

        ``indirect`` puts the descriptors into an indirect table, all but the first ``direct`` (split ring
        only, V008, V030). Raises QueueFull, or ValueError for a chain that the ring can never hold or that
        was not negotiated.
        """
    def publish(self) -> None:
        """Make everything added visible to the device, in one step."""
    def needs_kick(self) -> bool:
        """Whether the device wants a kick for what was published since the last time it was asked (V018)."""
    def kick(self, force: bool = False) -> bool:
        """Kick if the device wants it, or in any case; True if it was kicked."""
    def poll(self) -> tuple[int, int] | None:
        """The next used buffer as (token, used length), None when there is none. Raises DeviceBroken."""
    def poll_many(self, limit: int = 1024) -> list[tuple[int, int]]: ...
    def enable_notifications(self) -> bool:
        """Ask the device for calls and look again; True if there are used buffers already."""
    def disable_notifications(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Wait, GIL released, until there is something to poll, or ``timeout`` seconds passed (False)."""
    def call_count(self) -> int:
        """How often the device signalled since last asked."""
    def describe(self) -> str:
        """The ring in words, for logs and failure output."""
    def statistics(self) -> dict[str, int]: ...
    def reset(self, start: int = 0) -> None:
        """As new: everything lent is forgotten. Only while the device does not use the ring."""
    def close(self) -> None:
        """Close the eventfds, give the memory back."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
