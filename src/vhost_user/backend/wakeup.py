"""How other threads and signal handlers reach the control thread while it waits."""

from __future__ import annotations

import contextlib
import os
import select


class WakeUp:
    """An eventfd, and the flag that says why it was written. Takes no lock: a signal handler may use it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.stopping = False
        """The daemon is to serve nobody any more."""

    def fileno(self) -> int:
        """Readable when somebody called ``stop`` or ``nudge``; -1 once closed."""
        return self._fd

    def stop(self) -> None:
        """Have the control thread end what it does."""
        self.stopping = True
        self.nudge()

    def nudge(self) -> None:
        """Have the control thread look around."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Wait again next time. The flag stays, so that no stop is lost: look at it after this."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def sleep(self, seconds: float) -> None:
        """Wait so long, or until somebody wakes us."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(seconds * 1000)

    def close(self) -> None:
        """Close the eventfd; ``stop`` and ``nudge`` do nothing to it afterwards."""
        fd, self._fd = self._fd, -1
        os.close(fd)
