# C interface of vhost_user.engine.request.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport this_thread
from vhost_user.engine.chain cimport Chain, Cursor
from vhost_user.engine.memory cimport GuestMemory

cdef enum:
    IDLE = 0
    IN_FLIGHT = 1
    COMPLETED = 2

cdef class Header:
    cdef readonly str format
    cdef readonly int size
    cdef int count
    cdef int offsets[32]
    cdef int widths[32]     # bytes; negative: signed
    cdef uint64_t value(self, uint8_t *data, int index) noexcept
    cdef object number(self, uint8_t *data, int index)
    cdef tuple decode(self, uint8_t *data)

cdef class RequestOwner:
    cdef readonly int index
    cdef int64_t generation
    cdef uint64_t batch_thread      # the thread that hands out a batch: it has pinned the batch's snapshot,
    cdef void *batch_memory         # which is this one; a request held since an earlier batch may have another
    cdef void finish(self, Chain *chain, int64_t generation, uint64_t written) noexcept nogil
    cdef void lose(self, Chain *chain, int64_t generation) noexcept nogil

cdef class Request:
    cdef RequestOwner owner
    cdef GuestMemory memory
    cdef Header layout
    cdef Chain *chain
    cdef Cursor reading
    cdef Cursor writing
    cdef int64_t generation
    cdef int64_t state
    cdef int64_t gap            # first byte not written, -1 while there is no gap
    cdef uint64_t tail          # bytes written at the very end by write_last
    cdef bint taken             # held by the device
    cdef bint copied            # the header is in head_bytes
    cdef tuple fields
    cdef object problem         # why a batch call could not serve it
    cdef public object user_data
    cdef uint8_t head_bytes[256]    # last: what is used of every request lies together
    cdef void begin(self, GuestMemory memory, int64_t generation) noexcept
    cdef inline bint at_home(self) noexcept nogil:
        # Used by the thread it was handed out to, in its own batch, whose snapshot that thread has pinned; nothing is unmapped.
        return (
            self.state == IN_FLIGHT
            and self.chain.faults == 0
            and self.owner.batch_memory == <void *>self.memory
            and self.owner.batch_thread == this_thread()
            and self.generation == self.owner.generation
        )
    cdef int enter(self) except -1
    cdef void leave(self, int pinned) noexcept nogil
    cdef uint64_t used_length(self) noexcept nogil
    cdef object fault(self, int segment)
    cdef int check(self, Cursor *cursor, bint writable, uint64_t length, int pinned) except -1
    cdef int copy_header(self) except -1
    cdef object field(self, int index)
    cdef int check_field(self, int index) except -1
    cdef int take(self, char *to, uint64_t size) except -1
    cdef uint64_t left(self) noexcept nogil
    cdef uint64_t room(self, uint64_t keep)
    cdef int put(self, void *source, uint64_t length, int fill) except -1
    cdef int put_last(self, void *source, uint64_t length) except -1
    cdef object move_file(self, int fd, int64_t offset, int64_t length, bint writable)
    cdef list views(self, bint writable)
