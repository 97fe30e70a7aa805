"""When a disk's bytes are ours: from the first request of a guest until all of its queues rest.

A guest that migrates has two back-ends for a while, both with the same image open. The source's queues stop,
and only then the destination's begin; so the storage is active, and an image locked, only while requests may
come. Whoever starts while another is active waits a little, and is refused then.

The same holds between two sessions, and after a reset: what the one before left under way, in a handler or in
the kernel, may still be written, so nobody is served before it has ended. A process that is killed needs no
such care: its end waits for its io_uring requests before its files are closed, and with them the lock goes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from vhost_user.backend import NotYet, RingError
from vhost_user.devices.blk_config import DiskConfiguration
from vhost_user.devices.storage import StorageError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from vhost_user.backend import Vring

LEAVE_PATIENCE = 0.1
"""Seconds that a stop waits for workers on their way out of a queue that has nothing in flight any more."""

log = logging.getLogger(__name__)


class ActiveDisk(DiskConfiguration):
    """The part of ``Blk`` that has its storage active while a guest may use it."""

    activation_patience: float = 5.0
    """Seconds that a queue which begins waits for another program to give the image up.

    Then it is refused: it stays as it is until its ring is started again. Other queues, devices and the
    session go on.
    """

    def _prepare_activation(self, queues: int) -> None:
        # Held while a queue is served: neither close() nor a stop takes the storage away from a worker in the
        # middle of it. `_active` becomes False only with all of them held.
        self._in_use = tuple(threading.Lock() for _ in range(queues))
        self._activation = threading.Lock()
        self._active = False
        self._leaving = False
        """The storage is to be given up by whoever leaves a queue next."""
        self._late = False
        """Requests of a session that is over may still be under way. Set while no queue runs."""
        self._late_for: set[int] = set()
        """Queues that wait for that, and have said so."""
        self._refused_at: dict[int, float] = {}
        """Queues that wait, and when that ends."""
        self._obstacles = LimitedLog(log)

    def _may_be_served(self, vring: Vring) -> bool:
        """Activate the storage for a queue that has work; its lock is held.

        Raises NotYet while somebody else has it. False: there is nothing to serve, or the queue is refused.
        """
        if not vring.runnable:
            return False
        try:
            with self._activation:
                if not self._active:
                    self.storage.activate()
                    self._active = True
        except (OSError, StorageError) as error:
            self._wait(vring, error)
            return False
        self._refused_at.pop(vring.index, None)
        self._take_over_size()
        return True

    def _wait(self, vring: Vring, error: OSError | StorageError) -> None:
        """NotYet, or the end of patience."""
        now = time.monotonic()
        until = self._refused_at.setdefault(vring.index, now + self.activation_patience)
        if now < until:
            raise NotYet
        del self._refused_at[vring.index]
        vring.refuse(RingError(str(error), rule="", queue=vring.index))
        self._obstacles.log(
            logging.ERROR,
            "%s: queue %d is refused until it is started again: %s",
            type(self).__name__,
            vring.index,
            error.strerror if isinstance(error, OSError) and error.strerror else error,
        )

    def _take_over_size(self) -> None:
        """Whoever had the image before may have made it longer or shorter."""
        try:
            if self.storage.measure() != self._sectors * SECTOR_SIZE:
                self.resize()
        except (OSError, StorageError) as error:
            self._obstacles.log(logging.ERROR, "%s: %s", type(self).__name__, error)

    def vring_started(self, queue: int) -> None:
        """A queue begins: from now on it has ``activation_patience`` to get the storage."""
        self._refused_at.pop(queue, None)
        super().vring_started(queue)

    def vring_stopped(self, queue: int) -> None:
        """With the last queue the storage is given up, before the front-end learns that it rests."""
        super().vring_stopped(queue)
        self._let_go(LEAVE_PATIENCE)

    def session_ended(self) -> None:
        """The storage is given up when the last request of this session has left it."""
        super().session_ended()
        self._wait_for_late_ones()

    def reset_device(self) -> None:
        """Requests that did not end in time may still be at work on the storage: they are waited for."""
        super().reset_device()
        self._wait_for_late_ones()

    def _wait_for_late_ones(self) -> None:
        self._late_for.clear()
        self._late = self._active
        self._let_go(LEAVE_PATIENCE)

    def _late_ones_ended(self, vring: Vring) -> bool:
        """Whether the storage is at rest, so that this queue may be served. Raises NotYet while it waits."""
        with self._in_use[vring.index]:
            # Another thread may not: a fast path is its worker's.
            if self._late and self._fast_paths:
                self._fast_paths[vring.index].settle()
        self._let_go()
        if not self._late:
            return True
        if not vring.runnable:
            return False
        if vring.index not in self._late_for:
            self._late_for.add(vring.index)
            self._obstacles.log(
                logging.WARNING,
                "%s: queue %d waits: requests of the session before are still under way on the storage",
                type(self).__name__,
                vring.index,
            )
        raise NotYet

    def _let_go(self, patience: float = 0.0) -> None:
        """Give the storage up if nothing uses it any more; else whoever uses it last does so.

        Between two sessions in any case, even if the next one's queues have begun.
        """
        with self._activation:
            self._leaving = self._active and (self._late or not self._wanted())
            if not self._leaving:
                return
            # From here on every worker that comes out of a queue looks at `_leaving`, and comes here.
            with self._all_queues(patience) as held:
                if not held or any(self._under_way()):
                    return
                self._leaving = self._active = self._late = False
                try:
                    self.storage.deactivate()
                except OSError as error:
                    self._obstacles.log(logging.ERROR, "%s: %s", type(self).__name__, error)

    def _wanted(self) -> bool:
        vrings = () if self._daemon is None else self._daemon.vrings
        return any(vring.started and vring.enabled for vring in vrings)

    def _under_way(self) -> Iterator[bool]:
        """What may still touch the storage: requests in flight, in the kernel, and coroutines."""
        yield bool(self._tasks)
        for vring in () if self._daemon is None else self._daemon.vrings:
            yield vring.in_flight > 0
        for fast_path in self._fast_paths:
            yield fast_path.statistics()["under_way"] > 0

    @contextmanager
    def _all_queues(self, patience: float) -> Iterator[bool]:
        """Hold the locks of all queues, or say that they cannot be had in so many seconds."""
        until = time.monotonic() + patience
        with ExitStack() as stack:
            for lock in self._in_use:
                if not lock.acquire(timeout=max(0.0, until - time.monotonic())):
                    yield False
                    return
                stack.callback(lock.release)
            yield True
