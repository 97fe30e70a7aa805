"""What was in flight when the process before us ended, read from its tracking area (C110 to C115).

Every byte of the area may have been written by somebody who wants to harm us, and may change while we look. So the states of
a queue are copied once, only the copy is looked at, and each index in it is compared with the size before it is used. Lists are
followed for as many steps as there are entries, no further.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.vhost_user.engine.barriers import (
    full_fence,
    load_16,
    load_32,
    load_64,
    store_release_8,
    store_release_16,
    store_release_32,
    store_release_64,
)
from cython.cimports.vhost_user.engine.device.inflight import (
    AT_COUNT,
    AT_VERSION,
    PACKED_FREE,
    PACKED_POSITION,
    PACKED_STATE,
    SPLIT_LAST,
    SPLIT_STATE,
    SPLIT_USED,
    VERSION,
    Tracking,
    packed_position,
)


@cython.cfunc
def recover_split(t: cython.pointer(Tracking), used: uint16_t, available: uint16_t, ring_size: cython.int) -> tuple:
    """Find what is in flight in a split ring whose indices are these. ``(number, problem)``; see ``_check``.

    What the last batch covers is done: its size is how far the ring's used index is ahead of the area's (C110).
    """
    problem = _check(t, ring_size)
    if problem is not None:
        return problem
    size: cython.int = t.size
    copy: cython.p_char = _copied(t.states, cython.cast(uint64_t, size) * SPLIT_STATE)
    try:
        last: uint16_t = load_16(t.header + SPLIT_LAST)
        batch: uint16_t = cython.cast(uint16_t, used - load_16(t.header + SPLIT_USED))
        at: cython.int = last
        step: cython.int
        head: cython.int
        if batch > size:
            return -1, f"its used index is {batch} behind the ring's, which has {size} entries"
        for step in range(batch):
            if at >= size:
                return -1, f"its last batch leads to entry {at} of {size}"
            copy[cython.cast(uint64_t, at) * SPLIT_STATE] = 0
            at = load_16(copy + cython.cast(uint64_t, at) * SPLIT_STATE + 6)
        found = []
        for head in range(size):
            # One predicate, whatever else may stand there (H26).
            if cython.cast(uint8_t, copy[cython.cast(uint64_t, head) * SPLIT_STATE]) == 1:
                if head >= ring_size:
                    return -1, f"entry {head} is in flight, and the ring has {ring_size}"
                found.append((load_64(copy + cython.cast(uint64_t, head) * SPLIT_STATE + 8), head))
        if len(found) > cython.cast(uint16_t, available - used):
            return -1, f"{len(found)} requests are in flight, and the driver waits for {cython.cast(uint16_t, available - used)}"
        # All is well: from here on it is written. Killed in between, the next one finds the same again.
        for head in range(size):
            if cython.cast(uint8_t, copy[cython.cast(uint64_t, head) * SPLIT_STATE]) != 1:
                store_release_8(t.states + cython.cast(uint64_t, head) * SPLIT_STATE, 0)
        store_release_16(t.header + SPLIT_USED, used)
        t.last_batch_head = last if last < size else 0
        _submit_again(t, found)
        return len(found), None
    finally:
        free(copy)


@cython.cfunc
def recover_packed(t: cython.pointer(Tracking), descriptors: cython.p_char, ring_size: cython.int, never_used: cython.bint) -> tuple:
    """The same for a packed ring of ``ring_size`` descriptors, which are mapped; the number is that of descriptors.

    A batch that was begun is decided by the descriptor at the old used position: as the driver made it, the batch never became
    visible, and is undone; otherwise it did, and is completed (C112). The saved descriptors go into ``t.saved`` (C113).
    """
    problem = _check(t, ring_size)
    if problem is not None:
        return problem
    size: cython.int = t.size
    heads: uint32_t = load_32(t.header + PACKED_FREE)
    position: uint64_t = load_64(t.header + PACKED_POSITION)
    free_head: cython.int = heads >> 16
    used: cython.int = position >> 16 & 0xFFFF
    wrap: cython.int = position >> 40 & 0xFF
    if used >= ring_size or wrap > 1:
        return -1, f"its used position is {used}, wrap counter {wrap}, in a ring of {ring_size}"
    if cython.cast(cython.int, position & 0xFFFF) != used or cython.cast(cython.int, position >> 32 & 0xFF) != wrap:
        flags: uint16_t = load_16(descriptors + cython.cast(uint64_t, used) * 16 + 14)
        if (flags >> 7 & 1) != wrap or (flags >> 15) == wrap:
            free_head = heads & 0xFFFF
            used = position & 0xFFFF
            wrap = position >> 32 & 0xFF
            if used >= ring_size or wrap > 1:
                return -1, f"its used position is {used}, wrap counter {wrap}, in a ring of {ring_size}"
    if never_used and (used, wrap) != (0, 1):
        return -1, f"it is at position {used} of a ring that was never used"
    copy: cython.p_char = _copied(t.states, cython.cast(uint64_t, size) * PACKED_STATE)
    seen: cython.p_char = cython.cast(cython.p_char, calloc(size, 1))
    try:
        if seen == cython.NULL:
            raise MemoryError
        t.free_count = _walk_free(t, copy, seen, free_head)
        if t.free_count < 0:
            return -1, "its list of free entries leads back into itself"
        found = []
        total: cython.int = 0
        head: cython.int
        for head in range(size):
            if not seen[head] and cython.cast(uint8_t, copy[cython.cast(uint64_t, head) * PACKED_STATE]) == 1:
                num: cython.int = load_16(copy + cython.cast(uint64_t, head) * PACKED_STATE + 6)
                total += num
                if not 0 < num <= ring_size or total > ring_size or not _walk_chain(t, copy, seen, head, num):
                    return -1, f"the chain of {num} descriptors at entry {head} is not one"
                found.append((load_64(copy + cython.cast(uint64_t, head) * PACKED_STATE + 8), head))
        if t.free_count + total != size:
            return -1, f"{size - t.free_count - total} entries are neither free nor in flight"
        _write_packed(t, copy, free_head, used, wrap)
        _take_back_flags(descriptors, ring_size, used, wrap, total)
        _submit_again(t, found)
        t.dirty = not _as_submitted(t, descriptors, ring_size)
        return total, None
    finally:
        free(copy)
        free(seen)


@cython.cfunc
def _check(t: cython.pointer(Tracking), ring_size: cython.int):
    """None if there is something to recover from; otherwise what the caller returns.

    Its number is 0 for a region that was never used; -1 for one that makes no sense, which is begun anew; -2 for one that is not
    for us, which is left alone.
    """
    version: uint16_t = load_16(t.header + AT_VERSION)
    count: uint16_t = load_16(t.header + AT_COUNT)
    if t.size < ring_size:
        return -2, f"it is for {t.size} descriptors, and the ring has {ring_size}"
    if version == 0:
        return 0, ""
    if version != VERSION:
        return -2, f"its version is {version}; this one knows {VERSION}"
    if count != t.size:
        return -1, f"it says that it is for {count} descriptors, and there is room for {t.size}"
    return None


@cython.cfunc
def _copied(source: cython.p_char, length: uint64_t) -> cython.p_char:
    copy: cython.p_char = cython.cast(cython.p_char, malloc(length))
    if copy == cython.NULL:
        raise MemoryError
    # The fence: what is looked at later is the copy, not the source once more.
    memcpy(copy, source, length)
    full_fence()
    return copy


@cython.cfunc
def _submit_again(t: cython.pointer(Tracking), found: list):
    """In the order in which they were fetched."""
    index: cython.int
    found.sort()
    t.counter = found[len(found) - 1][0] + 1 & 0xFFFFFFFFFFFFFFFF if found else 0
    t.again_count = len(found)
    t.again_next = 0
    t.again_open = 0
    t.batched = 0
    t.batched_slots = 0
    for index in range(t.again_count):
        t.again[index] = found[index][1]


@cython.cfunc
@cython.exceptval(check=False)
def _walk_free(t: cython.pointer(Tracking), copy: cython.p_char, seen: cython.p_char, at: cython.int) -> cython.int:
    """How many entries are free; -1: the list has a loop. An index outside of the area is its end."""
    count: cython.int = 0
    while at < t.size:
        if seen[at]:
            return -1
        seen[at] = 1
        count += 1
        t.following[at] = load_16(copy + cython.cast(uint64_t, at) * PACKED_STATE + 2)
        if t.following[at] > t.size:
            t.following[at] = cython.cast(uint16_t, t.size)
        at = t.following[at]
    return count


@cython.cfunc
@cython.exceptval(check=False)
def _walk_chain(t: cython.pointer(Tracking), copy: cython.p_char, seen: cython.p_char, head: cython.int, num: cython.int) -> cython.bint:
    """Copy the saved descriptors of a chain; False when its links lead anywhere but through entries of its own."""
    at: cython.int = head
    step: cython.int
    state: cython.p_char
    for step in range(num):
        if at >= t.size or seen[at]:
            return False
        seen[at] = 1
        state = copy + cython.cast(uint64_t, at) * PACKED_STATE
        t.saved[at].id = load_16(state + 16)
        t.saved[at].flags = load_16(state + 18)
        t.saved[at].length = load_32(state + 20)
        t.saved[at].address = load_64(state + 24)
        t.following[at] = load_16(state + 2)
        t.last[head] = cython.cast(uint16_t, at)
        at = t.following[at]
    t.num[head] = cython.cast(uint16_t, num)
    return t.last[head] == load_16(copy + cython.cast(uint64_t, head) * PACKED_STATE + 4)


@cython.cfunc
def _write_packed(t: cython.pointer(Tracking), copy: cython.p_char, free_head: cython.int, used: cython.int, wrap: cython.int):
    """Complete or undo the batch that was begun, in the area as well; what is free is not in flight."""
    at: cython.int
    if free_head > t.size:
        free_head = t.size
    t.free_head = free_head
    t.used = used
    t.wrap = wrap
    t.old_used = used
    t.old_wrap = wrap
    store_release_32(t.header + PACKED_FREE, cython.cast(uint32_t, free_head) | cython.cast(uint32_t, free_head) << 16)
    store_release_64(t.header + PACKED_POSITION, packed_position(used, wrap, used, wrap))
    at = free_head
    while at < t.size:
        if copy[cython.cast(uint64_t, at) * PACKED_STATE] != 0:
            store_release_8(t.states + cython.cast(uint64_t, at) * PACKED_STATE, 0)
        at = t.following[at]


@cython.cfunc
def _take_back_flags(descriptors: cython.p_char, ring_size: cython.int, at: cython.int, wrap: cython.int, count: cython.int):
    """Of a batch that never became visible, all flags but the first stand in the ring already (V028).

    They would be taken for used ones as soon as the driver comes by. It does not look at these descriptors before that.
    """
    step: cython.int
    place: cython.p_char
    flags: uint16_t
    for step in range(count):
        place = descriptors + cython.cast(uint64_t, at) * 16 + 14
        flags = load_16(place)
        if (flags >> 7 & 1) == wrap and (flags >> 15) == wrap:
            store_release_16(place, cython.cast(uint16_t, 0x80 if wrap else 0x8000))
        at += 1
        if at == ring_size:
            at = 0
            wrap ^= 1


@cython.cfunc
@cython.exceptval(check=False)
def _as_submitted(t: cython.pointer(Tracking), descriptors: cython.p_char, ring_size: cython.int) -> cython.bint:
    """Whether the ring has, from the used position on, what is in flight as the driver wrote it: nothing was given back out of turn."""
    place: cython.p_char
    at: cython.int = t.used
    index: cython.int
    entry: cython.int
    step: cython.int
    for index in range(t.again_count):
        entry = t.again[index]
        for step in range(t.num[t.again[index]]):
            place = descriptors + cython.cast(uint64_t, at) * 16
            if (
                load_64(place) != t.saved[entry].address
                or load_32(place + 8) != t.saved[entry].length
                or load_16(place + 12) != t.saved[entry].id
                or load_16(place + 14) != t.saved[entry].flags
            ):
                return False
            entry = t.following[entry]
            at = at + 1 if at + 1 < ring_size else 0
    return True
