"""One vring as the control plane sees it.

The engine's vring, its worker, and what the front-end said about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vhost_user.backend.refusal import refusal_of
from vhost_user.engine.errors import DoorbellError, MemoryFault, RingSetupError
from vhost_user.engine.memory.file_system import status
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import VringAddressFlag

if TYPE_CHECKING:
    from vhost_user.engine.device.vring import Vring
    from vhost_user.engine.device.worker import Worker
    from vhost_user.engine.memory.iotlb import Iotlb
    from vhost_user.spec.structs import VringAddress

FileIdentity = tuple[int, int]
Areas = tuple[tuple[int, int], ...]
"""Guest addresses and sizes of the three areas of a ring."""

_NOWHERE = GuestMemory()
"""A ring that is given this memory pauses."""


NOT_SHARED = (
    "; is the guest's memory shared? QEMU shares it with share=on: "
    "-object memory-backend-memfd,id=mem,size=512M,share=on -machine memory-backend=mem (the size as in -m)"
)
"""QEMU without it tells us of no memory, starts its rings all the same, and the guest hangs."""


def area_sizes(size: int, *, packed: bool, event_idx: bool) -> tuple[int, int, int]:
    """Bytes of the descriptor, driver and device area of a ring of ``size`` descriptors (C071).

    A size of 0 means that it is not known yet: one byte each, so that at least the start is checked.
    """
    if size == 0:
        return 1, 1, 1
    if packed:
        return 16 * size, 4, 4
    event = 2 if event_idx else 0
    return 16 * size, 4 + 2 * size + event, 4 + 8 * size + event


class Ring:
    """Carries out the messages about one vring (C049 to C074). Used by the control thread only.

    Ring addresses are kept as the front-end sent them, because they must be translated again whenever the
    memory table changes (C041).
    """

    def __init__(self, vring: Vring, worker: Worker) -> None:
        self.vring = vring
        self.worker = worker
        self.addresses: VringAddress | None = None
        self._areas: list[int] | None = None
        """Guest addresses of the three areas, as the vring has them."""
        self.iotlb: Iotlb | None = None
        """With an IOMMU: ring addresses are IOVAs, translated by the engine (C088)."""
        self.on_absent: Callable[[Ring, GuestMemory, Areas], object] = lambda *_: None
        """Called when pages of its areas are missing (post-copy): it is paused until ``arrived``."""
        self.starts_later = False
        """It was started while they were, and nothing else was: it starts when they come."""
        self.runs = False
        """It ran when it was last paused, and goes on elsewhere or here."""
        self.told: set[FrontendRequest] = set()
        """Which of SET_VRING_KICK, CALL and ERR came, with a descriptor or without (C133)."""
        self.left_at: int | None = None
        """What GET_VRING_BASE answered last: a driver that goes on goes on there (C056)."""

    @property
    def index(self) -> int:
        """The queue's number in the device."""
        return self.vring.index

    def set_size(self, size: int) -> None:
        """SET_VRING_NUM (C070, C072)."""
        self._must_not_run("SET_VRING_NUM")
        try:
            self.vring.set_size(size)
        except RingSetupError as error:
            raise refusal_of(error, "C070") from error

    def set_base(self, base: int) -> None:
        """SET_VRING_BASE (C057 to C059, C072)."""
        self._must_not_run("SET_VRING_BASE")
        if not self.vring.packed and base > 0xFFFF:
            raise RequestRefused(f"base {base:#x} of a split ring has more than 16 bits", rule="C056")
        try:
            self.vring.set_base(base)
        except RingSetupError as error:
            raise refusal_of(error, "C057") from error

    def set_addresses(
        self, addresses: VringAddress, memory: GuestMemory, *, guest: bool, event_idx: bool
    ) -> None:
        """SET_VRING_ADDR; ``guest`` says that they are guest addresses (C046).

        May move the log flag of a running ring (C072).

        With an empty memory table they are only kept: the table may come later (C041).
        """
        before = self.addresses
        if memory.regions:
            try:
                self._apply(addresses, memory, guest=guest, event_idx=event_idx)
            except MemoryFault as error:
                raise RequestRefused(
                    f"a part of the ring lies outside of the memory regions: {error.reason}",
                    rule="C071",
                ) from error
            except RingSetupError as error:
                if before is not None and self.vring.started:
                    self._apply(before, memory, guest=guest, event_idx=event_idx)
                raise refusal_of(error, "C071") from error
        else:
            self.vring.keep_addresses()
        self.addresses = addresses
        self.worker.update(self.vring)

    def memory_changed(self, memory: GuestMemory, *, guest: bool, event_idx: bool) -> None:
        """Translate again after the table changed.

        A ring whose memory went away pauses (C040, C041, C044).
        """
        if self.addresses is None:
            self.vring.set_memory(memory, self.iotlb)
        else:
            try:
                self._apply(self.addresses, memory, guest=guest, event_idx=event_idx)
            except (MemoryFault, RingSetupError):
                self.vring.set_memory(_NOWHERE)
        self.worker.update(self.vring)

    def _apply(self, addresses: VringAddress, memory: GuestMemory, *, guest: bool, event_idx: bool) -> bool:
        """Where the areas are, in this memory. True: their pages are missing, and the ring pauses."""
        sizes = area_sizes(self.vring.size, packed=self.vring.packed, event_idx=event_idx)
        starts = (addresses.descriptor, addresses.available, addresses.used)
        areas = [
            self._translated(start, size, memory, guest=guest)
            for start, size in zip(starts, sizes, strict=True)
        ]
        if areas != self._areas:
            # Never the old addresses in the new memory, not for a moment: the ring pauses between the two.
            self.vring.set_memory(_NOWHERE)
        self.vring.set_addresses(
            descriptor=areas[0],
            driver=areas[1],
            device=areas[2],
            log_address=addresses.log if addresses.flags & VringAddressFlag.LOG else None,
        )
        self._areas = areas
        absent = not all(map(memory.are_here, areas, sizes))
        self.vring.set_memory(_NOWHERE if absent else memory, self.iotlb)
        if absent:
            self.on_absent(self, memory, tuple(zip(areas, sizes, strict=True)))
        return absent

    def _translated(self, address: int, length: int, memory: GuestMemory, *, guest: bool) -> int:
        if self.iotlb is not None:
            return address
        if not guest:
            return memory.user_to_guest(address, length)
        if not memory.is_mapped(address, length):
            raise MemoryFault(address, length, rule="C046")
        return address

    def set_kick(
        self,
        fd: int | None,
        memory: GuestMemory,
        *,
        guest: bool,
        event_idx: bool,
        own: FileIdentity | None = None,
    ) -> None:
        """SET_VRING_KICK: replace the kick fd and start the ring (C050, C066).

        Takes ownership of ``fd``, which must not be the session's ``own`` socket.
        """
        # Closing a file descriptor does not take it out of the poll set while the peer holds the other copy.
        self.worker.remove(self.vring)
        try:
            hand_over(fd, self.vring.set_kick, own)
        except RequestRefused:
            self.worker.update(self.vring)
            raise
        try:
            self._start(memory, guest=guest, event_idx=event_idx)
        except RequestRefused:
            self.vring.set_kick(None)
            raise
        self.worker.update(self.vring)

    def start_in_band(self, kick: int | None, memory: GuestMemory, *, guest: bool, event_idx: bool) -> None:
        """VRING_KICK: start the ring, or have it looked at (C133). Takes ownership of ``kick``, if given."""
        if kick is not None:
            self.worker.remove(self.vring)
            self.vring.set_kick(kick)
        self._start(memory, guest=guest, event_idx=event_idx)
        self.worker.update(self.vring)

    def go_on(self, memory: GuestMemory, *, guest: bool, event_idx: bool) -> None:
        """Start the ring where it is, with the doorbells that it has: it was paused, here or elsewhere."""
        self._start(memory, guest=guest, event_idx=event_idx)
        self.worker.update(self.vring)

    def arrived(self, memory: GuestMemory, *, guest: bool, event_idx: bool) -> None:
        """Pages of the areas came. RequestRefused when the ring was to start then, and cannot."""
        if self.starts_later:
            self._start(memory, guest=guest, event_idx=event_idx)
            self.worker.update(self.vring)
        else:
            self.memory_changed(memory, guest=guest, event_idx=event_idx)

    def _start(self, memory: GuestMemory, *, guest: bool, event_idx: bool) -> None:
        if self.vring.started:
            return
        self.starts_later = False
        try:
            if self.addresses is not None and memory.regions:
                # Again and in full: size, features and memory may have come after the addresses.
                absent = self._apply(self.addresses, memory, guest=guest, event_idx=event_idx)
                # Without a size nothing is sure of its areas, and the start says so.
                self.starts_later = absent and self.vring.size > 0
            if not self.starts_later:
                self.vring.start()
        except (MemoryFault, RingSetupError) as error:
            refusal = refusal_of(error, "C073")
            if not memory.regions:
                refusal = RequestRefused(f"{error.reason}{NOT_SHARED}", rule=refusal.rule)
            raise refusal from error

    def set_enabled(self, enabled: bool) -> None:
        """SET_VRING_ENABLE; remembered while the ring is stopped (C060, C063)."""
        self.vring.set_enabled(enabled)
        self.worker.update(self.vring)

    def hold(self, held: bool) -> None:
        """Hold the ring back although it is started and enabled (C132)."""
        self.vring.set_suspended(held)
        self.worker.update(self.vring)

    def stop(self) -> None:
        """Take no more requests; kicks are no longer listened to (C053)."""
        self.starts_later = False
        self.vring.stop()
        self.worker.remove(self.vring)

    def forget(self) -> None:
        """End of the session: as new, all file descriptors closed (C134)."""
        self.worker.remove(self.vring)
        self.vring.reset()
        self.starts_later = False
        self.addresses = None
        self._areas = None
        self.runs = False
        self.told.clear()
        self.left_at = None

    def _must_not_run(self, message: str) -> None:
        if self.vring.started:
            raise RequestRefused(
                f"{message} for queue {self.index} while it runs; stop it with GET_VRING_BASE first",
                rule="C072",
            )


def hand_over(fd: int | None, install: Callable[[int | None], None], own: FileIdentity | None) -> None:
    """Give a doorbell (kick, call, err, log) to ``install``, or close it and refuse (C067, H84).

    ``own`` is the session's own socket. What is written there would come to the front-end as a message, and
    holding it would keep the session from ending (H89). Other ends of Unix socket pairs are fine: user-mode
    Linux uses nothing else.
    """
    with OwnedFds([] if fd is None else [fd]) as owned:
        if fd is not None and own is not None and file_identity(fd) == own:
            raise RequestRefused("the file descriptor is this session's own socket", rule="C067")
        try:
            install(fd)
        except DoorbellError as error:
            raise refusal_of(error, "C067") from error
        owned.take()


def file_identity(fd: int) -> FileIdentity:
    """Device and inode: equal for all descriptors of one file or socket."""
    found = status(fd)
    return found.device, found.inode
