"""Queues with roles: a device declares each of its virtqueues, and what belongs to it.

    class Lines(Device, type="gpio"):
        requests = Queue(0, header="<HHI")
        events = BufferQueue(1, size=64, header="<HH")

        @requests.handler
        def request(self, request): ...

        def level_changed(self, line):             # any thread
            buffer = self.events.take_where(lambda buffer: buffer.header[0] == line)

``Queue`` brings requests to a handler. ``BufferQueue`` keeps the driver's buffers until something happens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from vhost_user.backend.declarations import made_header

if TYPE_CHECKING:
    from vhost_user.engine.device.header import Header
    from vhost_user.engine.device.vring import Vring

Handler = TypeVar("Handler", bound=Callable[..., object])


class HasVrings(Protocol):
    """What a queue needs of its device."""

    def vring(self, index: int) -> Vring:
        """The vring of queue ``index``."""

    def bound_queue(self, declared: Queue) -> Queue:
        """The device's own twin of a queue that its class declares."""


class Queue:
    """One virtqueue whose requests go to a handler (virtio 1.4, 2.6).

    ``index`` is its number in the device. ``header`` is what its requests begin with: a format, a class of
    ``vhost_user.spec``, or a :class:`vhost_user.Header`. ``size`` is its largest ring in descriptors, by
    default the device's ``queue_size``; some front-ends choose sizes by themselves and do not ask (QEMU: 256
    for gpio). ``feature`` are feature bits of the device type without which the queue does not exist.

    Raises ValueError or TypeError for an index, a size or a header that makes no sense.
    """

    def __init__(
        self,
        index: int,
        *,
        header: Header | str | type[Any] | None = None,
        size: int | None = None,
        feature: int = 0,
    ) -> None:
        if not 0 <= index < 256:
            raise ValueError(f"queue {index}: queues have the numbers 0 to 255")
        if size is not None and not (1 <= size <= 32768 and size & (size - 1) == 0):
            raise ValueError(f"queue {index}: size {size} is not a power of two up to 32768")
        self.index = index
        self.header = None if header is None else made_header(header)
        self.size = size
        self.feature = feature
        self.name = f"queue {index}"
        self.handle: Callable[..., object] | None = None
        """The function that the class declared with ``handler``; it takes the device and a request."""
        self.batches = False
        """``handle`` takes a batch instead of a request."""
        self._device: HasVrings | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: HasVrings | None, owner: type) -> Self:
        if instance is None:
            return self
        twin = instance.bound_queue(self)
        assert isinstance(twin, type(self))
        return twin

    def handler(self, function: Handler) -> Handler:
        """Decorate the method that gets this queue's requests, as ``Device.handle`` does."""
        self.handle = function
        return function

    def batch_handler(self, function: Handler) -> Handler:
        """Decorate the method that gets this queue's requests in batches, as ``Device.handle_batch`` does."""
        self.handle = function
        self.batches = True
        return function

    def bind(self, device: HasVrings) -> Self:
        """The twin that belongs to one device; the framework makes it."""
        twin = copy.copy(self)
        twin.prepare(device)
        return twin

    def prepare(self, device: HasVrings) -> None:
        """Become the twin of one device."""
        self._device = device

    @property
    def device(self) -> Any:
        """The device this queue belongs to; RuntimeError for the declaration in a class."""
        if self._device is None:
            raise RuntimeError(f"{self.name} is a declaration; use it on an instance of the device")
        return self._device

    @property
    def vring(self) -> Vring:
        """The vring underneath; a daemon must have been made for the device."""
        ring: Vring = self.device.vring(self.index)
        return ring

    # What the framework tells it

    def started(self) -> None:
        """The ring runs."""

    def available(self) -> bool:
        """The ring has work or began to run. True: the queue saw to it, its handler is not to be called."""
        return False

    def stopping(self) -> float | None:
        """The ring stopped and its requests are waited for.

        Gives how many seconds they are waited for before the framework gives them back; None: as long as the
        device says.
        """
        return None

    def stopped(self) -> None:
        """Nothing of the ring is in flight any more."""

    def ended(self) -> None:
        """The session ended, or the driver reset the device."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.index} {self.name}>"
