"""The worker: waits for kicks and listeners without the GIL, enters Python once an event."""

from collections.abc import Callable, Sequence
from typing import final

from _typeshed import FileDescriptorLike

from vhost_user.engine.placement import Placement
from vhost_user.engine.vring import Vring

@final
class Worker:
    """The event loop of one worker thread (the caller makes the thread and calls ``run`` in it).

    ``poll_microseconds`` bounds the polling before each sleep. It polls while that finds work, gives up
    when it does not, and tries again now and then (``statistics()["poll_nanoseconds"]``: at present). 0:
    never. Event ids: ``0 … len(vrings)-1`` are positions in ``vrings``; listeners use ids above
    ``first_listener_id - 1``. ``crowded`` says that rings and drivers have to share CPUs: the thread that is
    in ``run`` then moves to where its drivers sleep, if it polls (see ``Placement``).
    """

    def __init__(
        self,
        vrings: Sequence[Vring],
        *,
        first_listener_id: int,
        poll_microseconds: int = 0,
        crowded: bool = False,
    ) -> None: ...
    @property
    def vrings(self) -> tuple[Vring, ...]: ...
    @property
    def placement(self) -> Placement | None:
        """Where the thread runs; None: the scheduler alone decides."""
    def run(self, dispatch: Callable[[int, int], object]) -> None:
        """Loop until ``stop``: ``dispatch(event_id, epoll_events)`` for each ready vring or listener.

        A true return value ends the loop (the page's contract of handle_event); exceptions out of it are
        the caller's to catch. Returns when stopped.
        """
    def update(self, vring: Vring) -> None:
        """Derive the registration of a vring's kick fd from its state.

        Call after every control-plane change. A ring that is runnable is looked at at once, without a kick
        (C051); one without a kick fd is polled (C052).
        """
    def remove(self, vring: Vring) -> None:
        """Unregister its kick fd: before the fd is closed or replaced, always (C066)."""
    def register_listener(self, fd: FileDescriptorLike, events: int, data: int) -> None:
        """Have ``dispatch`` called with ``data`` when ``fd``, a number or an object with ``fileno()``, is ready.

        ``events`` are as for epoll. Several file descriptors may share an id. It stays its owner's: keep it
        open until it is unregistered. ValueError for an id below first_listener_id and for a descriptor that
        has this id already, OSError for one that cannot be waited for or has another id.
        """
    def modify_listener(self, fd: FileDescriptorLike, events: int, data: int) -> None:
        """Wait for other ``events`` of a registered file descriptor; ValueError if it is not registered."""
    def unregister_listener(self, fd: FileDescriptorLike, events: int, data: int) -> None:
        """End ``register_listener``, before ``fd`` is closed. ValueError if it is not registered.

        ``events`` are not looked at.
        """
    def set_exit_event(self, fd: FileDescriptorLike) -> None:
        """Watch ``fd`` (not owned): readable ends the loop."""
    def send_exit_event(self) -> None:
        """Write the exit event, if there is one, and end ``run`` in any case; any thread."""
    def look_again(self, position: int) -> None:
        """The handler of this vring raised: dispatch it again after 1 ms, then 2 ms … 1 s.

        Until a call of it comes back without. For ``dispatch``, in the worker's thread; other ids are
        ignored.
        """
    def stop(self) -> None:
        """End ``run`` from any thread or from a signal handler."""
    def close(self) -> None: ...
    def statistics(self) -> dict[str, int]: ...
    def fileno(self) -> int: ...
