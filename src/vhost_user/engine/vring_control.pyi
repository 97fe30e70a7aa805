"""The control plane of a vring: its state, its memory and doorbells, how it starts and stops."""

from collections.abc import Callable
from typing import Self

from vhost_user.engine.errors import RingError
from vhost_user.engine.memory import GuestMemory
from vhost_user.engine.request import Header

class VringControl:
    """What the session's thread does with a vring."""

    def __init__(self, index: int, max_size: int, *, on_broken: Callable[[Self, RingError], object] | None = None) -> None: ...
    # identity and state
    @property
    def index(self) -> int:
        """Global queue index."""
    @property
    def max_size(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def packed(self) -> bool: ...
    @property
    def indirect_limit(self) -> int:
        """Entries of an indirect table that are followed: 4096 unless set, and always as many as the ring has.

        Drivers make tables longer than the ring, with as many entries as the device's configuration allows;
        a longer one breaks the ring (V005). 1 to 65536; counts from the next chain on.
        """
    @indirect_limit.setter
    def indirect_limit(self, value: int) -> None: ...
    @property
    def max_read(self) -> int:
        """Bytes that ``Request.read()`` gives without being told a length; 16 MiB unless set."""
    @max_read.setter
    def max_read(self, value: int) -> None: ...
    @property
    def started(self) -> bool: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def suspended(self) -> bool: ...
    @property
    def runnable(self) -> bool: ...
    @property
    def broken(self) -> RingError | None:
        """The rule the driver broke, if it did; cleared by reset and by a new start."""
    @property
    def in_flight(self) -> int:
        """Requests taken and not yet completed."""
    def heads_in_flight(self) -> list[int]:
        """Their heads (split) or buffer ids (packed), ascending."""
    @property
    def has_kick(self) -> bool: ...
    @property
    def has_call(self) -> bool: ...
    @property
    def kick(self) -> int:
        """The kick fd, or -1; for the worker's registration."""
    def statistics(self) -> dict[str, int]:
        """Counters since creation.

        Requests, batches, calls sent, calls suppressed, kicks, polls that found work …
        """
    # control plane
    def set_features(self, *, packed: bool, event_idx: bool, indirect: bool, in_order: bool, notify_on_empty: bool = False) -> None:
        """What was negotiated. ``packed`` cannot change while started.

        Without ``indirect``, indirect tables are served all the same: drivers exist that use them unasked.
        """
    def set_size(self, size: int) -> None:
        """SET_VRING_NUM; raises ValueError with the rule (C070) and, when started, RuntimeError (C072)."""
    def set_addresses(self, *, descriptor: int, driver: int, device: int, log_address: int | None = None) -> None:
        """Guest addresses of the three areas.

        They are desc, avail, used for a split ring; ring, driver event, device event for a packed one.
        Raises ValueError on misalignment (C071). While started it moves the ring or toggles logging (C072,
        C086). The split ring's used index is read from the ring at start (C059). ``log_address`` None: ring
        writes are not logged (C079).
        """
    def set_base(self, value: int) -> None:
        """SET_VRING_BASE in the negotiated form (C057).

        Of a packed ring the upper half may be absent (zero): the used position is the available one then. Plain 0
        is a new ring if no descriptor was ever used when the ring starts. See the bases of packed rings in
        docs/messages.md.
        """
    def base(self) -> int:
        """What GET_VRING_BASE answers."""
    def set_memory(self, memory: GuestMemory | None) -> None:
        """New snapshot: ring areas are translated again.

        A ring whose memory went away pauses until it comes back (C041, C044).
        """
    @property
    def mapped(self) -> bool:
        """All three areas lie in mapped memory."""
    def set_header(self, header: Header | None) -> None: ...
    def set_kick(self, fd: int | None) -> None:
        """Take ownership of the kick fd (None: poll, C052).

        A kick pending on the old one is not lost (C066). ValueError for what is neither an eventfd nor the
        right end of a pipe nor one end of a Unix socket pair (C067): it stays the caller's, and the old one
        in use. So for the two below.
        """
    def set_call(self, fd: int | None) -> None:
        """Take ownership of the call fd; a new one is signalled once (C065)."""
    def set_err(self, fd: int | None) -> None: ...
    def start(self) -> None:
        """C050; raises RuntimeError naming what is missing: size, addresses or memory (C073)."""
    def set_enabled(self, enabled: bool) -> None: ...
    def set_suspended(self, suspended: bool) -> None: ...
    def stop(self) -> None:
        """Take no more requests; in-flight ones may still complete (C053)."""
    def drain(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds, GIL released, until no request is in flight (C054).

        True when none is.
        """
    def abandon(self) -> None:
        """Forget the in-flight requests: completing them later does nothing (C055, end of session)."""
    def give_back(self) -> tuple[int, int]:
        """Give the requests in flight of a stopped ring back to the driver; nobody is going to answer them.

        Those taken last count as never taken: ``base`` steps back, and the next start finds them again. One that is
        older than a request which was completed cannot be untaken: it is used with length 0. Gives the numbers of the
        two. The requests can no longer be used. Raises RuntimeError while the ring is started.
        """
    def reset(self) -> None:
        """Back to the state of creation.

        Abandon, close all fds, drop memory, addresses, base, flags (C134).
        """
