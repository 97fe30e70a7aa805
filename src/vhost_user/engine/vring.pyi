"""A vring of the device side: ring state, doorbells, in-flight requests, the batch loop."""

from collections.abc import Callable
from typing import Any, final

from vhost_user.engine.accelerator import Accelerator
from vhost_user.engine.batch import Batch
from vhost_user.engine.request import Request
from vhost_user.engine.vring_flow import VringFlow

@final
class Vring(VringFlow):
    """One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    processes when it is ``started``, ``enabled`` and not ``suspended``; ``runnable`` says so. Every method
    is safe against the others.
    """

    # by hand
    def pop(self) -> Request | None:
        """The next request, None when there is none or the ring does not run.

        Raises RingError once when the ring is found broken. Finding the ring empty asks the driver for a
        kick, unless ``disable_notification`` was called or ``process`` serves the ring.
        """
    def add_used(self, request: Request | int, written: int = -1) -> None:
        """Put back without notifying; ``signal_used_queue`` follows. ``request.complete()`` does both.

        ``request`` may also be the head of one that ``pop`` gave out and that still exists; ``written`` is
        then 0 unless given. Raises RequestError if it is complete already, ValueError for a stranger.
        """
    def put_back(self, request: Request) -> None:
        """Undo ``pop``: the next one gives the same chain again.

        Only the request taken last can be put back, then the one before it, and so on; RequestError
        otherwise. ``process`` would take it again at once: this is for rings emptied by hand.
        """
    def go_to_previous_position(self, request: Request) -> None:
        """``put_back`` by the name that the crate has for it."""
    def needs_notification(self) -> bool:
        """Whether ``signal_used_queue`` would notify; the answer stands until it is called."""
    def signal_used_queue(self) -> bool:
        """Notify the driver if it asked for it (V016, V017, V033); True if the call fd was written."""
    def enable_notification(self) -> bool:
        """Ask the driver for kicks; True if buffers arrived meanwhile: look again (V018)."""
    def disable_notification(self) -> None: ...
    # to a handler
    def set_outcome(self, callback: Callable[[Any, Any], object] | None) -> None:
        """What becomes of the results of handlers: ``callback(request or batch, result)`` unless it is None.

        What ``callback`` raises counts as raised by the handler. Without one results go nowhere.
        """
    def process(
        self,
        handler: Callable[[Request], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        accelerator: Accelerator | None = None,
    ) -> int:
        """Take requests until the ring is empty, and call ``handler`` with each.

        After ``budget`` requests it returns, and the worker comes back (H82). Those that were neither held
        nor completed are completed; finished ones are given back, and the driver
        notified if it waits for that, after every few and at the end. An
        exception out of ``handler`` goes to ``on_error``, which may complete the request (else it is
        completed with what was written). ``accelerator`` is offered every request first
        (engine.accelerator). Returns the number taken. A ring served by ``process`` is armed by its worker
        just before sleeping.
        """
    def process_batch(
        self,
        handler: Callable[[Batch], object],
        on_error: Callable[[Request, BaseException], object] | None = None,
        budget: int = 1024,
        accelerator: Accelerator | None = None,
        *,
        size: int = 64,
    ) -> int:
        """The same, ``handler`` called once for each batch of at most ``size`` requests (1 to 64).

        What a call of the batch could not do with a request (``Request.error``) goes to ``on_error`` when
        ``handler`` has returned. Raises ValueError for another size.
        """

VringMutex = Vring
VringRwLock = Vring
