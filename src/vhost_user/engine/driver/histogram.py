"""Latencies in buckets of a 32nd of an octave (types: histogram.pyi)."""

import cython
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.vhost_user.engine.driver.histogram import NUM_BUCKETS


def bucket_limit(bucket: cython.int):
    """The largest latency in nanoseconds that a bucket of the histogram stands for; 32 buckets an octave."""
    if bucket < 32:
        return bucket
    exponent = (bucket >> 5) + 4
    return (((bucket & 31) + 33) << (exponent - 5)) - 1


@cython.cfunc
def counted(histogram: cython.pointer(uint64_t)) -> dict:
    """Upper limit in nanoseconds → number, of those buckets that have any."""
    bucket: cython.int
    return {bucket_limit(bucket): histogram[bucket] for bucket in range(NUM_BUCKETS) if histogram[bucket]}
