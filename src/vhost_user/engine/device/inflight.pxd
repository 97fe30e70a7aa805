# C interface of vhost_user.engine.device.inflight.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from vhost_user.engine.barriers cimport load_64, store_64, store_release_8, store_release_16, store_release_32, store_release_64
from vhost_user.engine.memory.mapping cimport Mapping

cdef enum:
    VERSION = 1
    # Where the fields of a queue's region lie (protocol.md 2.J). Both headers begin with features, version, desc_num.
    AT_VERSION = 8
    AT_COUNT = 10
    SPLIT_LAST = 12             # last_batch_head
    SPLIT_USED = 14             # used_idx
    SPLIT_STATES = 16
    SPLIT_STATE = 16            # bytes of a state: inflight 0, next 6, counter 8
    PACKED_FREE = 12            # free_head; old_free_head at 14
    PACKED_POSITION = 16        # used_idx 16, old_used_idx 18, used_wrap 20, old_used_wrap 21: one 64-bit word with the padding
    PACKED_STATES = 32
    PACKED_STATE = 32           # inflight 0, next 2, last 4, num 6: one word; counter 8; id 16, flags 18, len 20: one word; addr 24

cdef struct Saved:              # a descriptor of a packed ring as it was fetched
    uint64_t address
    uint32_t length
    uint16_t id
    uint16_t flags

# The record of one ring. While the ring runs the shared region is only written, never read: whatever the front-end makes of it
# meanwhile reaches nobody but whoever recovers from it. Touched under the lock of the vring alone.
cdef struct Tracking:
    char *header                # of the queue's region; mapped as long as the ring keeps the area
    char *states                # `size` of them
    int size                    # private: what the header says may change at any time (H38)
    uint64_t counter            # of the next request
    uint16_t *batch             # heads (split), entries (packed) that were given back and are not published yet
    int batched
    uint16_t last_batch_head    # split
    # packed: the free list and what is known of the entries in use
    int free_head               # `size`: there is none
    int free_count
    uint16_t *following
    uint16_t *last              # of the chain that begins at this entry
    int batched_slots           # how many entries the chains in the batch have
    uint16_t *entry_of          # buffer id -> entry of the chain that was taken last under it
    int used                    # the used position as the header has it, and the one before the batch in hand
    int wrap
    int old_used
    int old_wrap
    # what a recovery found
    uint16_t *again             # heads or entries to submit again, in the order in which they were fetched
    int again_count
    int again_next
    int again_open              # of those handed out, how many are not given back
    Saved *saved                # packed, by entry
    uint16_t *num               # packed: how many descriptors the chain that begins at this entry has
    bint dirty                  # packed: what stands in the ring between the two positions is not what the driver wrote there

cdef class InflightArea:
    cdef Mapping *mapping
    cdef int descriptor
    cdef readonly unsigned long long size
    cdef readonly unsigned long long offset
    cdef readonly int num_queues
    cdef readonly int queue_size
    cdef int track(self, int queue, bint packed, Tracking **place) except -1

cdef void tracking_free(Tracking *t) noexcept nogil
cdef void tracking_begin_split(Tracking *t, uint16_t used) noexcept nogil
cdef void tracking_begin_packed(Tracking *t, int used, int wrap) noexcept nogil

# In line what every request passes through. Each store may be the last one before the process is killed, so they are in the
# order of the specification, and those that follow each other are releases: neither compiler nor CPU swaps them.

cdef inline int tracking_left(Tracking *t) noexcept nogil:
    # How many recovered requests are not handed out yet.
    return t.again_count - t.again_next

cdef inline void split_taken(Tracking *t, int head) noexcept nogil:
    # `head` is below the ring's size, and that is not above `t.size` (see recover_split).
    cdef char *state = t.states + <uint64_t>head * SPLIT_STATE
    store_64(state + 8, t.counter)
    t.counter += 1
    store_release_8(state, 1)

cdef inline void split_untaken(Tracking *t, int head) noexcept nogil:
    store_release_8(t.states + <uint64_t>head * SPLIT_STATE, 0)

cdef inline void split_batch(Tracking *t) noexcept nogil:
    # Before the used index: the list by which a recovery finds what the index covers.
    cdef uint16_t *batch = t.batch
    cdef char *states = t.states
    cdef uint16_t last = t.last_batch_head
    cdef int i
    for i in range(t.batched):
        store_release_16(states + <uint64_t>batch[i] * SPLIT_STATE + 6, last)
        last = batch[i]
    t.last_batch_head = last
    store_release_16(t.header + SPLIT_LAST, last)

