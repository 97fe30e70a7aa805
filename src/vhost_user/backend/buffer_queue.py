"""``BufferQueue``: receive and event queues, whose buffers wait for something to happen."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vhost_user.backend.queues import Handler, HasVrings, Queue
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog

if TYPE_CHECKING:
    from vhost_user.backend.listeners import BufferListener

log = logging.getLogger("vhost_user.device")

Overflow: TypeAlias = Literal["refuse", "drop-oldest"]

IN_HAND_PATIENCE = 0.05
"""Seconds that a queue which stops waits for buffers that were taken and are being filled."""


class BufferQueue(Queue):
    """A virtqueue whose buffers are kept until the device has something for them (virtio 1.4, 2.6).

    Two ways to use it. ``post`` hands over data: it goes into the next buffer, or waits in a backlog until
    the driver brings one. ``take``, ``take_where`` and ``get`` hand out buffers, which are requests to be
    completed. Both from any thread.

    When the queue stops, buffers that wait go back to the driver unused, and those that were taken have
    50 milliseconds to be completed: afterwards they are dead, and using one raises
    :class:`vhost_user.engine.errors.RequestError`. What is in the backlog stays for the next start.

    ``backlog`` is how many messages wait for buffers; ``overflow`` says what ``post`` does when it is full:
    ``"refuse"`` the new one, or ``"drop-oldest"``. With ``stream`` the data is a stream of bytes, which fills
    buffers however it was cut into messages (a console); without, each message goes into a buffer of its
    own (a packet, an event). The other arguments are those of :class:`Queue`.
    """

    def __init__(
        self,
        index: int,
        *,
        header: Header | str | type[Any] | None = None,
        size: int | None = None,
        feature: int = 0,
        backlog: int = 1024,
        overflow: Overflow = "refuse",
        stream: bool = False,
    ) -> None:
        super().__init__(index, header=header, size=size, feature=feature)
        if backlog < 0:
            raise ValueError(f"queue {index}: a backlog of {backlog} messages; it must be 0 or more")
        if overflow not in {"refuse", "drop-oldest"}:
            raise ValueError(f"queue {index}: overflow is 'refuse' or 'drop-oldest', not {overflow!r}")
        self.backlog = backlog
        self.overflow = overflow
        self.stream = stream
        self.dropped = 0
        """Messages that were refused, dropped, or too long for the buffer they met."""
        self._callback: Callable[..., object] | None = None
        self._begin()

    def prepare(self, device: HasVrings) -> None:
        """Become the twin of one device, with a state of its own."""
        super().prepare(device)
        self._begin()

    def _begin(self) -> None:
        # Under the lock nothing waits: taking a buffer and completing one are calls into the engine.
        self._lock = threading.RLock()
        self._waiting: deque[Request] = deque()
        self._backlog: deque[memoryview] = deque()
        self._in_need: _Waiters = []
        self._out_of_room: _Waiters = []
        self._sources: list[BufferListener] = []
        self._log = LimitedLog(log)

    def on_available(self, function: Handler) -> Handler:
        """Decorate the method that a worker calls when there are buffers that nothing waits for."""
        self._callback = function
        return function

    # Buffers by hand

    def take(self) -> Request | None:
        """The next buffer, or None. Whoever takes one completes it."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else self._pop()

    def take_where(self, wanted: Callable[[Request], object]) -> Request | None:
        """The first buffer for which ``wanted`` is true, or None; the others go on waiting."""
        with self._lock:
            self._pop_all()
            for position, buffer in enumerate(self._waiting):
                if wanted(buffer):
                    del self._waiting[position]
                    return buffer
        return None

    async def get(self) -> Request:
        """The next buffer, as soon as there is one."""
        while True:
            with self._lock:
                buffer = self.take()
                if buffer is not None:
                    return buffer
                future = _waiter(self._in_need)
            await future

    def put_back(self, buffer: Request) -> None:
        """A buffer that was taken and is not needed: it is the next again."""
        with self._lock:
            self._waiting.appendleft(buffer)

    @property
    def has_buffer(self) -> bool:
        """There is a buffer that nobody has taken."""
        with self._lock:
            if not self._waiting and (buffer := self._pop()) is not None:
                self._waiting.append(buffer)
            return bool(self._waiting)

    # Data

    def post(self, data: bytes | bytearray | memoryview) -> bool:
        """Give this data to the driver, in the next buffer; copied if it has to wait. Never blocks.

        False: the backlog is full, and the data was refused.
        """
        with self._lock:
            view = memoryview(data).cast("B")
            if not self._backlog and not (view := self._deliver(view)):
                return True
            if len(self._backlog) >= self.backlog:
                self.dropped += 1
                if self.overflow == "refuse" or not self._backlog:
                    return False
                self._backlog.popleft()
            self._backlog.append(memoryview(bytes(view)))
        return True

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """As ``post``, but waits while the backlog is full: back-pressure for whoever produces the data."""
        while True:
            with self._lock:
                if len(self._backlog) < max(1, self.backlog):
                    self._backlog.append(memoryview(bytes(data)))
                    self._pump()
                    return
                future = _waiter(self._out_of_room)
            await future

    def clear(self) -> None:
        """Forget what is in the backlog."""
        with self._lock:
            self._backlog.clear()
            _wake(self._out_of_room)

    def saved_backlog(self) -> list[bytes]:
        """What is in the backlog, for a migration or an upgrade."""
        with self._lock:
            return [bytes(data) for data in self._backlog]

    def load_backlog(self, messages: list[bytes]) -> None:
        """Go on with the backlog of elsewhere, as much of it as there is room for; the oldest first."""
        with self._lock:
            self._backlog.clear()
            self._backlog.extend(memoryview(data) for data in messages[: max(1, self.backlog)])

    def __len__(self) -> int:
        """Messages in the backlog."""
        return len(self._backlog)

    def __bool__(self) -> bool:
        return True

    def _pump(self) -> None:
        """From the backlog into buffers, as far as there are any. Called with the lock held."""
        while self._backlog:
            rest = self._deliver(self._backlog[0])
            if rest:
                self._backlog[0] = rest
                break
            self._backlog.popleft()
        if len(self._backlog) < max(1, self.backlog):
            _wake(self._out_of_room)

    def _deliver(self, data: memoryview) -> memoryview:
        """Write data into buffers; what is left of it waits for more. Called with the lock held."""
        while data:
            buffer = self.take()
            if buffer is None:
                return data
            if not self.stream and len(data) > buffer.writable:
                self.dropped += 1
                self._log.log(
                    logging.WARNING,
                    "%s: a message of %d bytes does not fit into a buffer of %d and is dropped",
                    self.name, len(data), buffer.writable,
                )  # fmt: skip
                self.put_back(buffer)
                return data[len(data) :]
            try:
                done = buffer.write(data[: buffer.writable])
            except EngineError as error:
                # The driver's mistake (an unmapped buffer), or the ring stopped: the data meets the next one.
                self._log.log(logging.WARNING, "%s: a buffer cannot be filled: %s", self.name, error)
                buffer.complete(0)
                continue
            buffer.complete()
            data = data[done:]
        return data

    def _pop(self) -> Request | None:
        try:
            buffer = self.vring.pop()
        except EngineError:
            return None  # the driver broke the ring: that is logged where it is found
        if buffer is not None:
            buffer.hold()
        return buffer

    def _pop_all(self) -> None:
        while (buffer := self._pop()) is not None:
            self._waiting.append(buffer)

    # Listeners that feed it (Device.listen, into=)

    def add_source(self, source: BufferListener) -> None:
        """Wait for what feeds this queue, as long as it has a buffer."""
        with self._lock:
            self._sources.append(source)
            self.check_sources()

    def remove_source(self, source: BufferListener) -> None:
        """The listener ended."""
        with self._lock:
            if source in self._sources:
                self._sources.remove(source)

    def check_sources(self) -> None:
        """Buffers came or went: wait for what feeds the queue, or do not."""
        with self._lock:
            if self._sources:
                wanted = self.has_buffer
                for source in self._sources:
                    (source.resume if wanted else source.pause)()

    # What the framework tells it

    def available(self) -> bool:
        """Serve the backlog, then whoever waits for a buffer, then the callback."""
        with self._lock:
            self._pump()
            if self._in_need:
                _wake(self._in_need)
            self.check_sources()
        if self._callback is not None and self.has_buffer:
            self._callback(self.device)
        return self.handle is None

    def stopping(self) -> float | None:
        """Nothing is waited for, but buffers that were taken have a moment."""
        with self._lock:
            in_hand = self.vring.in_flight - len(self._waiting)
        return IN_HAND_PATIENCE if in_hand > 0 else 0.0

    def stopped(self) -> None:
        """The buffers that waited went back to the driver."""
        with self._lock:
            self._waiting.clear()

    def ended(self) -> None:
        """As new: the backlog was for a driver that is gone."""
        with self._lock:
            self._waiting.clear()
            self.clear()


_Waiters: TypeAlias = "list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]"


def _waiter(waiters: _Waiters) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    waiters.append((loop, future))
    return future


def _wake(waiters: _Waiters) -> None:
    for loop, future in waiters:
        loop.call_soon_threadsafe(_settle, future)
    waiters.clear()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
