"""Addresses behind an IOMMU: translations, and asking for those that are missing (C088 to C092)."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from vhost_user.backend.backchannel import BackChannelError
from vhost_user.engine.memory.iotlb import Iotlb
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.requests import BackendRequest
from vhost_user.spec.structs import Iotlb as IotlbMessage
from vhost_user.spec.structs import IotlbType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.backend.backchannel import BackChannel
    from vhost_user.backend.draining import Draining
    from vhost_user.backend.ring import Ring
    from vhost_user.engine.device.vring import Vring
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.engine.memory.guest_memory import GuestMemory
    from vhost_user.protocol.limited_log import LimitedLog

Miss = tuple[int, int]
"""IOVA and permission."""

SETTLE_PATIENCE = 0.25
"""Seconds that INVALIDATE waits for requests that use the range, before it has their ring come to rest."""
MISS_TIMEOUT = 60.0
"""Seconds that the front-end has for saying that it looked: it may be busy, or stopped in a debugger."""
PAGE = 4096
"""Bytes that a translation has at least."""
FIRST_RETRY = 0.05
LONGEST_RETRY = 1.0
"""Seconds between two questions for the translations of a ring that the front-end denied."""


class Session(Protocol):
    """What is needed of the session, ``vhost_user.backend.state.SessionState``."""

    name: str
    report: LimitedLog
    rings: Sequence[Ring]
    memory: GuestMemoryAtomic
    channel: BackChannel | None
    draining: Draining
    nudge: Callable[[], object]
    """Have the control thread look around, from any thread."""

    def ring_started(self, ring: Ring) -> None:
        """Tell the device."""


class Translator:
    """The translations of one session.

    A miss parks the ring it was found in and is asked for by a thread of this object, so that no worker and
    not the control thread waits for the front-end (C090). Methods are the control thread's, but for
    ``missing``.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.iotlb = Iotlb(session.memory.memory())
        self._lock = threading.Condition()
        self._questions: deque[Miss] = deque()
        self._waiting: dict[Miss, set[int]] = {}
        """Misses that were asked and not answered, and the queues that wait for each."""
        self._denied: list[Miss] = []
        """Answered with no, by the thread that asks; the control thread does the rest."""
        self._thread: threading.Thread | None = None
        self._ended = False
        self._retry = FIRST_RETRY
        for ring in session.rings:
            ring.iotlb = self.iotlb
            ring.vring.translation.on_missing = self.missing

    # ------------------------------------------------------------------ what the front-end says

    def update(self, message: IotlbMessage) -> None:
        """Enter a translation, and go on with what waited for it. Raises MemoryTableError (C091)."""
        if self.iotlb.update(message.iova, message.size, message.uaddr, message.perm):
            self._settle(message.iova, message.size)
        short: list[Miss] = []
        ready: set[int] = set()
        with self._lock:
            for miss in [miss for miss in self._waiting if 0 <= miss[0] - message.iova < message.size]:
                if miss[1] & message.perm == miss[1]:
                    ready |= self._answered(miss)
                else:
                    short.append(miss)
        for miss in short:
            # It allows less than is needed: that is an answer, too (C092).
            self.iotlb.deny(*miss)
            with self._lock:
                ready |= self._answered(miss)
        self._look_again(ready)

    def invalidate(self, iova: int, size: int) -> None:
        """Forget translations.

        When this returns nothing uses memory through them any more: requests in flight that did have ended,
        or were given back (C091).
        """
        self.iotlb.invalidate(iova, size)
        self._settle(iova, size)

    def memory_changed(self, memory: GuestMemory) -> None:
        """The same translations into another table; before the rings hear of it."""
        self.iotlb = self.iotlb.moved(memory)
        for ring in self.session.rings:
            ring.iotlb = self.iotlb

    def _settle(self, iova: int, size: int) -> None:
        for ring in self.session.rings:
            if not ring.vring.translation.drain_range(iova, size, SETTLE_PATIENCE):
                self._bring_to_rest(ring)
        for ring in self.session.rings:
            if ring.vring.translation.leave_range(iova, size):
                # Its own memory: it pauses, and asks for it again.
                ring.vring.translation.look_again()
                self.ring_changed(ring)

    def _bring_to_rest(self, ring: Ring) -> None:
        """As when a ring stops: requests end, or go back to the driver. Then it goes on, translated anew."""
        started = ring.vring.started
        ring.vring.stop()
        self.session.draining.bring_to_rest(ring)
        if started and ring.vring.broken is None:
            ring.vring.start()
            ring.worker.update(ring.vring)
            self.session.ring_started(ring)

    # ------------------------------------------------------------------ what is missing

    def ring_changed(self, ring: Ring) -> None:
        """A ring started, or was translated again: ask for what its own memory lacks."""
        if ring.vring.translation.scattered:
            self.session.report.error(
                "%s: queue %d cannot run: the IOMMU maps an area of its ring to pieces of memory that cannot "
                "be put together, which takes regions that begin on a page, without huge pages",
                self.session.name, ring.index,
            )  # fmt: skip
        self.missing(ring.vring)

    def missing(self, vring: Vring) -> None:
        """Ask for what this ring lacks. From any thread; does not wait."""
        misses = vring.translation.misses()
        if not misses:
            return
        with self._lock:
            if self._ended:
                return
            for miss in misses:
                queues = self._waiting.get(miss)
                if queues is None:
                    queues = self._waiting[miss] = set()
                    self._questions.append(miss)
                queues.add(vring.index)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._ask_all, name=f"{self.session.name}-iotlb", daemon=True
                )
                self._thread.start()
            self._lock.notify()

    def attend(self) -> None:
        """What the thread that asks left for the control thread."""
        with self._lock:
            denied, self._denied = self._denied, []
            ready: set[int] = set()
            for miss in denied:
                ready |= self._answered(miss)
        for miss in denied:
            self.iotlb.deny(*miss)
        self._look_again(ready)

    def _answered(self, miss: Miss) -> set[int]:
        """With the lock: this miss is settled; which queues wait for no other."""
        queues = self._waiting.pop(miss, set())
        busy: set[int] = set().union(*self._waiting.values()) if queues and self._waiting else set()
        return queues - busy

    def _look_again(self, ready: Iterable[int]) -> None:
        with self._lock:
            busy: set[int] = set().union(*self._waiting.values()) if self._waiting else set()
        for ring in self.session.rings:
            # Those that wait for nothing known too: what they miss may have come before they could say so.
            if (ring.index in ready or ring.index not in busy) and ring.vring.translation.look_again():
                ring.worker.update(ring.vring)
                self.ring_changed(ring)

    # ------------------------------------------------------------------ the thread that asks

    def _ask_all(self) -> None:
        while True:
            with self._lock:
                while not self._questions and not self._ended:
                    stalled = (
                        any(ring.vring.translation.waiting for ring in self.session.rings)
                        and not self._waiting
                    )
                    if not self._lock.wait(self._retry if stalled else None) and not self._questions:
                        # A ring whose own memory was denied: the driver may have mapped it since.
                        self._retry = min(2 * self._retry, LONGEST_RETRY)
                        self.session.nudge()
                if self._ended:
                    return
                misses = [miss for miss in self._questions if miss in self._waiting]
                self._questions.clear()
            # A page of each at once; the answer to the last says that those before it were looked at. What is
            # missing still is asked for one by one, for the answer: mostly nothing is.
            pages = {iova // PAGE: (iova, permission) for iova, permission in misses}
            for miss in list(pages.values())[:-1]:
                self._ask(miss, need_reply=False)
            for miss in reversed(misses):
                with self._lock:
                    wanted = miss in self._waiting
                if wanted and not self._ask(miss):
                    with self._lock:
                        self._denied.append(miss)
                    self.session.nudge()

    def _ask(self, miss: Miss, *, need_reply: bool | None = None) -> bool:
        """False: the front-end said that there is no such translation."""
        channel = self.session.channel
        if channel is None:
            return True  # it may come all the same; there is nobody to ask
        iova, permission = miss
        try:
            channel.request(
                BackendRequest.IOTLB_MSG,
                IotlbMessage(iova, 0, 0, permission, IotlbType.MISS),
                need_reply=need_reply,
                timeout=MISS_TIMEOUT,
            )
        except RequestRefused:
            return False
        except BackChannelError as error:
            if error.rule == "C076":
                # All rings are stopped; they ask again when they start.
                with self._lock:
                    self._waiting.pop(miss, None)
            else:
                self.session.report.warning(
                    "%s: the front-end could not be asked for IOVA %#x: %s", self.session.name, iova, error
                )
        return True

    def end(self) -> None:
        """Ask no more. The back channel is closed before, so that nobody waits for it."""
        with self._lock:
            self._ended = True
            self._questions.clear()
            self._waiting.clear()
            self._lock.notify()
        for ring in self.session.rings:
            ring.iotlb = None
            ring.vring.translation.on_missing = None
        if self._thread is not None:
            self._thread.join()
