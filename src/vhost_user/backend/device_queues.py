"""The part of a device that knows its queues: those that its class declares, and what happens to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from vhost_user.backend.buffer_queue import BufferQueue
from vhost_user.backend.declarations import check, made_header
from vhost_user.backend.handling import RequestHandling
from vhost_user.backend.queues import Queue
from vhost_user.protocol.errors import RequestRefused

if TYPE_CHECKING:
    from vhost_user.engine.device.header import Header
    from vhost_user.engine.device.request import Request
    from vhost_user.engine.device.vring import Vring

QueueT = TypeVar("QueueT", bound=Queue)


class DeviceQueues(RequestHandling):
    """Queues by declaration, or so many of one kind."""

    queues: int = 1
    """Number of virtqueues; a class that declares them (:class:`Queue`) need not say it."""
    queue_size: int = 1024
    """Largest ring, in descriptors: a power of two up to 32768."""
    header: Header | str | type[Any] | None = None
    """Format of the header that requests begin with; ``request.header`` has its fields.

    Fields are little-endian and follow each other without padding, as in ``struct`` with a ``<``. A class of
    ``vhost_user.spec`` makes an object of them: ``header = VsockHeader``, ``request.header.src_cid``.
    """
    stop_patience: float | None = 5.0
    """Seconds that requests in flight may take to end when their queue stops; None: as long as they need.

    Then coroutines are cancelled, and what still is not completed goes back to the driver, to be served after
    the next start. A device whose late writes would do harm (a disk) says None.
    """
    declared_queues: Mapping[int, Queue] = MappingProxyType({})
    """The queues that the class declares, and those of ``add_queue``, by number."""

    def __init_subclass__(cls, **declarations: Any) -> None:
        """Collect the queues that the class declares. TypeError when two have one number."""
        super().__init_subclass__(**declarations)
        mine = [queue for queue in vars(cls).values() if isinstance(queue, Queue)]
        if not mine:
            return
        hidden = {queue.name for queue in mine}
        found = {number: queue for number, queue in cls.declared_queues.items() if queue.name not in hidden}
        for queue in mine:
            if (other := found.get(queue.index)) is not None:
                raise TypeError(
                    f"class {cls.__name__}: {queue.name} and {other.name} both have number {queue.index}"
                )
            found[queue.index] = queue
        cls.declared_queues = MappingProxyType(dict(sorted(found.items())))
        if "queues" not in vars(cls):
            cls.queues = max(found) + 1

    # What a device overrides

    def queue_started(self, queue: int) -> None:
        """The ring of this queue runs from now on (C050)."""

    def queue_stopping(self, queue: int) -> float | None:
        """The ring of this queue stopped, and its requests are waited for (C053): complete what you hold.

        What is not complete after ``stop_patience`` goes back to the driver, or after so many seconds as this
        returns. Buffers that wait in a ``BufferQueue`` go back at once. Called in the control thread, which
        answers nobody meanwhile.
        """
        del queue
        return None

    # What a device uses

    def bound_queue(self, declared: Queue) -> Queue:
        """The device's own twin of a queue that its class declares; the attribute gives the same."""
        queue = self._bound.get(declared.index)
        if queue is None:
            queue = self._bound[declared.index] = declared.bind(self)
        return queue

    def add_queue(
        self, queue: QueueT, name: str, handler: Callable[[Any, Request], object] | None = None
    ) -> QueueT:
        """Declare one more queue for this object alone: its arguments say how many queues it has.

        ``name`` is for messages; ``handler`` is a function of the class, for a :class:`Queue` that brings
        requests. Gives the object's own twin. Call it before the daemon is made: RuntimeError afterwards.
        Raises TypeError when there is a queue of that number.
        """
        if self._daemon is not None:
            raise RuntimeError(f"this {type(self).__name__} is served already: add queues before that")
        if (other := self.declared_queues.get(queue.index)) is not None:
            raise TypeError(f"{type(self).__name__}: {name} and {other.name} both have number {queue.index}")
        queue.name = name
        if handler is not None:
            queue.handler(handler)
        self.declared_queues = MappingProxyType(
            dict(sorted([*self.declared_queues.items(), (queue.index, queue)]))
        )
        self.queues = max(self.declared_queues) + 1
        twin = self.bound_queue(queue)
        assert isinstance(twin, type(queue))
        return twin

    def vring(self, index: int) -> Vring:
        """The queue ``index``; a daemon must have been made for this device."""
        if self._daemon is None:
            raise RuntimeError(f"no daemon was made for this {type(self).__name__} yet")
        return self._daemon.vrings[index]

    # The framework's part

    _bound: dict[int, Queue]
    _serve: dict[int, Callable[[Vring], object]]
    """What brings the requests of each queue to its handler."""

    def _prepare_queues(self) -> None:
        self._bound = {}
        self._serve = {}

    @property
    def _roles(self) -> list[Queue]:
        return [self.bound_queue(declared) for declared in self.declared_queues.values()]

    def _role(self, index: int) -> Queue | None:
        declared = self.declared_queues.get(index)
        return None if declared is None else self.bound_queue(declared)

    def _choose_queues(self, vrings: Sequence[Vring], *, handles_events: bool) -> None:
        """Choose for each queue how its requests get to the device, and what its headers are."""
        kept = [vring for vring in vrings if vring.index not in self.declared_queues]
        self._choose_handling(vrings, handles_events=handles_events or not kept)
        header = None if self.header is None else made_header(self.header)
        for vring in vrings:
            role = self._role(vring.index)
            self._serve[vring.index] = self._brings(role)
            own = header if role is None or role.header is None else role.header
            if own is not None:
                vring.set_header(own)

    def _brings(self, role: Queue | None) -> Callable[[Vring], object]:
        """What is called when a queue has work or began to run."""
        # It is called for every few requests, for each at depth 1: what is decided here costs nothing there.
        process: Callable[[Vring], object]
        if role is not None and role.handle is not None:
            process = self._processing(role.handle.__get__(self), batches=role.batches)
        elif self._overridden("queue_event") or not hasattr(self, "_process"):
            process = self.queue_event
        else:
            process = self._process
        if role is None or type(role).available is Queue.available:
            return process
        available = role.available
        return lambda vring: None if available() else process(vring)

    # The trait

    def num_queues(self) -> int:
        """``queues``."""
        check(type(self), "queues", self.queues)
        return self.queues

    def max_queue_size(self) -> int:
        """``queue_size``."""
        check(type(self), "queue_size", self.queue_size)
        return self.queue_size

    def max_queue_size_of(self, queue: int) -> int:
        """The ``size`` that the queue was declared with, else ``queue_size``."""
        role = self.declared_queues.get(queue)
        return self.max_queue_size() if role is None or role.size is None else role.size

    def vring_started(self, queue: int) -> None:
        """To the declared queue, and to ``queue_started``."""
        if (role := self._role(queue)) is not None:
            role.started()
        self.queue_started(queue)

    def vring_stopping(self, queue: int) -> float | None:
        """To ``queue_stopping`` and the declared queue, which may say how long requests are waited for."""
        own = self.queue_stopping(queue)
        role = self._role(queue)
        patience = None if role is None else role.stopping()
        if own is not None:
            return own
        return self.stop_patience if patience is None else patience

    def vring_overdue(self, queue: int) -> None:
        """The coroutines of this queue are cancelled."""
        self._cancel_requests(queue)

    def vring_stopped(self, queue: int) -> None:
        """To the declared queue."""
        if (role := self._role(queue)) is not None:
            role.stopped()

    def framework_state(self) -> dict[str, object]:
        """What waits for buffers, and what the bases of this class keep."""
        backlogs = [
            [role.index, role.saved_backlog()] for role in self._roles if isinstance(role, BufferQueue)
        ]
        return {**super().framework_state(), "backlogs": backlogs}

    def load_framework_state(self, parts: dict[str, Any]) -> None:
        """Take over what ``framework_state`` gave in another process."""
        super().load_framework_state(parts)
        roles = {role.index: role for role in self._roles if isinstance(role, BufferQueue)}
        for index, messages in parts.get("backlogs", []):
            if not isinstance(messages, list) or not all(isinstance(data, bytes) for data in messages):
                raise RequestRefused("the backlog of a queue in the state is not made of bytes", rule="C127")
            if index in roles:
                roles[index].load_backlog(messages)

    def _end_queues(self) -> None:
        for role in self._roles:
            role.ended()
