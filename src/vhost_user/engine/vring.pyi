"""A vring of the device side: ring state, doorbells, in-flight requests, the batch loop."""

from collections.abc import Callable
from typing import final

from vhost_user.engine.accelerator import Accelerator
from vhost_user.engine.errors import RingError
from vhost_user.engine.memory import GuestMemory
from vhost_user.engine.request import Header, Request

@final
class Vring:
    """One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    processes when it is ``started``, ``enabled`` and not ``suspended``; ``runnable`` says so. Every method
    is safe against the others.
    """

    def __init__(
        self, index: int, max_size: int, *, on_broken: Callable[[Vring, RingError], object] | None = None
    ) -> None: ...
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
    def set_features(
        self, *, packed: bool, event_idx: bool, indirect: bool, in_order: bool, notify_on_empty: bool = False
    ) -> None:
        """What was negotiated. ``packed`` cannot change while started."""
    def set_size(self, size: int) -> None:
        """SET_VRING_NUM; raises ValueError with the rule (C070) and, when started, RuntimeError (C072)."""
    def set_addresses(
        self, *, descriptor: int, driver: int, device: int, log_address: int | None = None
    ) -> None:
        """Guest addresses of the three areas.

        They are desc, avail, used for a split ring; ring, driver event, device event for a packed one.
        Raises ValueError on misalignment (C071). While started it moves the ring or toggles logging (C072,
        C086). The split ring's used index is read from the ring at start (C059). ``log_address`` None: ring
        writes are not logged (C079).
        """
    def set_base(self, value: int) -> None:
        """SET_VRING_BASE in the negotiated form (C057)."""
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

        A kick pending on the old one is not lost (C066).
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
    def reset(self) -> None:
        """Back to the state of creation.

        Abandon, close all fds, drop memory, addresses, base, flags (C134).
        """
    # data plane
    def pop(self) -> Request | None:
        """The next request, None when there is none or the ring does not run.

        Raises RingError once when the ring is found broken. Finding the ring empty asks the driver for a
        kick, unless ``disable_notification`` was called or ``process`` serves the ring.
        """
    def add_used(self, request: Request, written: int = -1) -> None:
        """Put back without notifying; ``signal_used_queue`` follows. ``request.complete()`` does both."""
    def needs_notification(self) -> bool:
        """Whether ``signal_used_queue`` would notify; the answer stands until it is called."""
    def signal_used_queue(self) -> bool:
        """Notify the driver if it asked for it (V016, V017, V033); True if the call fd was written."""
    def enable_notification(self) -> bool:
        """Ask the driver for kicks; True if buffers arrived meanwhile: look again (V018)."""
    def disable_notification(self) -> None: ...
    def process(
        self,
        handler: Callable[[Request], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        accelerator: Accelerator | None = None,
    ) -> int:
        """Take requests until the ring is empty, and call ``handler`` with each.

        After ``budget`` requests it returns, and the worker comes back (H82). Those that were neither held
        nor completed are completed; used entries are published and the driver notified in batches. An
        exception out of ``handler`` goes to ``on_error``, which may complete the request (else it is
        completed with what was written). ``accelerator`` is offered every request first
        (engine.accelerator). Returns the number taken. A ring served by ``process`` is armed by its worker
        just before sleeping.
        """
    def process_batch(
        self,
        handler: Callable[[list[Request]], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        accelerator: Accelerator | None = None,
    ) -> int:
        """The same, ``handler`` called once a batch."""

VringMutex = Vring
VringRwLock = Vring
