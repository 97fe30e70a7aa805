# C interface of vhost_user.engine.device.source.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.device.chain cimport Chain
from vhost_user.engine.device.fast_path cimport FastPath
from vhost_user.engine.device.vring_state cimport VringState
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef enum:
    BATCH = 64          # chains taken at a time, at most
    SHOW = 8            # of them given back at a time: the driver goes on meanwhile, not in turn

cdef enum:              # why no more were taken
    NO_MORE = 0         # there are none, the ring does not run, or as many were taken as were asked for
    BROKEN = 1          # the driver broke a rule
    OTHER_MEMORY = 2    # the ring's memory is not the caller's any more: get it anew
    ABSENT = 3          # a page that the next chain needs is missing: bring it, and look again
    ENDED = 4           # pages that the chains need will never come: the session ends

cdef struct Taken:
    int count           # chains in hand
    int total           # of the budget; with those that the fast path has done
    int why
    int64_t generation  # of the chains in hand
    uint64_t absent     # with ABSENT: the guest address of what is missing, 16 bytes

cdef struct GivenUp:
    Chain *chain        # NULL: there is none
    int64_t generation
    void *memory        # the snapshot of its segments; the fast path keeps it alive

cdef class Source:
    cdef VringState state
    cdef int64_t taken_generation   # generation of the chains last filled
    cdef bint long_chains           # some are: worth giving up the GIL for, and their memory goes back when the ring is empty
    cdef Chain *chains[64]          # taken and not yet handed out; NULL before the first
    cdef bint chain_missing         # one of them could not be allocated
    cdef int outcomes[64]
    cdef uint64_t lengths[64]
    cdef GivenUp given_up           # begun by the fast path, and for the handler after all

    cdef object prepare(self)
    cdef Taken fill(self, Chain **chains, int most, void *memory, bint disarm) noexcept nogil
    cdef Taken take(self, GuestMemory memory, FastPath fast_path, int budget, int most) noexcept nogil
    cdef bint interrupted(self) noexcept nogil
    cdef int offer(self, FastPath fast_path, GuestMemory memory, int count) noexcept nogil
    cdef int shown(self) noexcept nogil
    cdef bint put_done(self, int first, int last) noexcept nogil
    cdef void trim(self) noexcept nogil
    cdef bint collect(self, FastPath fast_path) noexcept nogil
