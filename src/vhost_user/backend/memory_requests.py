"""Requests about guest memory and the dirty log (C035 to C048, C077 to C087)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vhost_user.backend.dispatch import RequestGroup
from vhost_user.backend.refusal import refusal_of
from vhost_user.backend.ring import hand_over
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.guest_memory import MAX_REGIONS, GuestMemory
from vhost_user.engine.memory.region import MemoryRegion
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec import structs
from vhost_user.spec.structs import U64, Iotlb, Log, Memory, MemorySlot

Mapped = TypeVar("Mapped")


class MemoryRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`."""

    def set_mem_table(self, payload: Memory, fds: OwnedFds) -> None:
        """Replace the whole table; when anything is wrong the old one stays (C035, C040)."""
        with OwnedFds(fds.take()) as files:
            regions = []
            for region in payload.regions:
                fd = files.take_one()
                assert fd is not None  # the session has counted them (C035)
                regions.append(self._mapped(region, fd))
        self.session.set_memory(_accepted(lambda: GuestMemory(regions, self.session.bitmap)))

    def add_mem_reg(self, payload: MemorySlot, fds: OwnedFds) -> None:
        """Add one region (C042, C043).

        While all rings are stopped one with the addresses and size of another replaces it: the front-end that
        added that one may have forgotten it.
        """
        memory = self.session.memory.memory()
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
        region = self._mapped(payload.region, fd)
        self.session.set_memory(_accepted(lambda: memory.with_region(region)))

    def rem_mem_reg(self, payload: MemorySlot) -> None:
        """Remove the region with these addresses and size (C042, C044).

        Rings in it pause until it comes back.
        """
        region = payload.region
        memory = self.session.memory.memory()
        self.session.set_memory(
            _accepted(lambda: memory.without_region(region.guest_phys_addr, region.user_addr, region.size))
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

    def set_log_fd(self, fds: OwnedFds) -> None:
        """Eventfd that is written after the log changed (C083)."""
        hand_over(fds.take_one(), self.session.bitmap.set_notify, self.session.own_socket)

    def iotlb_msg(self, _payload: Iotlb) -> None:
        """Guest addresses are never translated by an IOMMU here: ACCESS_PLATFORM is not offered."""
        raise RequestRefused("this back-end has no IOTLB", rule="C089")

    def postcopy_advise(self) -> None:
        """PAGEFAULT is not offered."""
        raise RequestRefused("this back-end does not do post-copy", rule="C118")

    def postcopy_listen(self) -> None:
        """PAGEFAULT is not offered."""
        raise RequestRefused("this back-end does not do post-copy", rule="C118")

    def postcopy_end(self) -> None:
        """PAGEFAULT is not offered."""
        raise RequestRefused("this back-end does not do post-copy", rule="C120")

    def _mapped(self, region: structs.MemoryRegion, fd: int) -> MemoryRegion:
        """Map one region; ``fd`` is closed in any case."""
        with OwnedFds([fd]):
            if self.session.guest_ring_addresses and region.user_addr != region.guest_phys_addr:
                raise RequestRefused(
                    f"with GPA_ADDRESSES user address {region.user_addr:#x} must equal "
                    f"guest address {region.guest_phys_addr:#x}",
                    rule="C046",
                )
            return _accepted(
                lambda: MemoryRegion(
                    fd,
                    guest_address=region.guest_phys_addr,
                    size=region.size,
                    user_address=region.user_addr,
                    file_offset=region.mmap_offset,
                    allow_remote=self.session.allow_remote_memory,
                )
            )


def _accepted(make: Callable[[], Mapped]) -> Mapped:
    """What ``make`` returns; what the engine does not accept is refused."""
    try:
        return make()
    except MemoryTableError as error:
        raise refusal_of(error) from error