cdef inline void split_published(Tracking *t, uint16_t used) noexcept nogil:
    # After it.
    cdef uint16_t *batch = t.batch
    cdef char *states = t.states
    cdef int i
    for i in range(t.batched):
        store_release_8(states + <uint64_t>batch[i] * SPLIT_STATE, 0)
    store_release_16(t.header + SPLIT_USED, used)
    t.batched = 0

cdef inline int packed_note(Tracking *t, int entry, const void *descriptor) noexcept nogil:
    # One descriptor of the chain in hand, as the ring has it: addr, and len, id, flags in one word, which stand there in another
    # order. `entry` is a free one, as many as the caller takes are; the next one comes back.
    cdef char *state = t.states + <uint64_t>entry * PACKED_STATE
    cdef uint64_t word = load_64(<const char *>descriptor + 8)
    store_64(state + 16, word >> 32 | word << 32)
    store_64(state + 24, load_64(descriptor))
    return t.following[entry]

cdef inline void packed_taken(Tracking *t, uint16_t id, int last, int free_head, int num) noexcept nogil:
    # The free list moves on in one store, the last one: before it the entries count as free, whatever they say.
    cdef int entry = t.free_head
    cdef char *state = t.states + <uint64_t>entry * PACKED_STATE
    t.entry_of[id] = <uint16_t>entry
    t.last[entry] = <uint16_t>last
    t.free_count -= num
    t.free_head = free_head
    store_64(state + 8, t.counter)
    t.counter += 1
    store_release_64(state, 1 | <uint64_t>t.following[entry] << 16 | <uint64_t>last << 32 | <uint64_t>num << 48)
    store_release_32(t.header + PACKED_FREE, <uint32_t>free_head * <uint32_t>0x10001)

cdef inline void packed_untaken(Tracking *t, uint16_t id, int num) noexcept nogil:
    # The chain of `num` entries goes to the front of the free list. The list first: an entry on it is not in flight, whatever it says.
    cdef int entry = t.entry_of[id]
    cdef int last = t.last[entry]
    store_release_16(t.states + <uint64_t>last * PACKED_STATE + 2, <uint16_t>t.free_head)
    t.following[last] = <uint16_t>t.free_head
    t.free_head = entry
    t.free_count += num
    store_release_32(t.header + PACKED_FREE, <uint32_t>t.free_head | <uint32_t>t.free_head << 16)
    store_release_8(t.states + <uint64_t>entry * PACKED_STATE, 0)

cdef inline uint64_t packed_position(int used, int wrap, int old_used, int old_wrap) noexcept nogil:
    # The word at PACKED_POSITION. Little-endian, as every machine is that this runs on (V021).
    return <uint64_t>used | <uint64_t>old_used << 16 | <uint64_t>wrap << 32 | <uint64_t>old_wrap << 40

cdef inline void packed_batch(Tracking *t, int used, int wrap) noexcept nogil:
    # Before the flags that make the batch visible: the new free list and position, the old ones beside them. The record in
    # variables: to the compiler each of these stores may change it.
    cdef uint16_t *batch = t.batch
    cdef uint16_t *following = t.following
    cdef uint16_t *ends = t.last
    cdef char *states = t.states
    cdef int free_head = t.free_head
    cdef int i
    cdef int last
    for i in range(t.batched):
        last = ends[batch[i]]
        store_release_16(states + <uint64_t>last * PACKED_STATE + 2, <uint16_t>free_head)
        following[last] = <uint16_t>free_head
        free_head = batch[i]
    t.free_head = free_head
    t.free_count += t.batched_slots
    t.batched_slots = 0
    store_release_16(t.header + PACKED_FREE, <uint16_t>free_head)
    # Position and wrap counter in one store: no moment at which one of them is new and the other is not.
    t.used = used
    t.wrap = wrap
    store_release_64(t.header + PACKED_POSITION, packed_position(used, wrap, t.old_used, t.old_wrap))

cdef inline void packed_published(Tracking *t) noexcept nogil:
    # After them.
    cdef uint16_t *batch = t.batch
    cdef char *states = t.states
    cdef int i
    for i in range(t.batched):
        store_release_8(states + <uint64_t>batch[i] * PACKED_STATE, 0)
    store_release_16(t.header + PACKED_FREE + 2, <uint16_t>t.free_head)
    t.old_used = t.used
    t.old_wrap = t.wrap
    store_release_64(t.header + PACKED_POSITION, packed_position(t.used, t.wrap, t.used, t.wrap))
    t.batched = 0
