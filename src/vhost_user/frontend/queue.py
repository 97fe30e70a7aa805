"""A virtqueue of the in-process driver: requests of bytes, waited for by threads or by asyncio."""

import asyncio
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.driver.queue import DriverQueue
from vhost_user.engine.errors import EngineError, QueueFull
from vhost_user.frontend.pending import DEFAULT_TIMEOUT, Pending
from vhost_user.protocol.errors import Disconnected, PeerTimeout, VhostUserError

if TYPE_CHECKING:
    from vhost_user.frontend.channel import MainChannel

Readable = Any
"""Bytes-like, or a sequence of them: one descriptor each."""
Writable = int | Sequence[int]
"""Bytes wanted back, or a sequence of sizes: one descriptor each."""


class Queue:
    """A virtqueue as an object; safe for several threads, which may wait for different requests at once.

    ``channel`` is watched while waiting, so that the death of the back-end ends the wait (C138). With
    ``poison`` the writable buffers are filled with a pattern first (V056).
    """

    def __init__(
        self,
        ring: DriverQueue,
        channel: "MainChannel | None" = None,
        *,
        indirect: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.ring = ring
        self.memory: DriverMemory = ring.memory
        self.channel = channel
        self.indirect = indirect
        """Whether requests use an indirect table when not told otherwise."""
        self.timeout = timeout
        self.poison = False
        self.pending: dict[int, Pending] = {}
        self._finished: list[Pending] = []
        self._condition = threading.Condition(threading.Lock())
        self._somebody_waits = False
        self._loops: dict[asyncio.AbstractEventLoop, int] = {}

    @property
    def index(self) -> int:
        """Its number."""
        return self.ring.index

    # requests

    def submit(
        self,
        readable: Readable = b"",
        writable: Writable = 0,
        *,
        indirect: bool | None = None,
        direct: int = 0,
        publish: bool = True,
        collect: bool = False,
    ) -> Pending:
        """Lend a request to the device and return at once.

        ``indirect`` and ``direct`` as for ``DriverQueue.add``. Without ``publish`` the device sees it with
        the next one that is published. With ``collect`` it is handed out by ``completed``. Raises QueueFull.
        """
        parts, sizes = _segments(readable, writable)
        pending = Pending(self, parts, sizes)
        try:
            with self._condition:
                self._lend(pending, self.indirect if indirect is None else indirect, direct)
                if collect:
                    pending.when_done(self._finished.append)
                if publish:
                    self.ring.publish()
                    self.ring.kick()
        except BaseException:
            pending.release()
            raise
        return pending

    def _lend(self, pending: Pending, indirect: bool, direct: int) -> None:
        readable, writable = pending.readable_segments, pending.writable_segments
        indirect = indirect and self.ring.indirect and len(readable) + len(writable) > 1
        if self.ring.free_slots < (1 if indirect else len(readable) + len(writable)):
            self._reap()
        pending.token = self.ring.add(readable, writable, indirect=indirect, direct=direct)
        self.pending[pending.token] = pending

    def publish(self) -> None:
        """Show the device what was submitted without publishing, and kick if it wants that."""
        with self._condition:
            self.ring.publish()
            self.ring.kick()

    def request(
        self,
        readable: Readable = b"",
        writable: Writable = 0,
        *,
        timeout: float | None = None,
        indirect: bool | None = None,
    ) -> bytes:
        """Have one request carried out: what the device wrote, as many bytes as used.len says."""
        timeout = self.timeout if timeout is None else timeout
        pending = self.submit_when_free(readable, writable, timeout, indirect=indirect, publish=True)
        data = pending.wait(timeout)
        pending.release()
        return data

    def request_many(
        self,
        requests: Iterable[tuple[Readable, Writable]],
        *,
        timeout: float | None = None,
        indirect: bool | None = None,
    ) -> list[bytes]:
        """Have many requests carried out, published as one batch as far as the ring holds them.

        Results in their order.
        """
        timeout = self.timeout if timeout is None else timeout
        every: list[Pending] = []
        for readable, writable in requests:
            every.append(self.submit_when_free(readable, writable, timeout, indirect=indirect, publish=False))
        self.publish()
        self.wait_for(every, timeout)
        results = []
        for pending in every:
            if pending.error is not None:
                raise pending.error
            results.append(pending.written)
            pending.release()
        return results

    def submit_when_free(
        self,
        readable: Readable,
        writable: Writable,
        timeout: float | None,
        *,
        indirect: bool | None = None,
        publish: bool = False,
    ) -> Pending:
        """Like ``submit``, but wait up to ``timeout`` seconds for room in the ring."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self.submit(readable, writable, indirect=indirect, publish=publish)
            except QueueFull:
                self.publish()
                with self._condition:
                    oldest = next(iter(self.pending.values()), None)
                if oldest is None:
                    continue  # another thread took its result meanwhile
                left = None if deadline is None else deadline - time.monotonic()
                self.wait_for([oldest], left)

    def post(self, writable: Writable, *, count: int = 1) -> None:
        """Leave ``count`` empty buffers with the device, as for an event or receive queue.

        See ``completed``.
        """
        for _ in range(count):
            self.submit(b"", writable, publish=False, collect=True, indirect=False)
        self.publish()

    def completed(self, *, minimum: int = 0, timeout: float | None = None) -> list[Pending]:
        """Requests made with ``collect`` or ``post`` that came back, oldest first.

        The call waits until there are ``minimum``.
        """
        timeout = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        with self._condition:
            self._reap()
            self._wait_until(lambda: len(self._finished) >= minimum, deadline)
            finished, self._finished[:] = list(self._finished), []
        return finished

    # asyncio

    async def request_async(
        self,
        readable: Readable = b"",
        writable: Writable = 0,
        *,
        indirect: bool | None = None,
    ) -> bytes:
        """The same as ``request`` for asyncio.

        ``timeout`` of the queue bounds it, or an ``asyncio.timeout`` around it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve(_: Pending) -> None:
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))

        async with asyncio.timeout(self.timeout):
            while True:
                try:
                    pending = self.submit(readable, writable, indirect=indirect)
                    break
                except QueueFull:
                    await asyncio.sleep(0.0005)
                    self.reap()
            pending.when_done(resolve)
            self._watch(loop)
            try:
                await future
            finally:
                pending.when_done(None)
                self._unwatch(loop)
        if pending.error is not None:
            raise pending.error
        data = pending.written
        pending.release()
        return data

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.ring.call_fd < 0:
            raise VhostUserError(f"queue {self.index} has no call eventfd: asyncio cannot wait for it")
        users = self._loops.get(loop, 0)
        self._loops[loop] = users + 1
        if users == 0:
            loop.add_reader(self.ring.call_fd, self._readable)
        self._readable()

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loops[loop] -= 1
        if self._loops[loop] == 0:
            del self._loops[loop]
            loop.remove_reader(self.ring.call_fd)

    def _readable(self) -> None:
        self.ring.call_count()
        with self._condition:
            try:
                while self._reap() or self.ring.enable_notifications():
                    pass
            except EngineError:  # already given to every pending request
                return

    # waiting

    def reap(self) -> int:
        """Take back what the device is done with; returns how many."""
        with self._condition:
            return self._reap()

    def _reap(self) -> int:
        try:
            done = self.ring.poll_many()
        except Exception as error:
            self._fail(error)
            raise
        for token, length in done:
            self.pending.pop(token).finish(length)
        if done:
            self._condition.notify_all()
        return len(done)

    def _fail(self, error: Exception) -> None:
        pending, self.pending = self.pending, {}
        for each in pending.values():
            each.finish(0, error)
        self._condition.notify_all()

    def restart(self) -> None:
        """Begin with a fresh ring and hand in again, in order, what the device never answered (C138)."""
        with self._condition:
            again = list(self.pending.values())
            self.pending = {}
            self.ring.reset()
            for pending in again:
                self._lend(pending, self.indirect, 0)
            self.ring.publish()

    def close(self) -> None:
        """End every request that is still out, then the ring."""
        self.fail(Disconnected(f"queue {self.index} was closed"))
        self.ring.close()

    def fail(self, error: Exception) -> None:
        """End every request that the device still has with ``error``."""
        with self._condition:
            self._fail(error)

    def wait_for(self, requests: Sequence[Pending], timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Wait until every one is done.

        Raises PeerTimeout, Disconnected when the back-end died, DeviceBroken.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = iter(requests)
        current = next(rest, None)

        def ready() -> bool:
            nonlocal current
            while current is not None and current.done:
                current = next(rest, None)
            return current is None

        with self._condition:
            self._wait_until(ready, deadline)

    def _wait_until(self, ready: Callable[[], bool], deadline: float | None) -> None:
        """One thread waits for the device on behalf of all; the others wait for that thread."""
        while not ready():
            if self._reap():
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise PeerTimeout(
                    f"queue {self.index}: the device did not answer in time\n{self.ring.describe()}"
                )
            if self._somebody_waits:
                self._condition.wait(left)
                continue
            self._somebody_waits = True
            self._condition.release()
            try:
                gone = self._block(left)
            finally:
                self._condition.acquire()
                self._somebody_waits = False
                self._condition.notify_all()
            if gone and not self._reap() and not ready():
                # The requests stay: after a reconnect they can be waited for again.
                raise Disconnected(
                    f"queue {self.index}: the back-end went away with {len(self.pending)} requests in flight"
                )

    def _block(self, timeout: float | None) -> bool:
        """Sleep until the device signals; true when the back-end hung up instead."""
        if self.ring.call_fd < 0:
            if self.channel is not None and self.channel.hung_up():
                return True
            self.ring.wait(min(0.1, timeout if timeout is not None else 0.1))
            return False
        if self.ring.enable_notifications():
            return False
        poll = select.poll()
        poll.register(self.ring.call_fd, select.POLLIN)
        if self.channel is not None:
            fd = self.channel.fileno()
            if fd < 0:
                return True
            poll.register(fd, select.POLLRDHUP)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if self.ring.call_fd in ready:
            self.ring.call_count()
            return False
        return bool(ready)


def _segments(readable: Readable, writable: Writable) -> tuple[list[Any], list[int]]:
    if isinstance(readable, (bytes, bytearray, memoryview)):
        parts = [readable] if len(readable) else []
    elif isinstance(readable, (list, tuple)):
        parts = list(readable)
    else:
        parts = [memoryview(readable).cast("B")]
    if isinstance(writable, int):
        return parts, [writable] if writable else []
    return parts, list(writable)


__all__ = ["DEFAULT_TIMEOUT", "Pending", "Queue"]
