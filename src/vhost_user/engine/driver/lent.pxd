from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from vhost_user.engine.driver.memory cimport DriverMemory, DriverRegion

cdef struct Segment:
    uint64_t address
    uint32_t length
    uint32_t writable

# What the driver remembers of a buffer it lent to the device: nothing of it is ever read back from shared memory.
cdef struct Slot:
    uint64_t token
    uint64_t writable
    uint64_t sequence
    uint64_t table_address
    uint8_t *table
    uint32_t table_capacity
    uint16_t count
    uint16_t next
    uint8_t in_flight

cdef struct Completion:
    uint64_t token
    uint32_t length
    uint32_t slot

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_ID_RANGE = 1
    FAULT_ID_FREE = 2
    FAULT_LENGTH = 3
    FAULT_JUMP = 4
    FAULT_ORDER = 5
    FAULT_UNPUBLISHED = 6

cdef extern from *:
    const int NO_SLOT "(-1)"     # not an enum: those take the type of what they are mixed with

cdef class LentBuffers:
    cdef readonly DriverMemory memory
    cdef readonly int index
    cdef readonly int size
    cdef readonly bint packed
    cdef readonly bint event_idx
    cdef readonly bint indirect
    cdef readonly bint in_order
    cdef public bint tolerate_length
    cdef readonly uint64_t descriptor_address
    cdef readonly uint64_t driver_address
    cdef readonly uint64_t device_address
    cdef readonly int kick_fd
    cdef readonly int call_fd
    cdef readonly bint closed
    cdef bint polled_calls
    cdef bint busy
    cdef bint armed
    cdef list pinned
    cdef Slot *slots
    cdef Segment *scratch
    cdef int scratch_capacity
    cdef uint64_t sequence
    cdef uint64_t published_sequence
    cdef uint64_t next_token
    cdef int num_free
    cdef int in_flight
    cdef int unpublished
    # first in, first out list of the slots in flight: used with IN_ORDER, where one used entry may stand for many buffers
    cdef int oldest
    cdef int newest
    cdef int batch_until
    cdef uint32_t batch_length
    cdef Fault fault
    cdef uint64_t fault_id
    cdef uint64_t fault_value
    cdef uint64_t fault_limit
    cdef object broken_error
    cdef readonly uint64_t kicks
    cdef readonly uint64_t kicks_suppressed
    cdef readonly uint64_t calls
    cdef readonly uint64_t missed_calls
    cdef int reserve_table(self, int slot, int entries) except -1
    cdef int lend(self, int slot, int count, uint64_t token, uint64_t writable) noexcept nogil
    cdef int take_back(self, uint64_t slot, uint32_t length, Completion *completion) noexcept nogil
    cdef int broken(self, Fault fault, uint64_t id, uint64_t value, uint64_t limit) noexcept nogil
    cdef int refuse(self) except -1
    cdef int usable(self) except -1
    cdef int begin_batch(self, uint32_t id, uint32_t length, int most) noexcept nogil
    cdef int reap_batch(self, Completion *completion) noexcept nogil
