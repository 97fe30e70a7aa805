# C interface of vhost_user.engine.memory.iotlb.
from libc.stdint cimport int64_t, uint64_t
from vhost_user.engine.barriers cimport pthread_mutex_t
from vhost_user.engine.memory.guest_memory cimport GuestMemory

cdef enum:
    MAY_READ = 1
    MAY_WRITE = 2

cdef enum:                  # what became of a look-up
    FOUND = 0
    MISSING = 1             # the front-end has to be asked
    DENIED = 2              # it was, and said no

cdef struct Translation:
    uint64_t first          # IOVA
    uint64_t last           # inclusive: an entry may end at 2**64
    uint64_t user           # front-end address of `first`
    uint64_t guest          # guest address of `first`, for the dirty log and for views
    char *data              # ours; NULL: nothing is mapped, only `denied` says something
    int region              # which of the snapshot's regions it lies in
    int permission
    int denied              # accesses that the front-end refused; forgotten when a request has failed for it

cdef class Iotlb:
    cdef pthread_mutex_t lock
    cdef readonly GuestMemory memory
    cdef Translation *entries       # ascending, without overlaps
    cdef int count
    cdef int capacity
    cdef readonly int limit
    cdef unsigned int turn
    cdef int after(self, uint64_t iova) noexcept nogil
    cdef void drop(self, int first, int last) noexcept nogil
    cdef bint leads_elsewhere(self, uint64_t first, uint64_t last, uint64_t user, int permission) noexcept nogil
    cdef int remove(self, uint64_t first, uint64_t last) noexcept nogil
    cdef int insert(self, Translation *entry) noexcept nogil
    cdef char *translate(self, uint64_t iova, uint64_t length, int permission, uint64_t *run, uint64_t *guest, int *outcome) noexcept nogil
    cdef int refused(self, uint64_t iova, int permission) noexcept nogil
    cdef void forgive(self, uint64_t iova) noexcept nogil
    cdef list pieces(self, object iova, object size, object user)
