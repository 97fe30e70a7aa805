"""An IOMMU as a front-end has it: what is mapped, and the messages about it (C088 to C092)."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.structs import Iotlb, IotlbPermission, IotlbType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user.frontend.frontend import Frontend, Region

PAGE = 4096
GUEST_SHIFT = 1 << 40
"""Added to an address of the driver to make the guest address of its memory: never confuse the two."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapped range: IOVA, bytes, the front-end's address of it, and what may be done with it."""

    iova: int
    size: int
    user_address: int
    permission: IotlbPermission


@dataclass(frozen=True)
class ShiftedRegion:
    """A memory region as the back-end is told of it when addresses of the driver are IOVAs."""

    region: Region

    @property
    def fd(self) -> int:
        """The file it is in."""
        return self.region.fd

    @property
    def guest_address(self) -> int:
        """Not what the driver calls it."""
        return self.region.guest_address + GUEST_SHIFT

    @property
    def size(self) -> int:
        """Bytes."""
        return self.region.size

    @property
    def user_address(self) -> int:
        """Address in the front-end."""
        return self.region.user_address

    @property
    def file_offset(self) -> int:
        """Where in the file it starts, in bytes."""
        return self.region.file_offset


class Iommu:
    """The IOMMU in front of an in-process driver: give it to a driver as ``iommu=``.

    The addresses that the driver uses become IOVAs, unequal to guest and user addresses. With ``mapped`` all
    of its memory is mapped from the start; else ``map`` what it may use. ``page`` bounds an UPDATE, as a
    guest's page size does. The counters and ``silent`` are for tests: a silent IOMMU answers no miss.
    """

    def __init__(self, *, mapped: bool = True, page: int = PAGE) -> None:
        self.page = page
        self.silent = False
        self.misses: list[Iotlb] = []
        """Every miss that came, the last thousand."""
        self.failures: list[Iotlb] = []
        """Every ACCESS_FAIL, likewise."""
        self.updates = 0
        self._everything = mapped
        self._mappings: list[Mapping] = []
        self._lock = threading.Lock()
        self._frontend: Frontend | None = None

    def attach(self, frontend: Frontend, regions: Sequence[Region]) -> list[ShiftedRegion]:
        """The connection to send messages on, and the memory behind it; returns what to tell the back-end."""
        self._frontend = frontend
        if self._everything:
            with self._lock:
                for region in regions:
                    self._mappings = [
                        mapping for mapping in self._mappings if mapping.iova != region.guest_address
                    ]
                    self._mappings.append(
                        Mapping(
                            region.guest_address,
                            region.size,
                            region.user_address,
                            IotlbPermission.READ | IotlbPermission.WRITE,
                        )
                    )
                self._mappings.sort(key=lambda mapping: mapping.iova)
        return [ShiftedRegion(region) for region in regions]

    def map(
        self,
        iova: int,
        size: int,
        user_address: int,
        permission: IotlbPermission = IotlbPermission.READ | IotlbPermission.WRITE,
    ) -> None:
        """Map a range; the back-end hears of it when it asks."""
        with self._lock:
            self._cut(iova, size)
            self._mappings.append(Mapping(iova, size, user_address, permission))
            self._mappings.sort(key=lambda mapping: mapping.iova)

    def unmap(self, iova: int, size: int) -> None:
        """Unmap a range. When this returns the back-end uses it no more; RequestRefused if it may."""
        with self._lock:
            self._cut(iova, size)
        self.invalidate(iova, size)

    def invalidate(self, iova: int, size: int) -> None:
        """Have the back-end forget a range that stays mapped, as flushing a guest's IOMMU does."""
        self.send(Iotlb(iova, size, 0, IotlbPermission.NONE, IotlbType.INVALIDATE))

    def update(self, iova: int) -> bool:
        """Hand over the translation of the page of an IOVA; False if it is not mapped."""
        with self._lock:
            mapping = self._find(iova)
        if mapping is None:
            return False
        start = max(mapping.iova, iova - iova % self.page)
        end = min(mapping.iova + mapping.size, iova - iova % self.page + self.page)
        user_address = mapping.user_address + start - mapping.iova
        self.updates += 1
        self.send(Iotlb(start, end - start, user_address, mapping.permission, IotlbType.UPDATE))
        return True

    def send(self, message: Iotlb) -> None:
        """Send any IOTLB message; RequestRefused when the back-end refuses it."""
        if self._frontend is not None:
            self._frontend.iotlb_msg(message)

    def answer(self, message: Iotlb) -> None:
        """What came over the back channel: a miss is answered with an update, or refused."""
        if message.type == IotlbType.ACCESS_FAIL:
            self.failures = [*self.failures[-999:], message]
            return
        self.misses = [*self.misses[-999:], message]
        if self.silent:
            return
        with self._lock:
            mapping = self._find(message.iova)
        if mapping is None or message.perm & ~mapping.permission:
            raise RequestRefused(f"IOVA {message.iova:#x} is not mapped for that", rule="C090")
        self.update(message.iova)

    def _find(self, iova: int) -> Mapping | None:
        place = bisect_right(self._mappings, iova, key=lambda mapping: mapping.iova) - 1
        if place >= 0 and iova - self._mappings[place].iova < self._mappings[place].size:
            return self._mappings[place]
        return None

    def _cut(self, iova: int, size: int) -> None:
        """Take a range out; what is left of mappings on its edges stays."""
        rest: list[Mapping] = []
        for mapping in self._mappings:
            end = mapping.iova + mapping.size
            if end <= iova or iova + size <= mapping.iova:
                rest.append(mapping)
                continue
            if mapping.iova < iova:
                rest.append(
                    Mapping(mapping.iova, iova - mapping.iova, mapping.user_address, mapping.permission)
                )
            if end > iova + size:
                skipped = iova + size - mapping.iova
                rest.append(
                    Mapping(
                        iova + size, end - iova - size, mapping.user_address + skipped, mapping.permission
                    )
                )
        self._mappings = rest
