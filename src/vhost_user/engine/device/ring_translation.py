"""Chains behind an IOMMU: buffers and indirect tables at IOVAs, and who uses which (C088 to C092).

Part of a Ring, and as that touched only under its Vring's lock.
"""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.device.chain import PIECES, Chain, chain_grow, chain_note_iova, chain_push, chain_uses
from cython.cimports.vhost_user.engine.device.ring_areas import RingAreas
from cython.cimports.vhost_user.engine.device.ring_translation import Descriptor
from cython.cimports.vhost_user.engine.memory.iotlb import DENIED, FOUND, MAY_READ, MAY_WRITE, MISSING

IDS = cython.declare(cython.int, 65536)


@cython.cclass
class RingTranslation(RingAreas):
    def __dealloc__(self):
        free(self.flying)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def add_translated(self, chain: cython.pointer[Chain], descriptor: cython.pointer[Descriptor], writable: cython.bint) -> cython.int:
        """A buffer of IOVAs, cut where translations end (C088, C092).

        What is missing is noted, and the walk goes on to find what else is: the chain is not taken then, and walked again when
        translations came. What was denied becomes a segment without a base, as an unmapped one without an IOMMU.
        """
        run: uint64_t = 0
        guest: uint64_t = 0
        outcome: cython.int = FOUND
        permission: cython.int = MAY_WRITE if writable else MAY_READ
        address: uint64_t = descriptor.address
        length: uint64_t = descriptor.length
        base: cython.p_char
        while length > 0:
            base = self.iotlb.translate(address, length, permission, cython.address(run), cython.address(guest), cython.address(outcome))
            if outcome == MISSING:
                if not self.miss(address, permission):
                    return 0
            else:
                if chain.count - chain.descriptors >= PIECES:
                    return self.fail(
                        b"V012", b"the buffers of the chain lie in too many pieces, with the one at IOVA {:#x}", chain.head, address
                    )
                if chain.count == chain.capacity and chain_grow(chain) < 0:
                    return self.fail(b"V012", b"out of memory for the segments of the chain", chain.head, chain.count)
                if outcome == DENIED:
                    chain.faults += 1
                    guest = address
                chain_push(chain, guest, base, run, writable)
                if chain_note_iova(chain, address) < 0:
                    return self.fail(b"V012", b"out of memory for the segments of the chain", chain.head, chain.count)
                self.walked += 1
            address += run
            length -= run
            if address == 0 and length > 0:
                return self.fail(b"V011", b"a buffer passes the end of the address space, from IOVA {:#x}", chain.head, descriptor.address)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def fetch_entry(self, address: uint64_t, descriptor: cython.pointer[Descriptor]) -> cython.int:
        """Copy an entry of an indirect table; 1, or 0 when a translation is missing, or -1: there is none."""
        run: uint64_t = 0
        guest: uint64_t = 0
        outcome: cython.int = FOUND
        done: uint64_t = 0
        base: cython.p_char
        while done < 16:
            base = self.iotlb.translate(
                address + done, 16 - done, MAY_READ, cython.address(run), cython.address(guest), cython.address(outcome)
            )
            if base == cython.NULL:
                if outcome == DENIED:
                    self.iotlb.forgive(address + done)
                    return -1
                self.miss(address + done, MAY_READ)
                return 0
            memcpy(cython.cast(cython.p_char, descriptor) + done, base, run)
            done += run
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def forgive(self, chain: cython.pointer[Chain]) -> cython.void:
        segment: cython.int
        for segment in range(chain.count):
            if chain.segments[segment].iov_base == cython.NULL:
                self.iotlb.forgive(chain.iovas[segment])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def users(self, first: uint64_t, last: uint64_t, in_flight: cython.int) -> cython.int:
        """How many chains in flight have a part in this range of IOVAs."""
        head: cython.int
        found: cython.int = 0
        left: cython.int = in_flight
        if self.flying == cython.NULL:
            return 0
        for head in range(IDS):
            if left == 0:
                break
            if self.flying[head] != cython.NULL:
                left -= 1
                if chain_uses(self.flying[head], first, last):
                    found += 1
        return found
