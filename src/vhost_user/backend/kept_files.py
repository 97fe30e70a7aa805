"""The files that a front-end shared, kept open so that a successor of this process can be given them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.engine.memory.region import MemoryRegion
    from vhost_user.spec.structs import Inflight


class KeptFiles:
    """Duplicates of descriptors that the engine maps or adopts. Used by the control thread only.

    Where none can be had (the process has as many as it may), there is none: the session goes on without.
    """

    def __init__(self) -> None:
        self._regions: dict[MemoryRegion, int] = {}
        self.log: tuple[int, int, int] | None = None
        """File, size and offset of the dirty log."""
        self.log_notify: int | None = None
        self.inflight: tuple[int, int, int, int, int] | None = None
        """File, size, offset, queues and queue size of the in-flight area."""

    def keep_region(self, region: MemoryRegion, fd: int) -> None:
        """Keep the file of a region until ``prune`` finds it gone."""
        with contextlib.suppress(OSError):
            self._regions[region] = os.dup(fd)

    def prune(self, regions: Collection[MemoryRegion]) -> None:
        """Only these regions are in use."""
        for region in [region for region in self._regions if region not in regions]:
            os.close(self._regions.pop(region))

    def of_region(self, region: MemoryRegion) -> int | None:
        """The file of a region; None if it could not be kept."""
        return self._regions.get(region)

    def keep_log(self, fd: int, size: int, offset: int) -> None:
        """Keep the file of the dirty log in place of the one before."""
        self._drop_log()
        with contextlib.suppress(OSError):
            self.log = (os.dup(fd), size, offset)

    def keep_log_notify(self, fd: int | None) -> None:
        """Keep the eventfd of SET_LOG_FD in place of the one before."""
        old, self.log_notify = self.log_notify, None
        if old is not None:
            os.close(old)
        if fd is not None:
            with contextlib.suppress(OSError):
                self.log_notify = os.dup(fd)

    def keep_inflight(self, fd: int, area: Inflight | None) -> None:
        """Keep the file of the in-flight area in place of the one before."""
        old, self.inflight = self.inflight, None
        if old is not None:
            os.close(old[0])
        if area is not None:
            with contextlib.suppress(OSError):
                self.inflight = (
                    os.dup(fd), area.mmap_size, area.mmap_offset, area.num_queues, area.queue_size,
                )  # fmt: skip

    def _drop_log(self) -> None:
        old, self.log = self.log, None
        if old is not None:
            os.close(old[0])

    def close(self) -> None:
        """Close all of them. May be used again."""
        self.prune(())
        self._drop_log()
        self.keep_log_notify(None)
        self.keep_inflight(-1, None)
