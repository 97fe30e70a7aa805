"""``VhostUserDaemon``: connects a back-end to front-ends in turn, and owns its vrings and workers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from vhost_user.backend import ownership
from vhost_user.backend.answers import check_kind, checked_sizes
from vhost_user.backend.arrivals import Arrivals
from vhost_user.backend.assignment import assign_queues
from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.memory_faults import let_memory_faults_through
from vhost_user.backend.reconnecting import Reconnecting
from vhost_user.backend.ring import Ring
from vhost_user.backend.session_serving import SEND_TIMEOUT, SessionServing
from vhost_user.backend.signals import stopped_by
from vhost_user.backend.state import SessionState
from vhost_user.backend.wakeup import WakeUp
from vhost_user.backend.worker_threads import WorkerThreads
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.device.worker import Worker
from vhost_user.engine.errors import RingError
from vhost_user.engine.memory.atomic import GuestMemoryAtomic
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.listener import Listener, connect
from vhost_user.protocol.trace import Tracer
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature

log = logging.getLogger("vhost_user.backend")

CLOSE_PATIENCE = 5.0
"""Seconds that ``close`` waits for calls into the device to return; then it goes on without them (C142)."""
MAX_POLL = 20
"""Microseconds that a worker polls before it sleeps, at most and by default, with more than one CPU."""
MAX_SHARED_CPUS = 4
"""With more CPUs than these, or than queues, a worker stays where the scheduler puts it."""

Source = Callable[[], Connection | None]


class VhostUserDaemon(SessionServing):
    """Serves one back-end to one front-end at a time.

    After a disconnect everything is as before and the next may come (C134).

    ``name`` is for logs and thread names. ``memory`` is the cell for the guest's memory, made here if not
    given. ``poll_microseconds`` bounds the polling of a worker before it sleeps (None: 20, or 0 on one CPU);
    ``cpus`` are the CPUs that workers are bound to, in turn. ``tracer`` is called for every message of both
    channels, by several threads; it must not raise. The log has them all at level DEBUG. What the back-end's
    methods return is looked at here: TypeError or ValueError names the method, what it returned, and the
    queue that has no worker, or several. ValueError also for CPUs that there are not, and for a back-end that
    an open daemon has already. ``allow_remote_memory`` lets a front-end share memory that lies on a network
    or user-space file system, where an access can wait for ever. ``iommu`` offers ACCESS_PLATFORM, for a
    front-end whose guest has an IOMMU (docs/iommu.md). ``in_band_notifications`` offers kicks and calls as
    messages, for user-mode Linux (C133). ``succeeds``: see the attribute. Use it as a context manager, or
    call ``close`` in the end.
    """

    def __init__(
        self,
        name: str,
        backend: VhostUserBackend,
        memory: GuestMemoryAtomic | None = None,
        *,
        poll_microseconds: int | None = None,
        cpus: Sequence[int] = (),
        tracer: Tracer | None = None,
        allow_remote_memory: bool = False,
        iommu: bool = False,
        succeeds: bool = False,
        in_band_notifications: bool = False,
    ) -> None:
        available = os.sched_getaffinity(0)
        if missing := sorted(set(cpus) - available):
            raise ValueError(
                f"CPU {missing[0]} cannot be used; there are {', '.join(map(str, sorted(available)))}"
            )
        if poll_microseconds is None:
            poll_microseconds = MAX_POLL if len(available) > 1 else 0
        self._allow_remote_memory = allow_remote_memory
        self._iommu = iommu
        self.succeeds = succeeds
        """Another process serves the same, and gives everything to this one (see ``inherit``)."""
        self._in_band = int(ProtocolFeature.INBAND_NOTIFICATIONS) if in_band_notifications else 0
        self.name = name
        self._tracer = tracer
        self.backend = backend
        self.memory = GuestMemoryAtomic() if memory is None else memory
        check_kind(backend)
        sizes, asked = checked_sizes(backend)
        count = len(sizes)
        assigned = assign_queues(asked, count)
        self.vrings = tuple(
            Vring(index, size, on_broken=self._ring_broken) for index, size in enumerate(sizes)
        )
        self.workers: tuple[Worker, ...] = tuple(
            Worker(
                [self.vrings[queue] for queue in queues],
                first_listener_id=count + 1,
                poll_microseconds=poll_microseconds,
                # Fewer CPUs than each worker and the driver of each queue would need for themselves.
                crowded=len(available) <= min(count, MAX_SHARED_CPUS),
            )
            for queues in assigned
        )
        owner = {
            queue: worker for worker, queues in zip(self.workers, assigned, strict=True) for queue in queues
        }
        self._rings = [Ring(vring, owner[vring.index]) for vring in self.vrings]
        self.sessions = 0
        """Connections served so far, the present one included."""
        self.session: SessionState | None = None
        """What is known of the present session; its control thread alone may change it."""
        self.offered = (0, 0)
        """Features and protocol features that were offered last."""
        self.session_end_reason: str | None = None
        """Why the last session ended, in words; None before. Set before ``session_ended`` is called."""
        self.failure: Exception | None = None
        """Why the daemon serves nobody any more although nobody stopped it."""
        self._failures = LimitedLog(log)
        self._wake = WakeUp()
        self._threads = WorkerThreads(
            name, backend, self.workers, self.memory, self.check_memory, self._failures, cpus
        )
        self._closed = False
        self._closing = threading.Lock()
        self._control: threading.Thread | None = None
        try:
            ownership.take(backend, self)
            self._threads.watch_exit_events()
            with backend.guard:
                backend.attached(self)
            self.offered = self._offer()
            with backend.guard:
                backend.daemon_made()
        except BaseException:
            self._threads.release()
            self._wake.close()
            ownership.leave(self.backend, self)
            raise

    # Starting

    def start(self, listener: Listener | socket.socket, *, once: bool = False) -> None:
        """Serve who connects to ``listener``, which stays the caller's.

        One after the other, or with ``once`` only the first, as the crate's ``start`` does: then ``wait``
        returns when it has gone. Returns at once. Workers that ended run again. Raises RuntimeError when the
        daemon runs already.
        """
        source = listener if isinstance(listener, Listener) else Listener(listener)
        arrivals = Arrivals(self.name, source, self._wake, self._failures, SEND_TIMEOUT)
        self._begin(arrivals.next, once=once)

    def start_client(self, path: str | os.PathLike[str], *, reconnect: bool = False) -> None:
        """Connect to a front-end that listens at ``path`` (C136).

        With ``reconnect`` go on trying, first and after every disconnect, every 0.1 to 5 seconds; without,
        SocketError is raised when nobody listens there.
        """
        if not reconnect:
            self.start_connection(connect(path, timeout=SEND_TIMEOUT))
            return
        attempts = Reconnecting(self.name, path, self._wake, self._failures, SEND_TIMEOUT)
        self._begin(attempts.next, once=False)

    def start_connection(self, connection: Connection | socket.socket) -> None:
        """Serve an open connection, which belongs to the daemon from now on, and end with it."""
        if isinstance(connection, socket.socket):
            connection = Connection(connection, timeout=SEND_TIMEOUT)
        elif not isinstance(connection, Connection):
            raise TypeError(
                f"{connection!r} is not a connected socket; for a path there are start_client() and serve()"
            )
        self._begin(lambda: connection, once=True)

    def start_inherited(self) -> None:
        """Serve the session that ``inherit`` was given, and end with it."""
        self._begin(lambda: None, once=True)

    def serve(self, path: str | os.PathLike[str], *, once: bool = False, mode: int | None = None) -> None:
        """Listen at ``path``, serve until ``stop``, and remove the socket.

        ``mode`` are the socket's permissions. Raises SocketError when the directory is missing, something
        else than a socket is in the way, or a live process listens there (C146).

        In the main thread of a program that has no handler for SIGTERM that signal ends the session too, and
        then, as SIGINT does with KeyboardInterrupt, leaves this call with SystemExit: ``with`` blocks and
        ``finally`` have their turn, the socket is removed, the exit status is 0 (C142).
        """
        with (
            stopped_by((signal.SIGTERM,), self.stop, unless_handled=True) as came,
            Listener.bind(path, mode=mode) as listener,
        ):
            self.start(listener, once=once)
            try:
                if not came:
                    self.wait()
            finally:
                self.stop()
                self.wait()
        if came:
            raise SystemExit

    # Ending

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most ``timeout`` seconds, until the daemon serves nobody any more.

        Tells whether that is so. It is after ``stop``, and where there is only one connection to serve
        (``once``, ``start_connection``, ``start_client`` without ``reconnect``) when that has ended;
        ``session_end_reason`` says why.
        """
        control = self._control
        if control is None:
            return True
        control.join(timeout)
        return not control.is_alive()

    def stop(self) -> None:
        """End the session, if any, and accept no other.

        Any thread and any signal handler may call it; does not wait.
        """
        self._wake.stop()

    def close(self) -> None:
        """Stop, wait, end the workers, release everything; the back-end's ``close`` is called, once.

        The workers' exit events are written, for whoever else waits for them. Calls into the device that do
        not return in 5 seconds are left alone, with a warning; they keep what they use, and the back-end is
        not closed under them. May be called again.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.stop()
        until = time.monotonic() + CLOSE_PATIENCE
        if not self._threads.joined(self._control, until):
            return
        try:
            if self._threads.close(until):
                with self.backend.guard:
                    self.backend.close()
                ownership.leave(self.backend, self)
        finally:
            # Who still knows the daemon (a traceback in a log does) is not to keep their file descriptors.
            self.workers = ()
            self._rings.clear()
            self._wake.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What the back-end may use

    def get_epoll_handlers(self) -> tuple[Worker, ...]:
        """The workers in their order.

        ``register_listener`` adds a file descriptor whose events ``handle_event`` gets.

        Ids up to ``num_queues()`` are reserved.
        """
        return self.workers

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counters of each queue (``queue 0`` …) and worker (``worker 0`` …) since the daemon was made.

        Requests, batches, kicks taken, calls sent and suppressed, polls that found work; wake-ups, and how
        long the worker polls at present.
        """
        counters = {f"queue {vring.index}": vring.statistics() for vring in self.vrings}
        counters |= {f"worker {number}": worker.statistics() for number, worker in enumerate(self.workers)}
        return counters

    @property
    def connected(self) -> bool:
        """A front-end is connected."""
        return self.session is not None

    @property
    def ended_workers(self) -> list[int]:
        """The numbers of the workers that ran and ended: nobody serves their queues."""
        return self._threads.ended()

    def check_memory(self) -> None:
        """End the session if the front-end took its memory away (C039, H85); any thread."""
        if self.memory.memory().lost:
            self._wake.nudge()

    # The control thread

    def _begin(self, source: Source, *, once: bool) -> None:
        if self._closed:
            raise RuntimeError(f"{self.name}: the daemon is closed")
        if self._control is not None and self._control.is_alive():
            raise RuntimeError(f"{self.name}: the daemon runs already; stop() it and wait() first")
        self.failure = None
        self._wake.stopping = False
        self._wake.clear()
        self._threads.start()
        self._control = threading.Thread(
            target=self._run, args=(source, once), name=f"{self.name}-control", daemon=True
        )
        self._control.start()

    def _run(self, source: Source, once: bool) -> None:
        let_memory_faults_through()
        inherited = self._inheritance
        if inherited is not None and not self._take_over(inherited, once=once):
            return
        while not self._wake.stopping:
            try:
                connection = source()
            except (OSError, ValueError) as error:  # a listener that was closed has no descriptor
                self._failures.log(logging.ERROR, "%s: no connection: %s", self.name, error)
                self.failure = error
                break
            if connection is None:
                self._wake.clear()
                self._given_away(None)
                continue
            self._serve_one(connection)
            if once:
                break

    def _ring_broken(self, vring: Vring, error: RingError) -> None:
        self._failures.log(
            logging.ERROR,
            "%s: queue %d is stopped: the driver broke a rule: %s",
            self.name,
            vring.index,
            error,
        )
