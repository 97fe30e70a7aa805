# C interface of vhost_user.engine.device.request_state.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from vhost_user.engine.barriers cimport load_64, this_thread
from vhost_user.engine.device.chain cimport Chain, Cursor
from vhost_user.engine.device.header cimport Header
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef enum:
    IDLE = 0
    IN_FLIGHT = 1
    COMPLETED = 2

cdef enum:
    LARGE = 65536       # copies from this size on are made without the GIL: below it, giving it up costs more than the copy

cdef uint64_t number_of_bytes(object length) except? 1

cdef class RequestState:
    cdef VringState owner            # what it goes back to when it is complete
    cdef GuestMemory snapshot
    cdef Header layout
    cdef Chain *chain
    cdef Cursor reading
    cdef Cursor writing
    cdef int64_t generation
    cdef int64_t state
    cdef int64_t gap            # first byte not written, -1 while there is no gap
    cdef int64_t gap_end        # the first one after it that is
    cdef int64_t next_gap       # where the next one begins, or -1
    cdef uint64_t reach         # end of what write_at wrote in one piece with the beginning
    cdef uint64_t tail          # bytes written at the very end by write_last
    cdef int taken              # how often the device said that it holds it
    cdef bint copied            # the header is in head_bytes
    cdef object fields         # as the device sees them
    cdef object problem         # why a batch call could not serve it
    cdef object data            # user_data
    # Requests that `pop` gave out, in a list of their vring under its mutex, so that add_used finds them by their head.
    cdef void *previous
    cdef void *next
    cdef bint listed
    cdef uint8_t head_bytes[256]    # last: what is used of every request lies together
    cdef void unlist(self) noexcept nogil
    cdef void begin(self, GuestMemory memory, int64_t generation) noexcept
    cdef inline bint at_home(self) noexcept nogil:
        # Used by the thread it was handed out to, in its own batch, whose snapshot that thread has pinned; nothing is unmapped.
        return (
            self.state == IN_FLIGHT
            and self.chain.faults == 0
            and self.owner.batch_memory == <void *>self.snapshot
            and load_64(&self.owner.batch_thread) == this_thread()
            and self.generation == <int64_t>load_64(&self.owner.generation)
        )
    cdef int enter(self) except -1
    cdef void leave(self, int pinned) noexcept nogil
    cdef uint64_t used_length(self) noexcept nogil
    cdef void mark_to(self, uint64_t length) noexcept nogil
    cdef object fault(self, int segment)
    cdef int check(self, Cursor *cursor, bint writable, uint64_t length, int pinned) except -1
    cdef int ended(self, int pinned) except -1
    cdef uint64_t conclude(self, object written)
    cdef int64_t used_so_far(self) noexcept nogil
    cdef int queue_index(self) noexcept nogil
    cdef str named(self)
    cdef object spoil(self, object error)
    cdef str described(self)
