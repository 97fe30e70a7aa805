"""What split and packed rings share: the bookkeeping of chains in flight, buffers of a chain, in-order return.

A Ring is owned by one Vring and touched only under its lock.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.vhost_user.engine.device.chain import KEPT_SEGMENTS, Chain, chain_append
from cython.cimports.vhost_user.engine.device.ring import MAX_CHAIN_BYTES, MAX_TABLE_ENTRIES
from cython.cimports.vhost_user.engine.device.ring_areas import Order
from cython.cimports.vhost_user.engine.device.ring_translation import Descriptor, RingTranslation
from cython.cimports.vhost_user.engine.memory.guest_memory import Slot
from cython.cimports.vhost_user.engine.device.inflight import InflightArea, tracking_free
from cython.cimports.vhost_user.engine.ring_layout import DESCRIPTOR_SIZE, F_INDIRECT, F_NEXT, F_WRITE, descriptor_at

IDS = cython.declare(cython.int, 65536)


@cython.cclass
class Ring(RingTranslation):
    def __cinit__(self):
        self.table_limit = MAX_TABLE_ENTRIES
        self.outstanding = cython.cast(cython.pointer[uint8_t], calloc(IDS // 8, 1))
        if self.outstanding == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.outstanding)
        free(self.order)
        free(self.place)
        free(self.deferred)
        tracking_free(self.tracking)

    # ------------------------------------------------------------------ set up, with the GIL
    @cython.cfunc
    def configure(self, size: cython.int) -> cython.int:
        """Size the bookkeeping; called at start, with nothing in flight."""
        self.size = size
        self.most = size
        free(self.deferred)
        self.deferred = cython.cast(cython.pointer[Order], calloc(size, cython.sizeof(Order)))
        if self.deferred == cython.NULL:
            raise MemoryError
        if self.in_order:
            free(self.order)
            self.order = cython.cast(cython.pointer[Order], calloc(size, cython.sizeof(Order)))
            if self.place == cython.NULL:
                self.place = cython.cast(cython.pointer[uint32_t], calloc(IDS, cython.sizeof(uint32_t)))
            if self.order == cython.NULL or self.place == cython.NULL:
                raise MemoryError
        self.forget()
        self.broken = False
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def forget(self) -> cython.void:
        """Nothing is in flight any more: completions of the past are told apart by the Vring's generation."""
        memset(self.outstanding, 0, IDS // 8)
        if self.flying != cython.NULL:
            memset(self.flying, 0, IDS * cython.sizeof(cython.p_void))
        self.in_flight = 0
        self.slots_in_flight = 0
        self.order_first = 0
        self.order_next = 0
        self.order_count = 0
        self.deferred_count = 0

    # ------------------------------------------------------------------ chains
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def admit_any(self, chain: cython.pointer[Chain]) -> cython.int:
        """Account for a complete chain, whatever it is; see ``admit``."""
        head: cython.int = chain.head
        if self.outstanding[head >> 3] >> (head & 7) & 1 or (self.in_order and self.waits_its_turn(head)):
            return self.fail(b"V021", b"this head was made available again while it is in flight", head, 0)
        if self.slots_in_flight + chain.slots > self.size:
            return self.fail(b"V022", b"more descriptors are in flight than the ring has", head, self.slots_in_flight + chain.slots)
        # Here and not with each buffer: they are bounded in number, so the sum cannot wrap.
        if (chain.readable_total + chain.writable_total) >> 32 and chain.readable_total + chain.writable_total > MAX_CHAIN_BYTES:
            return self.fail(b"V012", b"a chain of more than 2**32 bytes: {:#x}", head, chain.readable_total + chain.writable_total)
        self.outstanding[head >> 3] |= cython.cast(uint8_t, 1 << (head & 7))
        self.in_flight += 1
        self.slots_in_flight += chain.slots
        if self.in_order:
            self.note_order(chain)
        if self.flying != cython.NULL:
            # From here to `put` it has addresses: INVALIDATE finds it here.
            self.flying[head] = chain
            if chain.faults:
                self.forgive(chain)
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def waits_its_turn(self, head: cython.int) -> cython.bint:
        """It is complete and not used yet: the driver has not got it back. What is recorded of it by its head is still needed."""
        position: cython.int = self.place[head]
        behind: cython.int = position - self.order_first
        if behind < 0:
            behind += self.size
        return behind < self.order_count and self.order[position].head == head

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def note_order(self, chain: cython.pointer[Chain]) -> cython.void:
        # At most `size` chains are in flight, so this place is free.
        position: cython.int = self.order_next
        self.order[position].head = chain.head
        self.order[position].slots = chain.slots
        self.order[position].done = 0
        self.place[chain.head] = position
        self.order_next = position + 1 if position + 1 < self.size else 0
        self.order_count += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def add_any(self, chain: cython.pointer[Chain], descriptor: cython.pointer[Descriptor], writable: cython.bint) -> cython.int:
        chain.descriptors += 1
        # Long chains come here whenever they need more room, which is twice as much each time.
        self.walked += 1 if chain.count < KEPT_SEGMENTS else chain.count
        if chain.descriptors > self.most:
            # `most` is the ring's size, or what the walk of a table set; chains of a packed ring stop at V031 before.
            return self.fail(
                b"V005", b"the chain is longer than the ring or the indirect table allows (a loop?)", chain.head, chain.descriptors
            )
        # Lengths of 0 are skipped: they can carry nothing, and the count above bounds them (V010).
        if descriptor.length == 0:
            return 0
        if self.iotlb is not None and not (chain.writable_total > 0 and not writable):
            return self.add_translated(chain, descriptor, writable)
        if not writable and chain.writable_total > 0:
            return self.fail(b"V006", b"a device-readable buffer follows a device-writable one", chain.head, descriptor.address)
        outcome: cython.int = chain_append(chain, self.memory, descriptor.address, descriptor.length, writable)
        if outcome == -2:
            return self.fail(
                b"V012",
                b"the buffers of the chain lie in too many memory regions, with the one at address {:#x}",
                chain.head,
                descriptor.address,
            )
        if outcome < 0:
            return self.fail(b"V012", b"out of memory for the segments of the chain", chain.head, chain.count)
        near: cython.pointer[Slot] = self.memory.find(descriptor.address)
        if near != cython.NULL:
            self.near = near
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def gather(self, chain: cython.pointer[Chain], address: uint64_t, length: uint32_t, packed: cython.bint) -> cython.int:
        """Walk an indirect table (V007, V030). Entries are copied one by one, each once; the table may cross regions (H25).

        Its bound is its own: drivers make tables longer than the ring, although the specification forbids it, because they
        fit a large request to what the device takes (seg_max), not to the ring. Nor is it asked whether INDIRECT_DESC was
        negotiated: older drivers do not, use tables all the same, and every other device serves them.
        """
        descriptor: Descriptor
        entries: uint32_t = length // DESCRIPTOR_SIZE
        entry: uint32_t = 0
        flags: uint16_t
        run: uint64_t = 0
        table: cython.p_char
        if length == 0 or length % DESCRIPTOR_SIZE != 0:
            return self.fail(
                b"V030" if packed else b"V007", b"the length of an indirect table is 0 or not a multiple of 16", chain.head, length
            )
        if entries > cython.cast(uint32_t, self.size - chain.descriptors):
            # More than the ring has; a walk without a loop visits no more than all of it.
            self.most = chain.descriptors + (self.table_limit if entries > cython.cast(uint32_t, self.table_limit) else entries)
        # While pages may be missing each entry is looked for: nothing may wait for one here.
        table = (
            self.memory.translate(address, length, cython.address(run)) if self.iotlb is None and not self.memory.sparse else cython.NULL
        )
        if table == cython.NULL or run < length:
            table = cython.NULL
            if address + (length - 1) < address:
                return self.fail(b"V011", b"an indirect table passes the end of the address space, from address {:#x}", chain.head, address)
        while True:
            if table != cython.NULL:
                memcpy(cython.address(descriptor), table + descriptor_at(entry), DESCRIPTOR_SIZE)
            elif self.iotlb is not None:
                fetched: cython.int = self.fetch_entry(address + descriptor_at(entry), cython.address(descriptor))
                if fetched == 0:
                    break
                if fetched < 0:
                    return self.fail(
                        b"V011",
                        b"an indirect table is not mapped by the IOMMU, at IOVA {:#x}",
                        chain.head,
                        address + descriptor_at(entry),
                    )
            elif self.memory.sparse and not self.memory.here(address + descriptor_at(entry), DESCRIPTOR_SIZE):
                # Not taken, and nothing is wrong: it is walked again when the page is here (see Source.fill).
                self.most = self.size
                self.absent = address + descriptor_at(entry)
                self.is_absent = True
                return -1
            elif self.memory.copy_out(address + descriptor_at(entry), cython.address(descriptor), DESCRIPTOR_SIZE) < 0:
                return self.fail(
                    b"V011",
                    b"an indirect table is not wholly mapped, at address {:#x}",
                    chain.head,
                    address + descriptor_at(entry),
                )
            flags = descriptor.b if packed else descriptor.a
            if flags & F_INDIRECT and not packed:
                return self.fail(b"V007", b"an indirect table contains an indirect descriptor", chain.head, entry)
            if self.add_buffer(chain, cython.address(descriptor), flags & F_WRITE != 0) < 0:
                return -1
            if packed:
                # Sequential; only F_WRITE means anything (V030).
                entry += 1
                if entry == entries:
                    break
            else:
                if not flags & F_NEXT:
                    break
                entry = descriptor.b
                if entry >= entries:
                    return self.fail(b"V007", b"next points outside of the indirect table, to entry {:#x}", chain.head, entry)
        self.most = self.size
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put(self, chain: cython.pointer[Chain], length: uint32_t) -> cython.void:
        """Give a chain back. Nothing is visible before ``publish``. With IN_ORDER it waits for those before it (V041)."""
        self.outstanding[chain.head >> 3] &= cython.cast(uint8_t, ~(1 << (chain.head & 7)))
        self.in_flight -= 1
        if chain.again:
            self.tracking.again_open -= 1
        if self.accounts_more and self.flying != cython.NULL:
            self.flying[chain.head] = cython.NULL
        if self.accounts_more and self.in_order:
            self.put_in_order(chain.head, length)
        else:
            self.slots_in_flight -= chain.slots
            self.hand_back(chain.head, chain.slots, length)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def put_in_order(self, head: cython.int, length: uint32_t) -> cython.void:
        position: cython.int = self.place[head]
        self.order[position].length = length
        self.order[position].done = 1
        while self.order_count > 0:
            position = self.order_first
            if not self.order[position].done:
                break
            self.slots_in_flight -= self.order[position].slots
            self.hand_back(self.order[position].head, self.order[position].slots, self.order[position].length)
            self.order_first = position + 1 if position + 1 < self.size else 0
            self.order_count -= 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def is_last(self, chain: cython.pointer[Chain]) -> cython.bint:
        """No other chain was taken after this one."""
        return chain.serial == self.taken

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def take_back(self, chain: cython.pointer[Chain]) -> cython.void:
        """Undo ``next_chain`` for the chain that was taken last."""
        # No two chains in flight have the same: the next one gets it.
        chain.serial = 0
        self.taken -= 1
        if chain.again:
            # It was not taken from the ring, and is the next one of those to submit again.
            self.tracking.again_next -= 1
            self.tracking.again_open -= 1
        else:
            self.step_back(chain.slots)
            if self.tracking != cython.NULL:
                self.untracked(chain.head)
        self.outstanding[chain.head >> 3] &= cython.cast(uint8_t, ~(1 << (chain.head & 7)))
        if self.flying != cython.NULL:
            self.flying[chain.head] = cython.NULL
        self.in_flight -= 1
        self.slots_in_flight -= chain.slots
        if self.in_order:
            self.order_next = self.order_next - 1 if self.order_next > 0 else self.size - 1
            self.order_count -= 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def defer(self, head: uint16_t, slots: cython.int, length: uint32_t) -> cython.void:
        """The ring's memory is away: what is completed meanwhile becomes visible when it is back (C044)."""
        if self.deferred_count < self.size:
            self.deferred[self.deferred_count].head = head
            self.deferred[self.deferred_count].slots = slots
            self.deferred[self.deferred_count].length = length
            self.deferred_count += 1

    # ------------------------------------------------------------------ buffers that nobody will use any more
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def give_back(self) -> cython.int:
        """Nobody completes what is in flight any more: the driver gets it back. How many of them it gets as used, with length 0.

        Those taken last count as never taken, so the next start finds them again. One that is older than a chain which was
        completed cannot be untaken; it goes back empty.
        """
        head: cython.int
        position: cython.int
        empty: cython.int
        while self.in_flight > 0 and self.untake_last():
            pass
        empty = self.in_flight
        if self.in_order:
            while self.order_count > 0:
                position = self.order_first
                if not self.order[position].done:
                    self.order[position].length = 0
                self.hand_back(self.order[position].head, self.order[position].slots, self.order[position].length)
                self.order_first = position + 1 if position + 1 < self.size else 0
                self.order_count -= 1
        elif empty:
            for head in range(IDS):
                if self.outstanding[head >> 3] >> (head & 7) & 1:
                    self.hand_back(cython.cast(uint16_t, head), self.slots_of(cython.cast(uint16_t, head)), 0)
        memset(self.outstanding, 0, IDS // 8)
        if self.flying != cython.NULL:
            memset(self.flying, 0, IDS * cython.sizeof(cython.p_void))
        self.in_flight = 0
        self.slots_in_flight = 0
        if self.tracking != cython.NULL:
            self.tracking.again_open = 0
        return empty

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untake(self, head: uint16_t, slots: cython.int) -> cython.bint:
        """The bookkeeping of ``untake_last``: the chain taken last, if it is this one and still in flight, was never taken."""
        last: cython.int
        if not self.outstanding[head >> 3] >> (head & 7) & 1:
            return False
        if self.in_order:
            last = self.order_next - 1 if self.order_next > 0 else self.size - 1
            if self.order[last].head != head or self.order[last].done:
                return False
            self.order_next = last
            self.order_count -= 1
        self.outstanding[head >> 3] &= cython.cast(uint8_t, ~(1 << (head & 7)))
        if self.flying != cython.NULL:
            self.flying[head] = cython.NULL
        self.in_flight -= 1
        self.slots_in_flight -= slots
        self.taken -= 1
        if self.tracking != cython.NULL:
            self.untracked(head)
        return True

    # ------------------------------------------------------------------ what is in flight, recorded; each format its own way
    @cython.cfunc
    def track(self, area: InflightArea, queue: cython.int):
        """Record what is in flight in ``area``, after what a process before us left there was found; called at start.

        What speaks against it, in words, or None.
        """
        return None

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def track_anew(self) -> cython.void:
        """The driver forgot everything: nothing is in flight, and nothing is to be submitted again."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def untracked(self, head: uint16_t) -> cython.void:
        """A chain in flight was never taken."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def next_again(self, chain: cython.pointer[Chain]) -> cython.int:
        """``next_chain`` while there are some to submit again."""
        return 0
