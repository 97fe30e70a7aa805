"""VIRTIO shared memory regions: files that a device shows its driver through the front-end (C104, C105)."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.backend.backchannel import BackChannelError

if TYPE_CHECKING:
    from vhost_user.backend.backchannel import BackChannel

MAX_MAPPINGS = 1024
"""At a time: the front-end keeps each."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedMapping:
    """Bytes ``offset`` to ``offset + length`` of region ``region``, which show a file of the device's."""

    region: int
    offset: int
    length: int

    def overlaps(self, other: SharedMapping) -> bool:
        """Whether the two have a byte in common."""
        return (
            self.region == other.region
            and self.offset < other.offset + other.length
            and other.offset < self.offset + self.length
        )

    def __str__(self) -> str:
        return f"{self.offset:#x}+{self.length:#x} of shared memory region {self.region}"


class SharedMemory:
    """The shared memory regions of a device; declare it as ``shared_memory`` of the class.

    ``sizes`` has the bytes of each region by its id, whole pages. The declaration is a template: each device
    gets a twin of its own. Mappings end with a reset of the device and with the session.

    ``map`` and ``unmap`` wait for the front-end's answer, so they may be called from a worker or a thread of
    yours, not from what is called in the control thread (``started``, ``reset``, ``set_config`` …): an
    ``async def started`` with ``asyncio.to_thread`` maps what is to be there from the start. While all rings
    are stopped nothing can be mapped (C076).
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        for region, size in sizes.items():
            if not 0 <= region <= 255:
                raise ValueError(f"shared memory region {region}: ids are 0 to 255")
            if size <= 0 or size % mmap.PAGESIZE or size >= 1 << 64:
                raise ValueError(
                    f"shared memory region {region} has {size} bytes: it has whole pages of {mmap.PAGESIZE}"
                )
        self.sizes = dict(sizes)
        self._channel: Callable[[], BackChannel | None] = lambda: None
        self._lock = threading.Lock()
        self._mappings: list[SharedMapping] = []
        """Those that the front-end has, or is being asked for."""
        self._life = 0
        """Counts resets and sessions: a mapping of an earlier one is gone."""

    def copy(self, channel: Callable[[], BackChannel | None]) -> SharedMemory:
        """A twin for one device; ``channel`` gives its back channel of the moment."""
        twin = SharedMemory(self.sizes)
        twin._channel = channel
        return twin

    @property
    def mappings(self) -> tuple[SharedMapping, ...]:
        """What is mapped now."""
        with self._lock:
            return tuple(self._mappings)

    def map(
        self, region: int, fd: int, *, offset: int, length: int, fd_offset: int = 0, writable: bool = False
    ) -> SharedMapping:
        """Show ``length`` bytes of the file ``fd`` from ``fd_offset`` on at ``offset`` of a region.

        ``fd`` stays the caller's and may be closed afterwards. ValueError for what cannot be mapped there: no
        such region, outside of it, not whole pages, something else is there. RequestRefused when the
        front-end refuses, or shared memory was not negotiated; BackChannelError when it cannot be asked.
        """
        mapping = SharedMapping(region, offset, length)
        if region not in self.sizes:
            raise ValueError(f"there is no shared memory region {region}; there are {sorted(self.sizes)}")
        if length <= 0 or (offset | length | fd_offset) % mmap.PAGESIZE or fd_offset < 0:
            raise ValueError(f"{mapping}, from {fd_offset:#x} of the file: whole pages can be mapped")
        if offset < 0 or offset + length > self.sizes[region]:
            raise ValueError(f"{mapping} lies outside: it has {self.sizes[region]:#x} bytes")
        with self._lock:
            if len(self._mappings) >= MAX_MAPPINGS:
                raise ValueError(f"{mapping}: there are {MAX_MAPPINGS} mappings already")
            for other in self._mappings:
                if mapping.overlaps(other):
                    raise ValueError(f"{mapping} overlaps {other}, which is mapped: unmap that first")
            self._mappings.append(mapping)
            life = self._life
        try:
            self._asked().shmem_map(
                region, fd, fd_offset=fd_offset, shm_offset=offset, length=length, writable=writable
            )
        except BaseException:
            self._drop(mapping)
            raise
        if life != self._life:
            raise BackChannelError(f"{mapping} is gone again: the device was reset, or the session ended")
        return mapping

    def unmap(self, mapping: SharedMapping) -> None:
        """Take a mapping back. ValueError for one that is not there (any more); else as ``map``.

        When the front-end refuses, or cannot be asked, it stays.
        """
        with self._lock:
            if mapping not in self._mappings:
                raise ValueError(f"{mapping} is not mapped")
        self._asked().shmem_unmap(mapping.region, shm_offset=mapping.offset, length=mapping.length)
        self._drop(mapping)

    def forget(self) -> None:
        """The device was reset, or the session ended: the front-end has dropped them all."""
        with self._lock:
            self._life += 1
            self._mappings.clear()

    def _drop(self, mapping: SharedMapping) -> None:
        with self._lock:
            if mapping in self._mappings:
                self._mappings.remove(mapping)

    def _asked(self) -> BackChannel:
        if (channel := self._channel()) is None:
            raise BackChannelError("there is no front-end with a back channel")
        return channel
