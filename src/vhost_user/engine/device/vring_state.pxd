# C interface of vhost_user.engine.device.vring_state.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport pthread_cond_t, pthread_mutex_t
from vhost_user.engine.memory.guest_memory cimport GuestMemory
from vhost_user.engine.memory.iotlb cimport Iotlb
from vhost_user.engine.device.header cimport Header
from vhost_user.engine.device.request_state cimport RequestOwner
from vhost_user.engine.device.ring cimport Ring

cdef extern from *:
    const uint32_t NEW_PACKED "UINT32_C(0x80008000)"    # the base of a packed ring that is new: both positions 0, both wrap counters 1 (V024)

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

cdef class VringState(RequestOwner):
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t idle
    cdef Ring ring
    cdef GuestMemory memory
    cdef Iotlb iotlb                # with an IOMMU: ring addresses and descriptors are IOVAs
    cdef Header layout
    cdef object on_broken
    cdef object missing_callback
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
    cdef int told                   # how many of the ring's misses were told
    cdef bint undecided             # something was published and it was not decided about a call yet
    cdef bint quiet                 # the device asked for no kicks
    cdef bint call_owed             # needs_notification said yes, signal_used_queue did not come yet
    cdef int near                   # share of calls, of 256, that the driver answered before they returned; of the last few dozen
    cdef Bell kick_bell
    cdef Bell call_bell
    cdef Bell err_bell
    cdef int64_t served             # process() empties this ring: the worker arms and polls it
    cdef int64_t nudged             # look at it without a kick
    cdef Statistics counts

    cdef object must_be_stopped(self, str call)
    cdef bint can_run(self) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void flush_locked(self) noexcept nogil
    cdef void wake_drain(self) noexcept nogil
