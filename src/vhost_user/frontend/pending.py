"""A request that the device has, or had."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vhost_user.engine.driver.memory import DriverMemory

DEFAULT_TIMEOUT = 10.0
"""Seconds that a device gets for a request."""
POISON = 0xA5
"""What writable buffers are filled with on a queue that poisons them (V056)."""


class Submitter(Protocol):
    """What a request needs of the queue that it was put into; ``Queue`` is one."""

    memory: "DriverMemory"
    poison: bool

    def wait_for(self, requests: "Sequence[Pending]", timeout: float | None) -> None:
        """Return once all of them are done. Raises PeerTimeout, DeviceBroken, Disconnected."""

    def publish(self) -> None:
        """Show the device everything that waits to be published."""


class Pending:
    """A request that the device has, or had.

    Its buffers live until ``release`` (or the end of the object).
    """

    def __init__(
        self, queue: Submitter, readable: Sequence[bytes | bytearray | memoryview], writable: Sequence[int]
    ) -> None:
        self._queue = queue
        self._memory = queue.memory
        self.readable_size = sum(map(len, readable))
        self.writable_size = sum(writable)
        self.token = 0
        self.length = 0
        """What used.len said, in bytes."""
        self.done = False
        self.error: Exception | None = None
        self._callback: Callable[[Pending], object] | None = None
        self._address: int | None = self._memory.allocate(max(self.readable_size + self.writable_size, 1))
        address = self._address
        self.readable_segments: list[tuple[int, int]] = []
        for part in readable:
            self._memory.write(address, part)
            self.readable_segments.append((address, len(part)))
            address += len(part)
        self.writable_address = address
        self.writable_segments: list[tuple[int, int]] = []
        for size in writable:
            self.writable_segments.append((address, size))
            address += size
        if queue.poison and self.writable_size:
            self._memory.fill(self.writable_address, self.writable_size, POISON)

    @property
    def data(self) -> bytes:
        """The whole writable part, whatever used.len said."""
        return self._memory.read(self.writable_address, self.writable_size) if self.writable_size else b""

    @property
    def view(self) -> memoryview:
        """The writable part without a copy; valid until ``release``."""
        return self._memory.view(self.writable_address, self.writable_size)

    @property
    def written(self) -> bytes:
        """What the device said it wrote: the first ``length`` bytes of the writable part."""
        return self._memory.read(self.writable_address, self.length) if self.length else b""

    @property
    def tail_is_untouched(self) -> bool:
        """Whether nothing was written beyond ``length``.

        Known only on a queue that poisons its buffers (V056).
        """
        return not self.data[self.length :].strip(bytes([POISON]))

    def wait(self, timeout: float | None = DEFAULT_TIMEOUT) -> bytes:
        """Wait up to ``timeout`` seconds for the device, and return what it wrote.

        Raises PeerTimeout, DeviceBroken, Disconnected.
        """
        self._queue.wait_for([self], timeout)
        if self.error is not None:
            raise self.error
        return self.written

    def publish(self) -> None:
        """Show it to the device, with everything else that waits to be published."""
        self._queue.publish()

    def release(self) -> None:
        """Give the buffers back; only when the device is done with them (or gone for good).

        May be called again.
        """
        address, self._address = self._address, None
        if address is not None:
            with contextlib.suppress(ValueError):  # the memory was closed as a whole
                self._memory.free(address)

    def finish(self, length: int, error: Exception | None = None) -> None:
        """The device is done with it: called by the queue."""
        self.length = length
        self.error = error
        self.done = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(self)

    def when_done(self, callback: "Callable[[Pending], object] | None") -> None:
        """Call ``callback`` with this request once it is done, in the thread that notices.

        At once if it is done already; None forgets an earlier callback. It is called with the queue locked
        and must not use the queue.
        """
        if self.done and callback is not None:
            callback(self)
        else:
            self._callback = callback

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.done:
            self.release()

    def __del__(self) -> None:
        if getattr(self, "done", False):
            self.release()
