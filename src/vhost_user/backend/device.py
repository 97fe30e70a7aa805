"""``Device``: the class most devices are written with. It is a :class:`VhostUserBackend` like any other."""

from __future__ import annotations

import contextlib
import inspect
import logging
import select
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.backend.config_space import ConfigSpace
from vhost_user.backend.limited_log import LimitedLog
from vhost_user.backend.qemu import qemu_device
from vhost_user.engine.request import Header, Request
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    import asyncio

    from vhost_user.backend.backchannel import Backend
    from vhost_user.backend.daemon import VhostUserDaemon
    from vhost_user.backend.event_loop import EventLoopThread
    from vhost_user.engine.batch import Batch
    from vhost_user.engine.vring import Vring

log = logging.getLogger("vhost_user.device")

LARGEST_BATCH = 64
"""Requests; the engine takes no more at a time."""

CANCEL_PATIENCE = 1.0
"""Seconds that cancelled coroutines have to end when a session ends."""


class Device(ConfigSpace):
    """A virtio device: declare what it is, write ``handle``, override more only where needed.

    Declarations are class attributes; each can also be given in the class statement (``class Dice(Device,
    type="rng")``) or set on the instance before the daemon is made. ``handle`` is called by worker threads,
    by several of them when ``workers`` says so.
    """

    device_type: ClassVar[str] = ""
    """The device type's name as in ``vhost_user.spec``.

    ``"rng"``, ``"blk"`` … (``type=`` in the class statement).
    """
    capability_features: Sequence[str] = ()
    """What ``--print-capabilities`` lists (C141)."""
    queues: int = 1
    """Number of virtqueues."""
    queue_size: int = 1024
    """Largest ring, in descriptors: a power of two up to 32768."""
    device_features: int = 0
    """Feature bits of the device type; those of rings and transport are added."""
    extra_protocol_features: int = 0
    """Protocol features on top of those every device has."""
    header: Header | str | None = None
    """Format of the header that requests begin with; ``request.header`` has its fields."""
    workers: int | Sequence[int | Collection[int]] = 1
    """How many worker threads share the queues, or exactly what ``queues_per_thread`` is to return."""
    packed: bool = True
    """Offer packed rings (VIRTIO_F_RING_PACKED); the driver chooses."""
    in_order: bool = False
    """Offer VIRTIO_F_IN_ORDER: requests are given back in the order they came, whenever completed."""

    batch_size: int = 16
    """The most requests that ``handle_batch`` gets at once, 1 to 64.

    A driver that keeps 32 requests going is at work on 16 of them while the device is at the others; larger
    batches pay where a call for many is what they are for (``sendmmsg``), or the driver keeps more going.
    """

    driver_features: int = 0
    """The features the driver acknowledged, without those of vhost-user; 0 before it did."""
    channel: Backend | None = None
    """The back channel to the front-end, if there is one."""

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002  # reads best in class statements
        **declarations: Any,
    ) -> None:
        """Take declarations out of the class statement; TypeError for one that does not exist."""
        super().__init_subclass__()
        if type is not None:
            cls.device_type = type
        for name, value in declarations.items():
            if name not in _DECLARATIONS:
                raise TypeError(
                    f"class {cls.__name__}: {name!r} is no declaration of a Device; "
                    f"there are {', '.join(sorted(_DECLARATIONS))}"
                )
            setattr(cls, name, value)

    # What a device overrides

    def handle(self, request: Request) -> object:
        """Carry one request out. May be ``async def``.

        Returning completes the request with what was written, unless ``request.hold()`` was called: then
        somebody calls ``request.complete()`` later, from any thread. A coroutine holds its request until it
        ends. An exception is logged and goes to ``fail``; the device goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} must define handle(request)")

    def handle_batch(self, requests: Batch) -> object:
        """Override instead of ``handle`` to get the requests that are there at once, up to ``batch_size``.

        ``requests`` is a list that has the operations of a request for all of them (see :class:`Batch`).
        Completed as for ``handle``; an exception counts for every request that is not completed or held.
        """
        raise NotImplementedError(f"{type(self).__name__} must define handle_batch(requests)")

    def fail(self, request: Request, exception: BaseException) -> None:
        """Give back a request that failed, the way this device type reports errors.

        Default: with nothing written.
        """
        del exception
        request.complete(0)

    def queue_event(self, vring: Vring) -> object:
        """A queue has work or began to run. Default: its requests go to ``handle``.

        Override for queues whose buffers wait for something to happen (a receive queue); ``vring.index``
        tells which.
        """
        return self._process(vring)

    def reset(self) -> None:
        """The device is as new: the driver reset it (C075, C131), or its session ended."""

    def refresh(self) -> None:
        """Look again at what the device is made of: ``serve`` calls it at SIGHUP, if it is overridden."""

    def set_status(self, status: int) -> None:
        """See :class:`VhostUserBackend`."""

    # What a device uses

    def config_changed(self) -> None:
        """Tell the driver that ``config`` is different now; from any thread, never waits (C130).

        While all rings are stopped it is told later (C076). Does nothing without a front-end that can be
        told.
        """
        channel = self.channel
        if channel is not None:
            try:
                channel.config_change()
            except VhostUserError as error:
                log.debug("%s: configuration change not told: %s", type(self).__name__, error)

    def vring(self, index: int) -> Vring:
        """The queue ``index``; a daemon must have been made for this device."""
        return self._attached().vrings[index]

    def listen(
        self, fd: int, callback: Callable[[int], object], *, events: int = select.EPOLLIN, worker: int = 0
    ) -> None:
        """Call ``callback(epoll events)`` in worker ``worker`` whenever ``fd`` is ready (level triggered).

        Raises ValueError when ``fd`` is listened to already, OSError when it cannot be waited for.
        """
        if fd in self._listeners:
            raise ValueError(f"file descriptor {fd} is listened to already")
        handler = self._attached().get_epoll_handlers()[worker]
        self._last_listener += 1
        identifier = self.queues + self._last_listener
        self._callbacks[identifier] = callback
        try:
            handler.register_listener(fd, events, identifier)
        except BaseException:
            del self._callbacks[identifier]
            raise
        self._listeners[fd] = (worker, events, identifier)

    def unlisten(self, fd: int) -> None:
        """End ``listen``; do it before closing ``fd``."""
        worker, events, identifier = self._listeners.pop(fd)
        self._attached().get_epoll_handlers()[worker].unregister_listener(fd, events, identifier)
        del self._callbacks[identifier]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The device's asyncio loop; it has a thread of its own, which starts at the first use."""
        if self._loop_thread is None:
            from vhost_user.backend.event_loop import (  # noqa: PLC0415  # asyncio is a third of the start-up
                EventLoopThread,
            )

            self._loop_thread = EventLoopThread(f"{type(self).__name__}-asyncio")
        return self._loop_thread.loop

    def qemu_device(self) -> list[str]:
        """QEMU arguments that plug this device in, after those of its chardev ``vhost0``.

        By ``device_type``.
        """
        return qemu_device(self, self.device_type)

    # The trait

    def __new__(cls, *arguments: Any, **keywords: Any) -> Device:  # Self needs a cast in every subclass
        """Prepare the framework's part here, so that a device may forget ``super().__init__()``."""
        del arguments, keywords
        device = super().__new__(cls)
        device._daemon = None
        device._loop_thread = None
        device._listeners = {}
        device._callbacks = {}
        device._last_listener = 0
        device._tasks = set()
        device._log = LimitedLog(log)
        return device

    _daemon: VhostUserDaemon | None
    _loop_thread: EventLoopThread | None
    _listeners: dict[int, tuple[int, int, int]]
    _callbacks: dict[int, Callable[[int], object]]
    _last_listener: int
    _tasks: set[asyncio.Task[None]]
    _log: LimitedLog

    def num_queues(self) -> int:
        """``queues``."""
        return self.queues

    def max_queue_size(self) -> int:
        """``queue_size``."""
        return self.queue_size

    def features(self) -> int:
        """``device_features`` and what the framework does for every device."""
        features = self.device_features | DEFAULT_FEATURES
        if self.packed:
            features |= VirtioFeature.RING_PACKED
        if self.in_order:
            features |= VirtioFeature.IN_ORDER
        return features

    def protocol_features(self) -> int:
        """``extra_protocol_features`` and what the framework does for every device.

        CONFIG only where there is a configuration space: QEMU warns of one that its device has no use for.
        """
        features = self.extra_protocol_features | DEFAULT_PROTOCOL_FEATURES
        if self.config is None and type(self).get_config is Device.get_config:
            features &= ~ProtocolFeature.CONFIG
        return features

    def queues_per_thread(self) -> Sequence[int | Collection[int]]:
        """``workers``; a mere number shares the queues out in consecutive runs."""
        if not isinstance(self.workers, int):
            return self.workers
        workers = max(1, min(self.workers, self.queues))
        return [self.queues // workers + (worker < self.queues % workers) for worker in range(workers)]

    def acked_features(self, features: int) -> None:
        """Keeps them as ``driver_features``."""
        self.driver_features = features

    def set_backend_req_fd(self, backend: Backend) -> None:
        """Keeps it as ``channel``."""
        self.channel = backend

    def handle_event(
        self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
    ) -> bool | None:
        """To ``queue_event`` or to the callback of ``listen``."""
        del thread_id
        if device_event < len(vrings):
            self.queue_event(vrings[device_event])
        elif callback := self._callbacks.get(device_event):
            callback(event_set)
        return None

    def reset_device(self) -> None:
        """To ``reset``."""
        self.reset()

    def attached(self, daemon: VhostUserDaemon) -> None:
        """Chooses how requests are handled, and gives the vrings the header format."""
        self._daemon = daemon
        kind = type(self)
        if kind.handle_batch is not Device.handle_batch:
            if not 1 <= self.batch_size <= LARGEST_BATCH:
                raise ValueError(
                    f"class {kind.__name__}: batch_size {self.batch_size} is outside of 1 … {LARGEST_BATCH}"
                )
            self._process = self._process_batches
        elif inspect.iscoroutinefunction(self.handle):
            self._process = self._process_coroutines
        elif kind.handle is not Device.handle:
            self._process = self._process_each
        elif kind.queue_event is Device.queue_event and kind.handle_event is Device.handle_event:
            raise TypeError(
                f"class {kind.__name__} defines neither handle(request) nor handle_batch(requests) "
                "nor queue_event(vring)"
            )
        self._declare_header()

    def session_ended(self) -> None:
        """Coroutines are cancelled, negotiated features forgotten, then ``reset``."""
        if self._loop_thread is not None:
            self._loop_thread.cancel_all(CANCEL_PATIENCE)
        self.driver_features = 0
        self.channel = None
        self.reset()

    def close(self) -> None:
        """The daemon ended for good. A device that overrides this calls ``super().close()``."""
        if self._loop_thread is not None:
            self._loop_thread.close()
            self._loop_thread = None
        self._daemon = None
        self._callbacks.clear()
        self._listeners.clear()

    # How requests get to ``handle``

    _process: Callable[[Vring], object]

    def _process_each(self, vring: Vring) -> object:
        return vring.process(self.handle, self._failed)

    def _process_batches(self, vring: Vring) -> object:
        return vring.process_batch(self.handle_batch, self._failed, size=self.batch_size)

    def _process_coroutines(self, vring: Vring) -> object:
        return vring.process_batch(self._hand_over, self._failed)

    def _hand_over(self, requests: Batch) -> None:
        for request in requests:
            request.hold()
        self.loop.call_soon_threadsafe(self._start_coroutines, list(requests))

    def _start_coroutines(self, requests: list[Request]) -> None:
        for request in requests:
            task = self.loop.create_task(self._carry_out(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, request: Request) -> None:
        import asyncio  # noqa: PLC0415  # loaded already where there are coroutines; see loop

        try:
            outcome = self.handle(request)
            assert inspect.isawaitable(outcome)  # chosen so in attached()
            await outcome
            if not request.completed:
                request.complete()
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                self.fail(request, asyncio.CancelledError())
            raise
        except Exception as error:  # noqa: BLE001  # whatever it raises belongs to this one request
            self._failed(request, error)
        finally:
            if self._daemon is not None:
                self._daemon.check_memory()

    def _failed(self, request: Request, exception: BaseException) -> None:
        self._log.log(
            logging.ERROR,
            "%s: a request of queue %d (head %d) failed: %s",
            type(self).__name__, request.queue, request.head, exception,
            exception=exception,
        )  # fmt: skip
        if not request.completed:
            self.fail(request, exception)

    # The rest

    def _attached(self) -> VhostUserDaemon:
        if self._daemon is None:
            raise RuntimeError(f"no daemon was made for this {type(self).__name__} yet")
        return self._daemon

    def _declare_header(self) -> None:
        if self.header is None:
            return
        header = Header(self.header) if isinstance(self.header, str) else self.header
        for vring in self._attached().vrings:
            vring.set_header(header)


_DECLARATIONS = frozenset(
    {
        "batch_size",
        "capability_features",
        "config",
        "config_writable",
        "device_features",
        "extra_protocol_features",
        "header",
        "in_order",
        "packed",
        "queue_size",
        "queues",
        "workers",
    }
)
