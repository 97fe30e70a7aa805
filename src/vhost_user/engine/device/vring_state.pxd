# C interface of vhost_user.engine.device.vring_state.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport pthread_cond_t, pthread_mutex_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.header cimport Header
from vhost_user.engine.device.inflight cimport InflightArea
from vhost_user.engine.device.ring cimport Ring
from vhost_user.engine.memory.guest_memory cimport GuestMemory
from vhost_user.engine.memory.iotlb cimport Iotlb

cdef extern from *:
    const uint32_t NEW_PACKED "UINT32_C(0x80008000)"    # the base of a packed ring that is new: both positions 0, both wrap counters 1 (V024)

cdef enum:
    HALF_NEAR = 128     # `near` of a driver that is on our CPU more often than not
    NEAR = 192          # of one that nearly always is: a whole batch is given back at a time, for nothing goes on meanwhile

cdef struct Statistics:
    int64_t requests
    int64_t batches
    int64_t calls
    int64_t calls_suppressed
    int64_t kicks
    int64_t arms
    int64_t polls_hit
    int64_t dropped

cdef struct Bell:
    int fd              # -1: none
    int kind            # see doorbell.h

cdef class VringState:
    # What a request looks at each time it is used stands first, together.
    cdef readonly int index
    cdef int64_t generation
    # The thread that hands out a batch has pinned the batch's snapshot, which is `batch_memory`; a request held since an
    # earlier batch may have another. Both are written by that thread alone: the memory before its id, and the id is taken
    # away first. Any thread may compare its own id with `batch_thread` without a lock (a single access, load_64): it finds
    # its own only if it wrote it itself, and then knows `batch_memory` as well.
    cdef uint64_t batch_thread
    cdef void *batch_memory
    cdef int64_t read_limit         # bytes that read() gives without being told a length
    cdef void *popped               # requests that pop gave out and that still exist, a list under the mutex; see Request
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t idle
    cdef Ring ring
    cdef GuestMemory memory
    cdef Iotlb iotlb                # with an IOMMU: ring addresses and descriptors are IOVAs
    cdef Header layout
    cdef object on_broken
    cdef object missing_callback
    cdef object on_outcome          # called with what a handler returned, unless it is None
    cdef object error
    cdef readonly int max_size
    cdef int table_limit            # of an indirect table, in descriptors
    cdef int ring_size
    cdef bint has_addresses
    cdef bint addresses_kept        # by the caller, who translates them when there is memory
    cdef uint64_t descriptor_address
    cdef uint64_t driver_address
    cdef uint64_t device_address
    cdef uint64_t log_address
    cdef bint logged
    cdef uint32_t base_value
    cdef bint has_base
    cdef bint base_from_ring        # stopped, and no SET_VRING_BASE since: completions still move the base of a packed ring
    cdef bint want_packed
    cdef bint want_event_idx
    cdef bint want_in_order
    cdef bint want_notify_on_empty
    cdef bint is_started
    cdef bint is_enabled
    cdef bint is_suspended
    cdef bint is_attached
    cdef bint is_broken
    cdef bint is_waiting            # for translations: nothing is taken until they came
    cdef bint fresh                 # started, and never attached yet: positions in its memory were not read
    cdef bint perhaps_new           # a base of plain 0, which is a new packed ring's unless its memory shows otherwise
    cdef int watchers               # threads that wait for single chains to end
    cdef int told                   # how many of the ring's misses were told
    cdef bint undecided             # something was published and it was not decided about a call yet
    cdef bint quiet                 # the device asked for no kicks
    cdef bint call_owed             # needs_notification said yes, signal_used_queue did not come yet
    cdef int near                   # share of calls, of 256, that the driver answered before they returned; of the last few dozen
    cdef Bell kick_bell
    cdef Bell call_bell
    cdef Bell err_bell
    cdef int position               # in its worker, -1: it has none
    cdef int64_t served             # process() empties this ring: the worker arms and polls it
    cdef int64_t nudged             # look at it without a kick
    cdef Statistics counts
    cdef InflightArea area          # where requests in flight are recorded
    cdef object problem             # why the area of this ring is not used, or not as it was found
    cdef bint only_new              # requests of a process before us go to on_interrupted, not to the handler
    cdef object on_interrupted

    cdef bint can_run(self) noexcept nogil
    cdef GuestMemory snapshot(self)
    cdef void finish(self, Chain *chain, int64_t generation, uint64_t written) noexcept nogil
    cdef void lose(self, Chain *chain, int64_t generation) noexcept nogil
    cdef void put_quietly(self, Chain *chain, uint64_t length) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void flush_locked(self) noexcept nogil
    cdef void wake_drain(self) noexcept nogil
    cdef bint look(self) noexcept nogil
    cdef bint arm(self) noexcept nogil
    cdef bint nudged_to_run(self) noexcept nogil
    cdef void note_poll(self) noexcept nogil
    cdef bint take_kick(self) noexcept nogil
    cdef object report(self, object vring)
    cdef object ask(self, object vring)
    cdef object outcome_callback(self)
    cdef object interrupted_callback(self)
    cdef object count_in_flight(self)
    cdef object heads(self)
    cdef object statistics(self)
