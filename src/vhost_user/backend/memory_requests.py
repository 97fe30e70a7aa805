"""Requests about guest memory and the dirty log (C035 to C048, C077 to C087)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

from vhost_user.backend.dispatch import FdReply, RequestGroup
from vhost_user.backend.refusal import refusal_of
from vhost_user.backend.ring import hand_over
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.guest_memory import MAX_REGIONS, GuestMemory
from vhost_user.engine.memory.region import MemoryRegion
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec import structs
from vhost_user.spec.structs import U64, Iotlb, IotlbType, Log, Memory, MemorySlot

Mapped = TypeVar("Mapped")


class MemoryRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`."""

    def set_mem_table(self, payload: Memory | U64, fds: OwnedFds) -> Memory | None:
        """Replace the whole table; when anything is wrong the old one stays (C035, C040).

        In post-copy it counts when the front-end says with a U64 that it serves page faults there (C119).
        """
        if isinstance(payload, U64):
            with self._settled():
                self.session.postcopy.ready(payload.value)
            return None
        places: list[int] = []
        with self._settled(), OwnedFds(fds.take()) as files:
            regions = []
            for region in payload.regions:
                fd = files.take_one()
                assert fd is not None  # the session has counted them (C035)
                regions.append(self._mapped(region, fd, places))
            self._install(_accepted(lambda: GuestMemory(regions, self.session.bitmap)))
        if not places:
            return None
        return Memory(
            tuple(
                dataclasses.replace(region, user_addr=place)
                for region, place in zip(payload.regions, places, strict=True)
            )
        )

    def add_mem_reg(self, payload: MemorySlot, fds: OwnedFds) -> MemorySlot | None:
        """Add one region (C042, C043); in post-copy as a table (C119).

        While all rings are stopped one with the addresses and size of another replaces it: the front-end that
        added that one may have forgotten it.
        """
        memory = self._newest()
        places: list[int] = []
        if self.session.all_stopped:
            slot = payload.region
            for old in memory.regions:
                if (old.guest_address, old.user_address, old.size) == (
                    slot.guest_phys_addr,
                    slot.user_addr,
                    slot.size,
                ):
                    memory = memory.without_region(old.guest_address, old.user_address, old.size)
        if len(memory.regions) >= MAX_REGIONS:
            raise RequestRefused(f"there are {MAX_REGIONS} regions already", rule="C043")
        fd = fds.take_one()
        assert fd is not None  # the session has counted them (C042)
        with self._settled():
            region = self._mapped(payload.region, fd, places)
            self._install(_accepted(lambda: memory.with_region(region)))
        return MemorySlot(dataclasses.replace(payload.region, user_addr=places[0])) if places else None

    def rem_mem_reg(self, payload: MemorySlot) -> None:
        """Remove the region with these addresses and size (C042, C044).

        Rings in it pause until it comes back.
        """
        region = payload.region
        memory = self._newest()
        self._install(
            _accepted(lambda: memory.without_region(region.guest_phys_addr, region.user_addr, region.size)),
            removal=True,
        )

    def get_max_mem_slots(self) -> U64:
        """How many regions there may be at once (C043)."""
        return U64(MAX_REGIONS)

    def set_log_base(self, payload: Log, fds: OwnedFds) -> None:
        """Install the dirty log, or another one (C081, C082). It is in force when the reply leaves."""
        fd = fds.first
        assert fd is not None  # the session has counted them; the request closes it
        _accepted(
            lambda: self.session.bitmap.map(
                fd, payload.mmap_size, payload.mmap_offset, allow_remote=self.session.allow_remote_memory
            )
        )
        self.session.files.keep_log(fd, payload.mmap_size, payload.mmap_offset)

    def set_log_fd(self, fds: OwnedFds) -> None:
        """Eventfd that is written after the log changed (C083)."""
        fd = fds.take_one()
        hand_over(fd, self.session.bitmap.set_notify, self.session.own_socket)
        self.session.files.keep_log_notify(fd)

    def iotlb_msg(self, payload: Iotlb) -> None:
        """Enter or forget translations; when it is answered, rings and requests know too (C089, C091)."""
        iommu = self.session.iommu
        if iommu is None:
            raise RequestRefused("ACCESS_PLATFORM is not acknowledged", rule="C089")
        if payload.type == IotlbType.UPDATE:
            _accepted(lambda: iommu.update(payload))
        else:
            _accepted(lambda: iommu.invalidate(payload.iova, payload.size))

    def postcopy_advise(self) -> FdReply:
        """The userfaultfd in which our page faults will appear (C118)."""
        if self.session.iommu is not None:
            raise RequestRefused("ACCESS_PLATFORM and post-copy do not go together", rule="C118")
        return FdReply(None, self.session.postcopy.advise())

    def postcopy_listen(self) -> None:
        """Memory that comes from now on has missing pages (C118)."""
        self.session.postcopy.listen()

    def postcopy_end(self) -> U64:
        """All pages are here (C120)."""
        self.session.postcopy.end()
        return U64(0)

    def _newest(self) -> GuestMemory:
        """The table that the next change is made to."""
        pending = self.session.postcopy.pending
        return self.session.memory.memory() if pending is None else pending

    def _install(self, memory: GuestMemory, *, removal: bool = False) -> None:
        """At once; what adds memory in post-copy when the front-end serves page faults there."""
        postcopy = self.session.postcopy
        if postcopy.listening and (postcopy.pending is not None or not removal):
            postcopy.pending = memory
        else:
            if memory.regions:
                postcopy.not_needed()
            self.session.set_memory(memory)

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """Whatever comes of a message, no file is kept of a region that is not in the table."""
        try:
            yield
        finally:
            self.session.files.prune((*self.session.memory.memory().regions, *self._newest().regions))

    def _mapped(self, region: structs.MemoryRegion, fd: int, places: list[int]) -> MemoryRegion:
        """Map one region; ``fd`` is closed in any case.

        In post-copy, where the pager has it goes to ``places``.
        """
        with OwnedFds([fd]):
            if self.session.guest_ring_addresses and region.user_addr != region.guest_phys_addr:
                raise RequestRefused(
                    f"with GPA_ADDRESSES user address {region.user_addr:#x} must equal "
                    f"guest address {region.guest_phys_addr:#x}",
                    rule="C046",
                )
            made = _accepted(
                lambda: MemoryRegion(
                    fd,
                    guest_address=region.guest_phys_addr,
                    size=region.size,
                    user_address=region.user_addr,
                    file_offset=region.mmap_offset,
                    allow_remote=self.session.allow_remote_memory,
                )
            )
            if self.session.postcopy.listening:
                places.append(_accepted(lambda: self.session.postcopy.add(made, fd)))
            self.session.files.keep_region(made, fd)
            return made


def _accepted(make: Callable[[], Mapped]) -> Mapped:
    """What ``make`` returns; what the engine does not accept is refused."""
    try:
        return make()
    except MemoryTableError as error:
        raise refusal_of(error) from error
