"""A descriptor chain as plain C data: segments translated once, copies in both directions.

No Python object is touched here, so rings, requests and the compiled fast paths share it without the GIL. The caller has
pinned the snapshot the segments were translated with; nothing in a Chain is valid without that pin.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, realloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.vhost_user.engine.barriers import counter_get, iovec
from cython.cimports.vhost_user.engine.device.chain import (
    CROSSINGS,
    KEPT_SEGMENTS,
    OUT,
    PIECE,
    Chain,
    Cursor,
    chain_grow,
    chain_pass,
    chain_push,
)
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_new() -> cython.pointer[Chain]:
    return cython.cast(cython.pointer[Chain], calloc(1, cython.sizeof(Chain)))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_free(chain: cython.pointer[Chain]) -> cython.void:
    if chain != cython.NULL:
        free(chain.segments)
        free(chain.addresses)
        free(chain.iovas)
        free(chain)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_trim(chain: cython.pointer[Chain]) -> cython.void:
    """Give back what one huge chain needed. The caller is the only one who can reach this chain, and has done with it."""
    if chain.capacity > KEPT_SEGMENTS:
        free(chain.segments)
        free(chain.addresses)
        chain.segments = cython.NULL
        chain.addresses = cython.NULL
        chain.capacity = 0
        free(chain.iovas)
        chain.iovas = cython.NULL
        chain.iova_capacity = 0
        # Nothing may lead to what is gone.
        chain.count = 0
        chain.readable_count = 0
        chain.readable_total = 0
        chain.writable_total = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_grow(chain: cython.pointer[Chain]) -> cython.int:
    wanted: cython.int = chain.capacity * 2 if chain.capacity else 8
    segments: cython.p_void = realloc(chain.segments, wanted * cython.sizeof(iovec))
    if segments == cython.NULL:
        return -1
    chain.segments = cython.cast(cython.pointer[iovec], segments)
    addresses: cython.p_void = realloc(chain.addresses, wanted * cython.sizeof(uint64_t))
    if addresses == cython.NULL:
        return -1
    chain.addresses = cython.cast(cython.pointer[uint64_t], addresses)
    chain.capacity = wanted
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_note_iova(chain: cython.pointer[Chain], iova: uint64_t) -> cython.int:
    """The IOVA of the segment that was pushed last. Room for it is made here: only chains behind an IOMMU need it."""
    if chain.iova_capacity < chain.capacity:
        grown: cython.p_void = realloc(chain.iovas, chain.capacity * cython.sizeof(uint64_t))
        if grown == cython.NULL:
            return -1
        chain.iovas = cython.cast(cython.pointer[uint64_t], grown)
        chain.iova_capacity = chain.capacity
    chain.iovas[chain.count - 1] = iova
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_uses(chain: cython.pointer[Chain], first: uint64_t, last: uint64_t) -> cython.bint:
    """Whether a chain with IOVAs has a part in this range, its end included."""
    segment: cython.int
    for segment in range(chain.count):
        if chain.iovas[segment] <= last and chain.iovas[segment] + (chain.segments[segment].iov_len - 1) >= first:
            return True
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_append(
    chain: cython.pointer[Chain], memory: GuestMemory, address: uint64_t, length: uint64_t, writable: cython.bint
) -> cython.int:
    """Add one buffer of the driver, split where regions end (C048). -1: out of memory, -2: it is in too many pieces.

    All buffers of a chain together pass at most CROSSINGS times from one region into the next: a guest has a handful of
    regions. Without a bound, a buffer in a table of many small ones costs a segment for each, in every descriptor.

    An unmapped part becomes a segment without a base: the request can still be answered as far as it is mapped, and whoever
    touches that part gets the fault (V011).
    """
    run: uint64_t = 0
    base: cython.p_char
    while length > 0:
        if chain.count == chain.capacity and chain_grow(chain) < 0:
            return -1
        base = memory.translate(address, length, cython.address(run))
        if base == cython.NULL:
            run = length
            chain.faults += 1
        elif run < length and chain.count - chain.descriptors >= CROSSINGS:
            return -2
        chain_push(chain, address, base, run, writable)
        address += run
        length -= run
        if address == 0 and length > 0:
            # Guest addresses end at 2**64; what would lie beyond is nowhere, whatever is mapped at 0.
            chain.faults += 1
            if chain.count == chain.capacity and chain_grow(chain) < 0:
                return -1
            chain_push(chain, address, cython.NULL, length, writable)
            return 0
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_fault_at(chain: cython.pointer[Chain], cursor: cython.pointer[Cursor], writable: cython.bint, length: uint64_t) -> cython.int:
    """``chain_fault`` of a chain that has one somewhere."""
    last: cython.int = chain.count if writable else chain.readable_count
    segment: cython.int = cursor.segment + (chain.readable_count if writable else 0)
    offset: uint64_t = cursor.offset
    while segment < last and length > 0:
        if chain.segments[segment].iov_base == cython.NULL:
            return segment
        run: uint64_t = chain.segments[segment].iov_len - offset
        length -= run if run < length else length
        offset = 0
        segment += 1
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_copy_across(
    chain: cython.pointer[Chain],
    memory: GuestMemory,
    cursor: cython.pointer[Cursor],
    buffer: cython.p_void,
    length: uint64_t,
    how: cython.int,
) -> int64_t:
    """``chain_read`` (``how`` is OUT) and ``chain_write`` (its ``fill``) where the bytes lie in several segments."""
    data: cython.p_char = cython.cast(cython.p_char, buffer)
    place: cython.p_char
    done: uint64_t = 0
    run: uint64_t
    segment: cython.int
    first: cython.int = 0 if how == OUT else chain.readable_count
    last: cython.int = chain.readable_count if how == OUT else chain.count
    while done < length and cursor.segment < last - first:
        segment = first + cursor.segment
        run = chain.segments[segment].iov_len - cursor.offset
        if run > length - done:
            run = length - done
        place = cython.cast(cython.p_char, chain.segments[segment].iov_base) + cursor.offset
        if how == OUT:
            memcpy(data + done, place, run)
        else:
            if how >= 0:
                memset(place, how, run)
            else:
                memcpy(place, data + done, run)
            memory.bitmap.written(chain.addresses[segment] + cursor.offset, run)
        done += run
        chain_pass(cursor, run, chain.segments[segment].iov_len)
    return done


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_copy_long(
    chain: cython.pointer[Chain],
    memory: GuestMemory,
    cursor: cython.pointer[Cursor],
    buffer: cython.p_void,
    length: uint64_t,
    how: cython.int,
    current: cython.pointer[int64_t],
    generation: int64_t,
) -> cython.bint:
    """The same for many bytes, in pieces: False if ``current`` is another generation than ours before the end.

    A guest may ask for 4 GiB with one request. Whoever ends its session must not wait until they are copied.
    """
    data: cython.p_char = cython.cast(cython.p_char, buffer)
    run: uint64_t
    while length > 0:
        if counter_get(current) != generation:
            return False
        run = PIECE if length > PIECE else length
        chain_copy_across(chain, memory, cursor, data, run, how)
        if how < 0:
            data += run
        length -= run
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_vectors(
    chain: cython.pointer[Chain],
    cursor: cython.pointer[Cursor],
    writable: cython.bint,
    length: uint64_t,
    vectors: cython.pointer[iovec],
    most: cython.int,
    total: cython.pointer[uint64_t],
) -> cython.int:
    """Fill ``vectors`` with the next up to ``length`` bytes for the kernel; the number filled, their sum in ``total``."""
    last: cython.int = chain.count if writable else chain.readable_count
    segment: cython.int = cursor.segment + (chain.readable_count if writable else 0)
    offset: uint64_t = cursor.offset
    filled: cython.int = 0
    run: uint64_t
    total[0] = 0
    while segment < last and length > 0 and filled < most:
        run = chain.segments[segment].iov_len - offset
        if run > length:
            run = length
        vectors[filled].iov_base = cython.cast(cython.p_char, chain.segments[segment].iov_base) + offset
        vectors[filled].iov_len = run
        filled += 1
        total[0] += run
        length -= run
        offset = 0
        segment += 1
    return filled


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_advance(
    chain: cython.pointer[Chain], memory: GuestMemory, cursor: cython.pointer[Cursor], writable: cython.bint, length: uint64_t
) -> cython.void:
    """Move the cursor over bytes that the kernel or a view moved; written ones are marked dirty when ``memory`` is given."""
    first: cython.int = chain.readable_count if writable else 0
    last: cython.int = chain.count if writable else chain.readable_count
    run: uint64_t
    while length > 0 and first + cursor.segment < last:
        run = chain.segments[first + cursor.segment].iov_len - cursor.offset
        if run > length:
            run = length
        if writable and memory is not None:
            memory.bitmap.written(chain.addresses[first + cursor.segment] + cursor.offset, run)
        length -= run
        chain_pass(cursor, run, chain.segments[first + cursor.segment].iov_len)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_seek(chain: cython.pointer[Chain], cursor: cython.pointer[Cursor], writable: cython.bint, position: uint64_t) -> cython.void:
    cursor.segment = 0
    cursor.offset = 0
    cursor.position = 0
    chain_advance(chain, None, cursor, writable, position)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chains_bring(chains: cython.pointer[cython.pointer[Chain]], count: cython.int, memory: GuestMemory) -> cython.bint:
    """Wait until all pages of the buffers of these chains are here; False if they never come. Without the GIL and without a mutex.

    After that whoever has such a request finds them: handlers, and the kernel too.
    """
    index: cython.int
    segment: cython.int
    for index in range(count):
        for segment in range(chains[index].count):
            if not memory.bring(chains[index].addresses[segment], chains[index].segments[segment].iov_len):
                return False
    return True
