"""``VhostUserDaemon``: connects a back-end to front-ends in turn, and owns its vrings and workers."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from vhost_user.backend.assignment import assign_queues
from vhost_user.backend.backend import EventFd, VhostUserBackend
from vhost_user.backend.handler import VhostUserHandler, peer_gone
from vhost_user.backend.limited_log import LimitedLog
from vhost_user.backend.memory_faults import let_memory_faults_through
from vhost_user.backend.ring import Ring
from vhost_user.backend.wakeup import WakeUp
from vhost_user.engine.errors import MemoryLost, RingError
from vhost_user.engine.memory import GuestMemoryAtomic
from vhost_user.engine.vring import Vring
from vhost_user.engine.worker import Worker
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import Listener, connect
from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.trace import log_tracer
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

log = logging.getLogger("vhost_user.backend")

MAXIMUM_QUEUES = 256
"""SET_VRING_KICK and its like have eight bits for the index."""
SEND_TIMEOUT = 30.0
"""Seconds that a front-end may leave a reply unread or a message unfinished (H90, H97)."""
CLOSE_PATIENCE = 5.0
"""Seconds that ``close`` waits for calls into the device to return; then it goes on without them (C142)."""
LONGEST_POLL = 20
"""Microseconds that a worker polls before it sleeps, at most and by default, with more than one CPU."""
FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 5.0
"""Seconds between attempts to connect again."""

Source = Callable[[], Connection | None]


class VhostUserDaemon:
    """Serves one back-end. One front-end at a time.

    After a disconnect everything is as before and the next may come (C134).

    ``name`` is for logs and thread names. ``memory`` is the cell for the guest's memory, made here if not
    given. ``poll_microseconds`` bounds the polling of a worker before it sleeps (None: 20, or 0 on one CPU);
    ``cpus`` are the CPUs that workers are bound to, in turn. ``allow_remote_memory`` lets a front-end share
    memory that lies on a network or user-space file system, where an access can wait for ever. Raises
    ValueError when the back-end's queues make no sense: it names the queue that has no worker, or several;
    and for CPUs that there are not. Use it as a context manager, or call ``close`` in the end.
    """

    def __init__(
        self,
        name: str,
        backend: VhostUserBackend,
        memory: GuestMemoryAtomic | None = None,
        *,
        poll_microseconds: int | None = None,
        cpus: Sequence[int] = (),
        allow_remote_memory: bool = False,
    ) -> None:
        available = os.sched_getaffinity(0)
        if missing := sorted(set(cpus) - available):
            raise ValueError(
                f"CPU {missing[0]} cannot be used; there are {', '.join(map(str, sorted(available)))}"
            )
        if poll_microseconds is None:
            poll_microseconds = LONGEST_POLL if len(available) > 1 else 0
        self._cpus = tuple(cpus)
        self._allow_remote_memory = allow_remote_memory
        self.name = name
        self.backend = backend
        self.memory = GuestMemoryAtomic() if memory is None else memory
        with backend.guard:
            count, size = backend.num_queues(), backend.max_queue_size()
            asked = backend.queues_per_thread()
        _check_sizes(count, size)
        assigned = assign_queues(asked, count)
        self.vrings = tuple(Vring(index, size, on_broken=self._ring_broken) for index in range(count))
        self.workers: tuple[Worker, ...] = tuple(
            Worker(
                [self.vrings[queue] for queue in queues],
                first_listener_id=count + 1,
                poll_microseconds=poll_microseconds,
            )
            for queues in assigned
        )
        owner = {
            queue: worker for worker, queues in zip(self.workers, assigned, strict=True) for queue in queues
        }
        self._rings = [Ring(vring, owner[vring.index]) for vring in self.vrings]
        self.sessions = 0
        """Connections served so far, the present one included."""
        self.connected = False
        """A front-end is connected."""
        self._failures = LimitedLog(log)
        self._wake = WakeUp()
        self._closed = False
        self._control: threading.Thread | None = None
        self._worker_threads: list[threading.Thread] = []
        try:
            self._attach()
        except BaseException:
            self._wake.close()
            raise

    def _attach(self) -> None:
        for number, worker in enumerate(self.workers):
            with self.backend.guard:
                event = self.backend.exit_event(number)
            if event is not None:
                worker.set_exit_event(_event_fd(event))
        with self.backend.guard:
            self.backend.attached(self)

    # Starting

    def start(self, listener: Listener | socket.socket, *, once: bool = False) -> None:
        """Serve who connects to ``listener``, which stays the caller's.

        One after the other, or only the first.

        Returns at once. Raises RuntimeError when the daemon runs already.
        """
        source = listener if isinstance(listener, Listener) else Listener(listener)
        self._begin(
            lambda: source.accept(stop=self._wake.fileno(), connection_timeout=SEND_TIMEOUT), once=once
        )

    def start_client(self, path: str | os.PathLike[str], *, reconnect: bool = False) -> None:
        """Connect to a front-end that listens at ``path`` (C136).

        With ``reconnect`` go on trying, first and after every disconnect, every 0.1 to 5 seconds; without,
        SocketError is raised when nobody listens there.
        """
        first = [] if reconnect else [connect(path, timeout=SEND_TIMEOUT)]

        def source() -> Connection | None:
            return first.pop() if first else self._connect_again(path)

        self._begin(source, once=not reconnect)

    def start_connection(self, connection: Connection | socket.socket) -> None:
        """Serve an open connection, which belongs to the daemon from now on, and end with it."""
        if isinstance(connection, socket.socket):
            connection = Connection(connection, timeout=SEND_TIMEOUT)
        self._begin(lambda: connection, once=True)

    def serve(self, path: str | os.PathLike[str], *, once: bool = False, mode: int | None = None) -> None:
        """Listen at ``path``, serve until ``stop``, and remove the socket.

        ``mode`` are the socket's permissions. Raises SocketError when the directory is missing, something
        else than a socket is in the way, or a live process listens there (C146).
        """
        with Listener.bind(path, mode=mode) as listener:
            self.start(listener, once=once)
            try:
                self.wait()
            finally:
                self.stop()
                self.wait()

    # Ending

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most ``timeout`` seconds, until the daemon serves nobody any more.

        Tells whether that is so.
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
        """Stop, wait, end the workers, release everything; the back-end's ``close`` is called.

        Calls into the device that do not return in 5 seconds are left alone, with a warning; they keep what
        they use.
        May be called again.
        """
        if self._closed:
            return
        self._closed = True
        self.stop()
        until = time.monotonic() + CLOSE_PATIENCE
        if not self._ended(self._control, until):
            return
        for worker in self.workers:
            worker.stop()
        stuck = [thread for thread in self._worker_threads if not self._ended(thread, until)]
        # A worker that is inside the device still needs its file descriptors, and the device its own.
        if not stuck:
            for worker in self.workers:
                worker.close()
            with self.backend.guard:
                self.backend.close()
        # Whoever still knows the daemon (a traceback in a log does) is not to keep their file descriptors.
        self.workers = ()
        self._rings.clear()
        self._wake.close()

    def _ended(self, thread: threading.Thread | None, until: float) -> bool:
        if thread is None:
            return True
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning(
                "%s: %s does not end: the device has not returned from a call", self.name, thread.name
            )
        return not thread.is_alive()

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
        self._wake.stopping = False
        self._wake.clear()
        if not self._worker_threads:
            for number in range(len(self.workers)):
                # Daemon threads: a device that never returns from a call must not keep the process (C142).
                thread = threading.Thread(
                    target=self._work, args=(number,), name=f"{self.name}-worker-{number}", daemon=True
                )
                self._worker_threads.append(thread)
                thread.start()
        self._control = threading.Thread(
            target=self._run, args=(source, once), name=f"{self.name}-control", daemon=True
        )
        self._control.start()

    def _run(self, source: Source, once: bool) -> None:
        let_memory_faults_through()
        while not self._wake.stopping:
            try:
                connection = source()
            except OSError as error:
                self._failures.log(logging.ERROR, "%s: no connection: %s", self.name, error)
                break
            if connection is None:
                self._wake.clear()
                continue
            self._serve_one(connection)
            if once:
                break

    def _serve_one(self, connection: Connection) -> None:
        with self.backend.guard:
            features = self.backend.features()
            protocol_features = int(self.backend.protocol_features()) | ProtocolFeature.REPLY_ACK
        offers = bool(features & VirtioFeature.PROTOCOL_FEATURES)
        session = BackendSession(
            features,
            protocol_features if offers else 0,
            tracer=log_tracer if log.isEnabledFor(logging.DEBUG) else None,
        )
        handler = VhostUserHandler(
            self.name,
            self.backend,
            self._rings,
            self.memory,
            session.negotiation,
            lambda: self._wake.stopping or self.memory.memory().lost or peer_gone(connection),
        )
        handler.allow_remote_memory = self._allow_remote_memory
        self.sessions += 1
        self.connected = True
        log.info("%s: a front-end connected", self.name)
        try:
            reason = handler.serve(connection, session, self._wake)
        except MemoryLost as lost:
            log.error("%s: the session ends: %s", self.name, lost)  # noqa: TRY400  # the front-end's doing: a traceback says nothing
            reason = "its memory is gone"
        except Exception as error:
            log.exception("%s: the session ends after an error", self.name)
            reason = f"{type(error).__name__}"
        finally:
            self._end(handler, session, connection)
        log.info("%s: the front-end's session ended: %s", self.name, reason)
        for who, counters in self.statistics().items():
            log.debug("%s: %s: %s", self.name, who, counters)

    def _end(self, handler: VhostUserHandler, session: BackendSession, connection: Connection) -> None:
        try:
            handler.end()
        except Exception:
            log.exception("%s: the session could not be taken down in order", self.name)
        finally:
            session.close()
            connection.close()
            self.connected = False

    def _connect_again(self, path: str | os.PathLike[str]) -> Connection | None:
        pause = FIRST_BACKOFF
        while not self._wake.stopping:
            try:
                return connect(path, timeout=SEND_TIMEOUT)
            except SocketError as error:
                self._failures.log(logging.INFO, "%s: %s; trying again", self.name, error)
            self._wake.sleep(pause)
            pause = min(2 * pause, LONGEST_BACKOFF)
        return None

    # The workers

    def _work(self, number: int) -> None:
        let_memory_faults_through()
        try:
            if self._cpus:
                # 0 is the calling thread, not the process.
                os.sched_setaffinity(0, {self._cpus[number % len(self._cpus)]})
            # No local variable: tracebacks keep frames, and this one would keep the worker.
            self.workers[number].run(self._dispatcher(number, self.workers[number].vrings))
        except Exception:
            log.exception("%s: worker %d died; its queues are dead", self.name, number)
        else:
            log.info("%s: worker %d ended", self.name, number)

    def _dispatcher(self, number: int, vrings: Sequence[Vring]) -> Callable[[int, int], object]:
        guard, handle_event, memory = self.backend.guard, self.backend.handle_event, self.memory

        def dispatch(event: int, events: int) -> object:
            ended = None
            try:
                with guard:
                    ended = handle_event(event, events, vrings, number)
            except RingError:
                pass  # on_broken has logged it
            except Exception as error:  # noqa: BLE001  # whatever the device raises, the worker goes on
                what = f"queue {vrings[event].index}" if event < len(vrings) else f"listener {event}"
                self._failures.log(
                    logging.ERROR,
                    "%s: handle_event failed for %s in worker %d",
                    self.name,
                    what,
                    number,
                    exception=error,
                )
                # It may not have come to what waits in the ring, and the driver need not kick for that again.
                for worker in self.workers[number : number + 1]:
                    worker.look_again(event)
            if memory.memory().lost:
                self.check_memory()
            return ended

        return dispatch

    def _ring_broken(self, vring: Vring, error: RingError) -> None:
        self._failures.log(
            logging.ERROR,
            "%s: queue %d is stopped: the driver broke a rule: %s",
            self.name,
            vring.index,
            error,
        )


def _check_sizes(count: int, size: int) -> None:
    if not 1 <= count <= MAXIMUM_QUEUES:
        raise ValueError(f"num_queues() returned {count}; it must be 1 to {MAXIMUM_QUEUES}")
    if not (1 <= size <= 32768 and size & (size - 1) == 0):
        raise ValueError(f"max_queue_size() returned {size}; it must be a power of two up to 32768")


def _event_fd(event: EventFd | tuple[EventFd, int]) -> int:
    if isinstance(event, tuple):
        event, _ = event
    return event if isinstance(event, int) else event.fileno()
