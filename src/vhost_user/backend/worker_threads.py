"""The threads that the workers of a daemon run in, and how their events get to the back-end."""

from __future__ import annotations

import inspect
import logging
import os
import reprlib
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vhost_user.backend.answers import checked_fd
from vhost_user.backend.memory_faults import let_memory_faults_through
from vhost_user.backend.refuse import NotYet
from vhost_user.engine.errors import RingError

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.engine.device.vring import Vring
    from vhost_user.engine.device.worker import Worker
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.protocol.limited_log import LimitedLog

log = logging.getLogger("vhost_user.backend")


class WorkerThreads:
    """One thread for each worker.

    A worker ends when ``handle_event`` returned True, when its exit event was written, or with the daemon;
    ``start`` revives it. ``memory_lost`` is called when a worker finds the guest's memory taken away.
    """

    def __init__(  # noqa: PLR0917  # they are what the daemon has anyway
        self,
        name: str,
        backend: VhostUserBackend,
        workers: Sequence[Worker],
        memory: GuestMemoryAtomic,
        memory_lost: Callable[[], None],
        failures: LimitedLog,
        cpus: Sequence[int] = (),
    ) -> None:
        self._name = name
        self._backend = backend
        self._workers: tuple[Worker, ...] = tuple(workers)
        self._memory = memory
        self._memory_lost = memory_lost
        self._failures = failures
        self._cpus = tuple(cpus)
        self._threads: list[threading.Thread | None] = [None] * len(self._workers)
        self._exit_events: list[int] = []
        """Duplicates, by worker, -1 for none: the owner may close its own at any time."""
        self._reasons: dict[int, str] = {}
        self._odd_answer_told = False
        self._closing = False

    def watch_exit_events(self) -> None:
        """Ask the back-end for its exit events, before anything runs.

        TypeError or ValueError names ``exit_event`` and what it returned.
        """
        for number, worker in enumerate(self._workers):
            with self._backend.guard:
                event = self._backend.exit_event(number)
            self._exit_events.append(-1)
            if event is None:
                continue
            method = f"exit_event({number})"
            if isinstance(event, tuple):
                if len(event) != 2:
                    raise TypeError(f"{self._named(method, event)}; a tuple is an eventfd and a token")
                event = event[0]
            fd = os.dup(checked_fd(self._backend, method, event))
            self._exit_events[-1] = fd
            try:
                worker.set_exit_event(fd)
            except OSError as error:
                raise ValueError(
                    f"{self._named(method, event)}, which cannot be waited for as an eventfd or a pipe can: "
                    f"{error.strerror}"
                ) from error

    def _named(self, method: str, value: object) -> str:
        return f"{type(self._backend).__name__}.{method} returned {reprlib.repr(value)}"

    def start(self) -> None:
        """Have every worker run, again if it ended."""
        for number, before in enumerate(self._threads):
            if before is not None and before.is_alive():
                continue
            if before is not None:
                log.info("%s: worker %d runs again", self._name, number)
            self._reasons.pop(number, None)
            # Daemon threads: a device that never returns from a call must not keep the process (C142).
            thread = threading.Thread(
                target=self._work, args=(number,), name=f"{self._name}-worker-{number}", daemon=True
            )
            self._threads[number] = thread
            thread.start()

    def ended(self) -> list[int]:
        """The workers that ran and ended."""
        return [
            number
            for number, thread in enumerate(self._threads)
            if thread is not None and not thread.is_alive()
        ]

    def queues_of(self, number: int) -> str:
        """The queues of a worker in words."""
        queues = [str(vring.index) for vring in self._workers[number].vrings]
        return f"queue{'s' * (len(queues) != 1)} {', '.join(queues)}" if queues else "its listeners"

    def close(self, until: float) -> bool:
        """End every worker, and write its exit event, for whoever else waits for that.

        False when a worker has not ended at the monotonic time ``until``. Then nothing is released: it is
        inside of the device and still needs its file descriptors, and the device its own.
        """
        self._closing = True
        for worker in self._workers:
            worker.send_exit_event()
        stuck = [thread for thread in self._threads if not self.joined(thread, until)]
        if stuck:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Close what the workers have. None of them may run."""
        for worker in self._workers:
            worker.close()
        for fd in self._exit_events:
            if fd >= 0:
                os.close(fd)
        self._exit_events.clear()
        # Whoever still knows the daemon (a traceback in a log does) is not to keep their file descriptors.
        self._workers = ()

    def joined(self, thread: threading.Thread | None, until: float) -> bool:
        """Whether a thread ended by the monotonic time ``until``; a warning if not."""
        if thread is None:
            return True
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning(
                "%s: %s does not end: the device has not returned from a call", self._name, thread.name
            )
        return not thread.is_alive()

    # In the threads

    def _work(self, number: int) -> None:
        let_memory_faults_through()
        try:
            if self._cpus:
                # 0 is the calling thread, not the process.
                os.sched_setaffinity(0, {self._cpus[number % len(self._cpus)]})
            # No local variable: tracebacks keep frames, and this one would keep the worker.
            self._workers[number].run(self._dispatcher(number, self._workers[number].vrings))
        except BaseException:
            log.exception("%s: worker %d died; its queues are dead", self._name, number)
            return
        if self._closing:
            log.info("%s: worker %d ended", self._name, number)
        else:
            log.warning(
                "%s: worker %d ended: %s. Nobody serves %s until start() is called",
                self._name,
                number,
                self._reason(number),
                self.queues_of(number),
            )

    def _reason(self, number: int) -> str:
        if (reason := self._reasons.get(number)) is not None:
            return reason
        fd = self._exit_events[number]
        poll = select.poll()
        if fd >= 0:
            poll.register(fd, select.POLLIN)
        return "its exit event was written" if poll.poll(0) else "it was stopped"

    def _dispatcher(self, number: int, vrings: Sequence[Vring]) -> Callable[[int, int], object]:
        guard, handle_event, memory = self._backend.guard, self._backend.handle_event, self._memory

        def dispatch(event: int, events: int) -> object:
            answer: object = None
            try:
                with guard:
                    answer = handle_event(event, events, vrings, number)
            except RingError:
                pass  # on_broken has logged it
            except NotYet:
                self._look_again(number, event)
            except BaseException as error:  # noqa: BLE001  # SystemExit too: no device ends a worker by accident
                what = f"queue {vrings[event].index}" if event < len(vrings) else f"listener {event}"
                self._failures.log(
                    logging.ERROR,
                    "%s: handle_event failed for %s in worker %d",
                    self._name,
                    what,
                    number,
                    exception=error,
                )
                # It may not have come to what waits in the ring, and the driver need not kick for that again.
                self._look_again(number, event)
            if memory.memory().lost:
                self._memory_lost()
            if answer is None or answer is False:
                return None
            return self._answered(number, answer)

        return dispatch

    def _look_again(self, number: int, event: int) -> None:
        # Here and not in the dispatcher: the traceback of what was raised keeps the dispatcher's frame, and a
        # local variable of that would keep the worker.
        for worker in self._workers[number : number + 1]:
            worker.look_again(event)

    def _answered(self, number: int, answer: object) -> object:
        """Something other than nothing came out of ``handle_event``. Only True ends the worker."""
        if answer is True:
            self._reasons[number] = "handle_event returned True"
            return True
        if inspect.iscoroutine(answer):
            answer.close()
        if not self._odd_answer_told:
            self._odd_answer_told = True
            log.warning(
                "%s: handle_event returned %s in worker %d; only True means something, and ends the worker "
                "(this is said once)",
                self._name,
                reprlib.repr(answer),
                number,
            )
        return None
