"""The entropy device (virtio 1.4, 5.4): one queue of buffers to be filled with random bytes.

from vhost_user import serve
from vhost_user.devices import Rng

serve(Rng())                       # the host's entropy
serve(Rng(random.Random(7).randbytes))   # the same numbers every time, for tests
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from vhost_user.backend import Device
from vhost_user.engine.device.request import Request
from vhost_user.protocol.limited_log import LimitedLog

if TYPE_CHECKING:
    from vhost_user.backend.timers import Timer

_log = logging.getLogger(__name__)
_report = LimitedLog(_log)

MAX_REQUEST = 64 << 10
"""Bytes given for one request at most: a guest must not make the host allocate what it pleases."""

IN_HAND_PATIENCE = 0.05
"""Seconds that a queue which stops waits for requests that are being answered at this moment."""


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, length: int, /) -> bytes | None:
        """Up to ``length`` bytes."""


ByteSource: TypeAlias = Callable[[int], bytes] | Readable | Iterable[bytes | int]
"""Where random bytes come from.

A function of a length, a binary file object, or an iterable of byte strings or of numbers below 256.
"""


def _from_file(file: Readable) -> Callable[[int], bytes]:
    read = getattr(
        file, "read1", file.read
    )  # read1 returns what is there instead of waiting for the full length

    def draw(length: int) -> bytes:
        return read(length) or b""

    return draw


def _from_iterable(values: Iterable[bytes | int]) -> Callable[[int], bytes]:
    iterator: Iterator[bytes | int] = iter(values)
    rest = bytearray()

    def draw(length: int) -> bytes:
        while len(rest) < length:
            value = next(iterator, None)
            if value is None:
                break
            if isinstance(value, int):
                rest.append(value)
            else:
                rest.extend(value)
        data = bytes(rest[:length])
        del rest[:length]
        return data

    return draw


def _as_function(source: object) -> Callable[[int], bytes]:
    if isinstance(source, Readable):
        return _from_file(source)
    if callable(source):
        return source
    if isinstance(source, Iterable) and not isinstance(source, str):
        return _from_iterable(source)
    raise TypeError(
        f"{source!r} is not a source of bytes: give a function of a length, a binary file object "
        "or an iterable of bytes"
    )


def _generator(draw: Callable[[int], bytes]) -> random.Random | None:
    """The generator whose method a source is."""
    owner = getattr(draw, "__self__", None)
    return owner if isinstance(owner, random.Random) and not isinstance(owner, random.SystemRandom) else None


class Rng(Device, type="rng"):
    """Entropy for the guest from any Python source of bytes; ``os.urandom`` if none is given.

    A guest that is given no bytes stops asking, so a request is never answered with none: when the source
    has come to its end or raises, that is logged and ``os.urandom`` takes its place from then on.

    ``max_bytes`` and ``period`` (seconds) limit the rate: at most so many bytes in each period; a request
    that comes when they are used up waits for the next one; when its queue stops it goes back unused, and
    the driver has it served after the next start. Raises TypeError or ValueError for arguments
    that make no sense.
    """

    queues = 1

    def __init__(
        self, source: ByteSource | None = None, *, max_bytes: int | None = None, period: float = 1.0
    ) -> None:
        super().__init__()
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(
                f"max_bytes is {max_bytes}: with less than one byte in a period the guest would wait for ever"
            )
        if not period > 0:
            raise ValueError(f"period is {period}: it must be a positive number of seconds")
        self._draw = os.urandom if source is None else _as_function(source)
        self._max_bytes = max_bytes
        self._period = period
        self._left = max_bytes or 0
        self._period_ends = 0.0
        self._waiting: deque[Request] = deque()
        self._timer: Timer | None = None
        self._lock = threading.Lock()

    def handle(self, request: Request) -> None:
        """Fill the writable part, or as much of it as is given at a time."""
        if self._max_bytes is None:
            request.write(self._bytes(min(request.writable, MAX_REQUEST)))
            return
        with self._lock:
            request.hold()
            self._waiting.append(request)
            self._serve_waiting()

    def _bytes(self, length: int) -> bytes:
        """Between 1 and ``length`` bytes; none only for a length of 0."""
        try:
            data = bytes(self._draw(length)[:length])
        except Exception:  # noqa: BLE001 - whatever a user's source raises, the guest gets its entropy
            _log.exception("the source of random bytes failed; os.urandom takes its place")
            data = b""
        else:
            if not data and length:
                _log.error("the source of random bytes has come to its end; os.urandom takes its place")
        if not data and length:
            self._draw = os.urandom
            data = os.urandom(length)
        return data

    # State: a generator with a seed goes on where it was; what else there is has none, or it is elsewhere

    def save_state(self) -> object:
        """The state of a generator of ``random``; None for any other source."""
        generator = _generator(self._draw)
        return None if generator is None else generator.getstate()

    def load_state(self, state: Any, version: int) -> None:
        """Have the generator go on where the other one was, if both devices have one."""
        del version  # there was one so far
        generator = _generator(self._draw)
        if generator is None or state is None:
            return
        kind, numbers, gauss = state
        generator.setstate((kind, tuple(numbers), gauss))

    # The rate limit

    def _serve_waiting(self) -> None:
        """Answer what this period still allows; the rest when the next begins. Called with the lock held."""
        while self._waiting:
            now = time.monotonic()
            if now >= self._period_ends:
                self._left = self._max_bytes or 0
                self._period_ends = now + self._period
            if not self._left:
                if self._timer is None:
                    self._timer = self.call_later(self._period_ends - now, self._next_period)
                return
            request = self._waiting.popleft()
            if not request.alive:
                continue
            try:
                self._left -= request.write(self._bytes(min(request.writable, self._left, MAX_REQUEST)))
                request.complete()
            except Exception as error:  # noqa: BLE001 - an unmapped buffer, say: this request fails, the next is served
                _report.warning("queue %d, head %d: %s", request.queue, request.head, error)
                self.fail(request, error)

    def _next_period(self) -> None:
        with self._lock:
            self._timer = None
            self._serve_waiting()

    def queue_stopping(self, queue: int) -> float | None:
        """What waits for the next period goes back to the driver at once (C054)."""
        if self._max_bytes is None or not self._lock.acquire(timeout=IN_HAND_PATIENCE):
            return None  # the source is being asked, and takes its time: that is waited for
        try:
            # Those of an earlier stop went back, and came again as other requests.
            self._waiting = deque(request for request in self._waiting if request.alive)
            waiting = sum(request.queue == queue for request in self._waiting)
            return IN_HAND_PATIENCE if self.vring(queue).in_flight > waiting else 0.0
        finally:
            self._lock.release()

    def reset(self) -> None:
        """Forget what waits for the next period: its session is over."""
        # A source that never answers has the lock, and must not keep the next front-end out: what waits is
        # dead, and passed by when its turn comes.
        if not self._lock.acquire(timeout=IN_HAND_PATIENCE):
            return
        try:
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        finally:
            self._lock.release()
