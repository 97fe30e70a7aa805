from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline int vu_log2(uint64_t v) { return 63 - __builtin_clzll(v); }
    """
    int floor_log2 "vu_log2"(uint64_t value) noexcept nogil

cdef enum:
    NUM_BUCKETS = 1920      # 60 octaves of 32

cdef dict counted(uint64_t *histogram)

cdef inline int bucket_of(uint64_t value) noexcept nogil:
    cdef int exponent
    if value < 32:
        return <int>value
    exponent = floor_log2(value)
    if exponent > 60:
        exponent = 60
    return ((exponent - 4) << 5) + <int>((value >> (exponent - 5)) & 31)
