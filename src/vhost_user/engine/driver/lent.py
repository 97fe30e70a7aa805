"""What a driver remembers of the buffers it lent to the device (see queue.py).

The device is not trusted: only its used entries, used index and event fields are read, each once, and judged by this record
(V053 to V055). Nothing the driver wrote to shared memory is read back.
"""

import os

import cython
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.vhost_user.engine.driver.lent import NO_SLOT, Completion, Fault, Slot

from vhost_user.engine.errors import DeviceBroken, EngineError


@cython.cclass
class LentBuffers:
    """The part of ``DriverQueue`` that knows what is in flight."""

    def __cinit__(self, *_, **__):
        # Before anything can fail: what is closed in the end must be ours.
        self.kick_fd = -1
        self.call_fd = -1
        self.closed = True

    def __dealloc__(self):
        free(self.slots)
        free(self.scratch)
        if self.kick_fd >= 0:
            os.close(self.kick_fd)
        if self.call_fd >= 0:
            os.close(self.call_fd)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def lend(self, slot: cython.int, count: cython.int, token: uint64_t, writable: uint64_t) -> cython.int:
        record: cython.pointer(Slot) = self.slots + slot
        record.token = token
        record.writable = writable
        record.sequence = self.sequence
        record.count = cython.cast(uint16_t, count)
        record.in_flight = 1
        self.sequence += 1
        self.num_free -= count
        self.in_flight += 1
        self.unpublished += 1
        if self.in_order:
            if self.oldest < 0:
                self.oldest = slot
            else:
                self.slots[self.newest].next = cython.cast(uint16_t, slot)
            self.newest = slot
        return slot

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def take_back(self, slot: uint64_t, length: uint32_t, completion: cython.pointer(Completion)) -> cython.int:
        """Judge one used entry (V053, V055, H109); 1 and ``completion`` filled in, or -1 and the queue broken."""
        if slot >= cython.cast(uint64_t, self.size):
            return self.broken(Fault.FAULT_ID_RANGE, slot, slot, self.size)
        record: cython.pointer(Slot) = self.slots + slot
        if not record.in_flight:
            return self.broken(Fault.FAULT_ID_FREE, slot, slot, 0)
        if record.sequence >= self.published_sequence:
            return self.broken(Fault.FAULT_UNPUBLISHED, slot, slot, 0)
        if length > record.writable:
            if not self.tolerate_length:
                return self.broken(Fault.FAULT_LENGTH, slot, length, record.writable)
            length = cython.cast(uint32_t, record.writable)
        if self.in_order:
            if cython.cast(uint64_t, self.oldest) != slot:
                return self.broken(Fault.FAULT_ORDER, slot, slot, self.oldest)
            self.oldest = record.next if self.in_flight > 1 else NO_SLOT
        record.in_flight = 0
        self.in_flight -= 1
        self.num_free += record.count
        completion.token = record.token
        completion.length = length
        completion.slot = cython.cast(uint32_t, slot)
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def begin_batch(self, id: uint32_t, length: uint32_t, most: cython.int) -> cython.int:
        """IN_ORDER: one used entry may stand for all buffers up to its own, of which there are ``most`` at most (V041).

        They are counted in our own record. 0, or -1 and the queue broken.
        """
        steps: cython.int = 1
        slot: cython.int = self.oldest
        if id >= cython.cast(uint32_t, self.size):
            return self.broken(Fault.FAULT_ID_RANGE, id, id, self.size)
        if not self.slots[id].in_flight:
            return self.broken(Fault.FAULT_ID_FREE, id, id, 0)
        while slot != cython.cast(cython.int, id) and steps < most:
            slot = self.slots[slot].next
            steps += 1
        if slot != cython.cast(cython.int, id):
            return self.broken(Fault.FAULT_ORDER, id, id, self.oldest)
        self.batch_until = slot
        self.batch_length = length
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def reap_batch(self, completion: cython.pointer(Completion)) -> cython.int:
        """The oldest buffer of a batch. All but the last were written in full: the used entry has the length of that one alone."""
        slot: cython.int = self.oldest
        if slot == self.batch_until:
            self.batch_until = NO_SLOT
            return self.take_back(slot, self.batch_length, completion)
        return self.take_back(slot, cython.cast(uint32_t, self.slots[slot].writable), completion)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def broken(self, fault: Fault, id: uint64_t, value: uint64_t, limit: uint64_t) -> cython.int:
        self.fault = fault
        self.fault_id = id
        self.fault_value = value
        self.fault_limit = limit
        return -1

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def refuse(self) -> cython.int:
        """Raise what ``broken`` noted; the same again at every later call, until ``reset``."""
        if self.broken_error is None:
            if self.fault == Fault.FAULT_ID_RANGE:
                message, rule = f"used id {self.fault_id} is outside the ring of {self.size}", "V053"
            elif self.fault == Fault.FAULT_ID_FREE:
                message, rule = f"used id {self.fault_id} is not in flight (returned twice, or never lent)", "V053"
            elif self.fault == Fault.FAULT_UNPUBLISHED:
                message, rule = f"used id {self.fault_id} was not made available yet", "V053"
            elif self.fault == Fault.FAULT_LENGTH:
                message = (
                    f"used id {self.fault_id}: used length {self.fault_value} is more than the "
                    f"{self.fault_limit} writable bytes of the buffer"
                )
                rule = "V014"
            elif self.fault == Fault.FAULT_JUMP:
                message = f"the used index moved by {self.fault_value} with {self.fault_limit} buffers in flight"
                rule = "V054"
            else:
                message = f"used id {self.fault_id} is out of order: IN_ORDER was negotiated and {self.fault_limit} is the oldest in flight"
                rule = "V041"
            if self.packed and rule == "V053":
                rule = "V055"
            self.broken_error = DeviceBroken(message, rule=rule, queue=self.index, picture=self.describe())
        raise self.broken_error

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def usable(self) -> cython.int:
        if self.closed:
            raise EngineError(f"queue {self.index} is closed")
        if self.busy:
            raise EngineError(f"queue {self.index} is in use by a load loop")
        if self.fault != Fault.FAULT_NONE:
            self.refuse()
        return 0

    @property
    def broken_by(self):
        """The error that every call raises now, if the device broke a rule and somebody looked."""
        return self.broken_error

    @property
    def free_slots(self):
        """Free descriptors."""
        return self.num_free

    @property
    def outstanding(self):
        """Buffers lent to the device and not yet reaped."""
        return self.in_flight

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def reserve_table(self, slot: cython.int, entries: cython.int) -> cython.int:
        """An indirect table of at least that many entries for this slot; kept until the queue is closed."""
        record: cython.pointer(Slot) = self.slots + slot
        if record.table_capacity >= cython.cast(uint32_t, entries):
            return 0
        address: uint64_t = self.memory.allocate(16 * entries)
        if record.table_capacity:
            self.memory.free(record.table_address)
        record.table_address = address
        record.table = self.memory.translate(address, 16 * entries)
        record.table_capacity = entries
        return 0

    def statistics(self):
        """Requests added and outstanding; kicks sent and suppressed, calls received and missed, since it was made."""
        return {
            "added": self.sequence,
            "outstanding": self.in_flight,
            "kicks": self.kicks,
            "kicks_suppressed": self.kicks_suppressed,
            "calls": self.calls,
            "missed_calls": self.missed_calls,
        }
