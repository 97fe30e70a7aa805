"""Translations of I/O virtual addresses, as a front-end with an IOMMU hands them out (types and docstrings: iotlb.pyi)."""

# An address that is given out is valid as long as the snapshot it was made with is pinned, like every other address into
# guest memory. What is forgotten here is not taken back from those who have it: whoever answers INVALIDATE waits for them
# (see Ring.users). `lock` is innermost: it may be taken with a vring's mutex in hand, and nothing is taken under it.

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import free, realloc
from cython.cimports.libc.string import memmove
from cython.cimports.vhost_user.engine.barriers import lock as take_lock, lock_destroy, lock_init, lock_nogil, unlock
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.memory.iotlb import DENIED, FOUND, MISSING, Translation
from cython.cimports.vhost_user.engine.memory.region import MemoryRegion

from vhost_user.engine.errors import MemoryTableError

LIMIT = 16384
TOP = 1 << 64
PAGE = cython.declare(uint64_t, 4096)


@cython.final
@cython.cclass
class Iotlb:
    """Iotlb(memory, limit=16384)\n--\n\n\
    A cache of translations from I/O virtual addresses (IOVAs) to a snapshot of guest memory.

    It keeps ``limit`` entries at most and drops old ones for new ones: a front-end cannot make it grow, and what was
    dropped is asked for again. Methods may be called from any thread.
    """

    def __cinit__(self, memory, limit=16384):
        lock_init(cython.address(self.lock))

    def __init__(self, memory: GuestMemory, limit=16384):
        if memory is None:
            raise TypeError("translations need a snapshot of guest memory")
        if not 1 <= limit <= 1 << 20:
            raise ValueError(f"a limit of {limit} entries; 1 to {1 << 20} are possible")
        if self.limit:
            raise RuntimeError("a cache of translations is made once")
        self.memory = memory
        self.limit = limit

    def __dealloc__(self):
        free(self.entries)
        lock_destroy(cython.address(self.lock))

    # ------------------------------------------------------------------ what the front-end says
    def update(self, iova, size, user_address, permission):
        """Enter a translation; older ones in its range are replaced (C091).

        True if one of those led elsewhere or allowed more: what was made with it must come to its end. Raises
        MemoryTableError, with nothing changed, when the range is empty, wraps, or does not lie in memory regions.
        """
        if size <= 0 or not 0 <= iova <= TOP - size or not 0 <= user_address <= TOP - size:
            raise MemoryTableError(f"IOVA {iova:#x} + size {size:#x} at user address {user_address:#x} is no range", rule="C091")
        if not 0 <= permission <= 3:
            raise MemoryTableError(f"permission {permission} is not one of 0 to 3", rule="C089")
        parts = self.pieces(iova, size, user_address)
        entry: Translation
        first: uint64_t = iova
        last: uint64_t = iova + size - 1
        changed: cython.bint
        full: cython.int = 0
        take_lock(cython.address(self.lock))
        changed = self.leads_elsewhere(first, last, user_address, permission)
        self.remove(first, last)
        unlock(cython.address(self.lock))
        if permission == 0:
            return changed
        for start, end, user, guest, data, region in parts:
            entry.first = start
            entry.last = end
            entry.user = user
            entry.guest = guest
            entry.data = cython.cast(cython.p_char, cython.cast(uint64_t, data))
            entry.region = region
            entry.permission = permission
            entry.denied = 0
            take_lock(cython.address(self.lock))
            full |= self.insert(cython.address(entry))
            unlock(cython.address(self.lock))
        if full:
            raise MemoryError
        return changed

    @cython.cfunc
    def pieces(self, iova, size, user) -> list:
        """The range cut where memory regions end."""
        result: list = []
        regions = self.memory.regions
        left = size
        region: MemoryRegion
        while left > 0:
            for index, region in enumerate(regions):
                offset = user - region.user_address
                if 0 <= offset < region.size:
                    break
            else:
                raise MemoryTableError(f"an entry for IOVA {iova:#x}: user address {user:#x} lies in no memory region", rule="C091")
            run = min(left, region.size - offset)
            place: uint64_t = cython.cast(uint64_t, region.mapping.data)
            result.append((iova, iova + run - 1, user, region.guest_address + offset, place + offset, index))
            iova += run
            user += run
            left -= run
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def leads_elsewhere(self, first: uint64_t, last: uint64_t, user: uint64_t, permission: cython.int) -> cython.bint:
        """With the lock: an entry in this range would be another after an update."""
        index: cython.int = self.after(first)
        if index > 0 and self.entries[index - 1].last >= first:
            index -= 1
        while index < self.count and self.entries[index].first <= last:
            if self.entries[index].data != cython.NULL and (
                self.entries[index].user - self.entries[index].first != user - first or self.entries[index].permission & ~permission
            ):
                return True
            index += 1
        return False

    def invalidate(self, iova, size):
        """Forget every translation that has a part in this range; how many those were. A size of 0: up to the end."""
        if not 0 <= iova < TOP or not 0 <= size <= TOP - iova:
            raise MemoryTableError(f"IOVA {iova:#x} + size {size:#x} exceeds 2**64", rule="C089")
        first: uint64_t = iova
        last: uint64_t = iova + size - 1 if size else TOP - 1
        take_lock(cython.address(self.lock))
        count: cython.int = self.remove(first, last)
        unlock(cython.address(self.lock))
        return count

    def deny(self, iova, permission):
        """The front-end has no such translation: the next request that needs it fails, instead of waiting."""
        address: uint64_t = iova
        take_lock(cython.address(self.lock))
        failed: cython.int = self.refused(address, permission)
        unlock(cython.address(self.lock))
        if failed:
            raise MemoryError

    def moved(self, memory: GuestMemory):
        """The same translations in another snapshot; those that have no place there are left out."""
        result = Iotlb(memory, self.limit)
        for iova, size, user, permission in self.known():
            try:
                result.update(iova, size, user, permission)
            except MemoryTableError:
                continue
        return result

    def known(self):
        """The translations by IOVA: (IOVA, size, user address, permission)."""
        take_lock(cython.address(self.lock))
        count: cython.int = self.count
        unlock(cython.address(self.lock))
        result: list = []
        entry: Translation
        index: cython.int
        for index in range(count):
            take_lock(cython.address(self.lock))
            there: cython.bint = index < self.count
            if there:
                entry = self.entries[index]
            unlock(cython.address(self.lock))
            if there and entry.data != cython.NULL:
                result.append((entry.first, entry.last - entry.first + 1, entry.user, entry.permission))
        return result

    def __len__(self):
        take_lock(cython.address(self.lock))
        count: cython.int = self.count
        unlock(cython.address(self.lock))
        return count

    def find(self, iova, length, permission):
        """Guest address of an IOVA and how many of ``length`` bytes follow it there, or None: missing or not allowed."""
        run: uint64_t = 0
        guest: uint64_t = 0
        outcome: cython.int = 0
        address: uint64_t = iova
        wanted: uint64_t = length
        needed: cython.int = permission
        place: cython.p_char = self.translate(address, wanted, needed, cython.address(run), cython.address(guest), cython.address(outcome))
        return None if place == cython.NULL else (guest, run)

    # ------------------------------------------------------------------ with the lock
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def after(self, iova: uint64_t) -> cython.int:
        """The first entry that begins after this address."""
        low: cython.int = 0
        high: cython.int = self.count
        middle: cython.int
        while low < high:
            middle = (low + high) >> 1
            if self.entries[middle].first <= iova:
                low = middle + 1
            else:
                high = middle
        return low

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def drop(self, first: cython.int, last: cython.int) -> cython.void:
        """Entries ``first`` to ``last``, without the latter."""
        memmove(self.entries + first, self.entries + last, (self.count - last) * cython.sizeof(Translation))
        self.count -= last - first

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def remove(self, first: uint64_t, last: uint64_t) -> cython.int:
        """Every entry that has a part in the range, whole: it is a cache, and the rest is asked for again."""
        start: cython.int = self.after(first)
        if start > 0 and self.entries[start - 1].last >= first:
            start -= 1
        end: cython.int = start
        while end < self.count and self.entries[end].first <= last:
            end += 1
        if end > start:
            self.drop(start, end)
        return end - start

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def insert(self, entry: cython.pointer[Translation]) -> cython.int:
        """Nothing overlaps it any more. 1: out of memory."""
        wanted: cython.int
        place: cython.int
        if self.count == self.limit:
            # Any will do: none is used by anybody who did not look it up.
            place = cython.cast(cython.int, self.turn % cython.cast(cython.uint, self.count))
            self.turn += 7919
            self.drop(place, place + 1)
        if self.count == self.capacity:
            wanted = self.capacity * 2 if self.capacity else 64
            if wanted > self.limit:
                wanted = self.limit
            grown: cython.p_void = realloc(self.entries, wanted * cython.sizeof(Translation))
            if grown == cython.NULL:
                return 1
            self.entries = cython.cast(cython.pointer[Translation], grown)
            self.capacity = wanted
        place = self.after(entry.first)
        memmove(self.entries + place + 1, self.entries + place, (self.count - place) * cython.sizeof(Translation))
        self.entries[place] = entry[0]
        self.count += 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def refused(self, iova: uint64_t, permission: cython.int) -> cython.int:
        entry: Translation
        place: cython.int = self.after(iova) - 1
        if place >= 0 and self.entries[place].last >= iova:
            self.entries[place].denied |= permission
            return 0
        entry.first = iova
        # To the end of the page, unless something else is known about a part of it.
        entry.last = iova | (PAGE - 1)
        if place + 1 < self.count and self.entries[place + 1].first <= entry.last:
            entry.last = self.entries[place + 1].first - 1
        entry.user = 0
        entry.guest = 0
        entry.data = cython.NULL
        entry.region = -1
        entry.permission = 0
        entry.denied = permission
        return self.insert(cython.address(entry))

    # ------------------------------------------------------------------ what rings ask
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def translate(
        self,
        iova: uint64_t,
        length: uint64_t,
        permission: cython.int,
        run: cython.pointer[uint64_t],
        guest: cython.pointer[uint64_t],
        outcome: cython.pointer[cython.int],
    ) -> cython.p_char:
        """Where an IOVA lies, and how many of ``length`` (at least 1) bytes follow it there in the same region.

        NULL: ``outcome`` says why, and ``run`` how many bytes that is true for, to the end of the page at most.
        Lengths are compared with what is left, so that no sum can wrap (H78).
        """
        place: cython.int
        entry: cython.pointer[Translation]
        data: cython.p_char = cython.NULL
        done: uint64_t
        left: uint64_t
        lock_nogil(cython.address(self.lock))
        place = self.after(iova) - 1
        # Only an entry that is there is looked at; with none at all there is not even a table.
        entry = self.entries + (place if place >= 0 else 0)
        if place >= 0 and entry.last >= iova and entry.data != cython.NULL and entry.permission & permission == permission:
            data = entry.data + (iova - entry.first)
            guest[0] = entry.guest + (iova - entry.first)
            left = entry.last - iova
            done = length if length - 1 <= left else left + 1
            # Neighbours that go on where this one ends, in memory too, are one piece with it.
            while (
                done < length
                and place + 1 < self.count
                and entry[1].first - entry.first == entry.last - entry.first + 1
                and entry[1].region == entry.region
                and entry[1].guest - entry.guest == entry[1].first - entry.first
                and entry[1].data != cython.NULL
                and entry[1].permission & permission == permission
            ):
                place += 1
                entry += 1
                left = entry.last - entry.first
                done += length - done if length - done - 1 <= left else left + 1
            outcome[0] = FOUND
        else:
            done = PAGE - iova % PAGE
            outcome[0] = MISSING
            if place >= 0 and entry.last >= iova:
                if entry.last - iova < done - 1:
                    done = entry.last - iova + 1
                if entry.denied & permission:
                    outcome[0] = DENIED
            elif place + 1 < self.count and self.entries[place + 1].first - iova < done:
                done = self.entries[place + 1].first - iova
            if done > length:
                done = length
        run[0] = done
        unlock(cython.address(self.lock))
        return data

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def forgive(self, iova: uint64_t) -> cython.void:
        """A request has failed for what was denied here: the next one asks anew, for the guest may have mapped it since."""
        place: cython.int
        lock_nogil(cython.address(self.lock))
        place = self.after(iova) - 1
        if place >= 0 and self.entries[place].last >= iova:
            self.entries[place].denied = 0
            if self.entries[place].data == cython.NULL:
                self.drop(place, place + 1)
        unlock(cython.address(self.lock))

    def __repr__(self):
        return f"<Iotlb {len(self)} of {self.limit} entries>"
