"""The regions of a snapshot of guest memory as Python objects, and views of them (types: guest_memory.pyi)."""

import cython

from vhost_user.engine.errors import MemoryFault


@cython.cclass
class RegionViews:
    """What a snapshot of guest memory does with whole regions; see ``GuestMemory``."""

    @property
    def regions(self):
        """The regions, by guest address; none after ``close``."""
        # The end of the session empties it on whichever thread is last. Without a GIL a tuple could be freed between the load
        # of its pointer and the reference to it; the critical sections here and in `release` keep the two apart.
        with cython.critical_section(self):
            return self.mapped_regions

    def user_to_guest(self, user_address, length=1):
        """Guest address of a range of front-end addresses.

        Raises MemoryFault unless it lies in one region.
        """
        for region in self.regions:
            offset = user_address - region.user_address
            if 0 <= offset < region.size:
                if length > region.size - offset:
                    raise MemoryFault(
                        user_address,
                        length,
                        rule="C071",
                        reason=f"(a front-end address) passes the end of its region after {region.size - offset:#x} bytes",
                    )
                return region.guest_address + offset
        raise MemoryFault(user_address, length, rule="C045", reason="(a front-end address) lies in no memory region")

    def find_region(self, guest_address):
        """The region that the address lies in."""
        for region in self.regions:
            if 0 <= guest_address - region.guest_address < region.size:
                return region
        return None

    def checked_offset(self, guest_address, offset):
        """``guest_address + offset`` if that lies in a region."""
        return guest_address + offset if self.find_region(guest_address + offset) is not None else None

    def get_slices(self, guest_address, length):
        """Writable views of a range that may cross regions, one for each of them.

        They keep their mapping alive; writes through them are not logged: call ``bitmap.mark``. Raises
        MemoryFault unless all of it is mapped.
        """
        if not self.is_mapped(guest_address, length):
            raise MemoryFault(guest_address, length)
        self.await_pages(guest_address, length)
        slices = []
        while length > 0:
            region = self.find_region(guest_address)
            if region is None:
                raise MemoryFault(guest_address, length, rule="C134", reason="belongs to a session that ended")
            offset = guest_address - region.guest_address
            run = min(length, region.size - offset)
            slices.append(memoryview(region)[offset : offset + run])
            guest_address += run
            length -= run
        return slices

    def view(self, guest_address, length):
        """A writable view of a range inside one region.

        Keeps the mapping alive; writes through it are not logged: call ``bitmap.mark``.
        """
        for region in self.regions:
            offset = guest_address - region.guest_address
            if 0 <= offset < region.size and 0 <= length <= region.size - offset:
                self.await_pages(guest_address, length)
                return memoryview(region)[offset : offset + length]
        raise MemoryFault(guest_address, length, reason="does not lie in one mapped region")
