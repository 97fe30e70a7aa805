"""Post-copy migration, as the destination: the guest runs before its memory is here (C118 to C121).

Nothing of this process waits in a page fault. Before anything of the guest's memory is used its pages are
asked for, by threads that may wait: a worker for the buffers of the requests that it has taken, a thread of
this module for the areas of a ring, which starts when they have come. The control thread answers meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from vhost_user.backend.pager import Pager
from vhost_user.engine.errors import MemoryFault, MemoryLost
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.missing import obstacle
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from vhost_user.backend.ring import Areas, Ring
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.engine.memory.region import MemoryRegion
    from vhost_user.protocol.limited_log import LimitedLog


def offered(features: int) -> int:
    """PAGEFAULT, where this system can do it, and where the device's addresses are those of the guest."""
    if features & VirtioFeature.ACCESS_PLATFORM or obstacle() is not None:
        return 0
    return int(ProtocolFeature.PAGEFAULT)


class Session(Protocol):
    """What is needed of the session, ``vhost_user.backend.state.SessionState``."""

    name: str
    report: LimitedLog
    rings: Sequence[Ring]
    memory: GuestMemoryAtomic
    nudge: Callable[[], object]
    """Have the control thread look around, from any thread."""

    def must_go_on(self, doing: str) -> None:
        """Raise when the session is to end at once."""

    def set_memory(self, memory: GuestMemory) -> None:
        """Install a snapshot."""

    def starting(self) -> AbstractContextManager[None]:
        """Around the start of a ring."""

    def ring_is_up(self, ring: Ring) -> None:
        """A ring was started."""

    @property
    def guest_ring_addresses(self) -> bool:
        """SET_VRING_ADDR carries guest addresses."""

    @property
    def event_idx(self) -> bool:
        """VIRTIO_RING_F_EVENT_IDX is in force."""


class PostCopy:
    """Used by the control thread of a session only."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pager: Pager | None = None
        self._announced = False
        """POSTCOPY_ADVISE came, and POSTCOPY_END did not."""
        self.listening = False
        """Between POSTCOPY_LISTEN and POSTCOPY_END: memory that comes may have missing pages."""
        self.pending: GuestMemory | None = None
        """The table that counts when the front-end says that it serves page faults there."""
        self._threads: list[threading.Thread] = []
        self._arrived: deque[Ring] = deque()
        self._bringing: set[int] = set()
        """Rings whose areas are waited for. One thread for each, however often they are set up."""

    @property
    def active(self) -> bool:
        """Post-copy is announced, or under way."""
        return self._pager is not None

    # what the front-end says

    def advise(self) -> int:
        """POSTCOPY_ADVISE: the userfaultfd for the front-end, which owns it. Or RequestRefused."""
        if self.listening:
            raise RequestRefused("post-copy is under way already", rule="C118")
        self._end_pager()
        self._announced = True
        self._pager = Pager(self._session.must_go_on, self._session.nudge)
        return self._pager.take_faults()

    def listen(self) -> None:
        """POSTCOPY_LISTEN: from now on memory comes without its pages."""
        if self._pager is None or self.listening:
            raise RequestRefused("it comes after POSTCOPY_ADVISE, once", rule="C118")
        if self._session.memory.memory().regions:
            raise RequestRefused("memory was shared before: nobody watched its pages", rule="C118")
        if not self._pager.alive:
            raise RequestRefused("the pager has ended", rule="C118")
        self.listening = True

    def not_needed(self) -> None:
        """Memory came with all of its pages: what was announced is not going to happen.

        QEMU says no more than that when a migration was over before it turned into post-copy.
        """
        if not self.listening:
            self._end_pager()

    def add(self, region: MemoryRegion, fd: int) -> int:
        """A region came while ``listening``; where its pages are for the front-end."""
        assert self._pager is not None  # it came with POSTCOPY_ADVISE
        return self._pager.add(region, fd)

    def ready(self, status: int) -> None:
        """The front-end serves page faults in the pending table, or says with ``status`` that it cannot."""
        pending, self.pending = self.pending, None
        if status:
            raise RequestRefused(f"the front-end does not serve page faults in it: {status}", rule="C119")
        if pending is not None:
            self._session.set_memory(pending)

    def end(self) -> None:
        """POSTCOPY_END: all pages are here (C120). It also ends what was announced and never began."""
        if not self._announced:
            raise RequestRefused("there was no POSTCOPY_ADVISE", rule="C120")
        self._announced = False
        if self._pager is None:
            return
        memory = self._session.memory.memory() if self.pending is None else self.pending
        self.pending = None
        # In this order: whoever is told that all pages are here finds them.
        for region in memory.regions:
            region.settle()
        self._pager.missing.complete()
        asked = self._pager.missing.asked
        self._end_pager()
        if self.listening:
            self._session.report.info(
                "%s: post-copy is over: %d pages were asked for",
                self._session.name,
                asked,
            )
            self.listening = False
            self._session.set_memory(GuestMemory(memory.regions, memory.bitmap))
            self.attend()

    # rings

    def bring(self, ring: Ring, memory: GuestMemory, areas: Areas) -> None:
        """Have the areas of a ring brought; ``attend`` has it go on afterwards. Does not wait."""
        if ring.index in self._bringing:
            return  # if it is others that are waited for, these come next
        self._bringing.add(ring.index)
        thread = threading.Thread(
            target=self._bring,
            args=(ring, memory, areas),
            name=f"{self._session.name}-pages",
            daemon=True,
        )
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _bring(self, ring: Ring, memory: GuestMemory, areas: Areas) -> None:
        try:
            for address, size in areas:
                memory.await_pages(address, size)
        except MemoryFault:  # they never come: the session ends, and says so
            return
        self._arrived.append(ring)
        self._session.nudge()

    def attend(self) -> None:
        """Between two messages: rings whose areas have come go on. MemoryLost when pages never come."""
        while self._arrived:
            self._go_on(self._arrived.popleft())
        if self.listening and self._pager is not None and not self._pager.alive:
            raise MemoryLost("the pager has ended: pages that are missing never come", rule="C121")

    def _go_on(self, ring: Ring) -> None:
        session = self._session
        self._bringing.discard(ring.index)
        starts = ring.starts_later
        try:
            with session.starting():
                ring.arrived(
                    session.memory.memory(), guest=session.guest_ring_addresses, event_idx=session.event_idx
                )
        except RequestRefused as error:
            session.report.warning("%s: queue %d does not start: %s", session.name, ring.index, error)
            return
        if starts and ring.vring.started:
            session.ring_is_up(ring)

    def abandon(self) -> None:
        """The session is at its end: nobody waits for a page any more. Does not wait for the front-end."""
        self._end_pager()
        self._announced = self.listening = False
        self.pending = None
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._arrived.clear()
        self._bringing.clear()

    def _end_pager(self) -> None:
        pager, self._pager = self._pager, None
        if pager is not None:
            pager.close()
