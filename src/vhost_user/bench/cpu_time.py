"""CPU time that a process has used, to the nanosecond."""

from __future__ import annotations

import os
import time

_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED: user and system time of all threads, those that ended included


def process_cpu_seconds(pid: int) -> float:
    """CPU time (user and system) of all threads of a process so far, in seconds.

    /proc/PID/stat counts in ticks of 10 ms, too coarse for a run of a second; the clock that Linux keeps for
    each process (clock_getcpuclockid(3)) is exact. Raises ProcessLookupError when there is no such process.
    """
    if pid < 1:
        raise ProcessLookupError(f"there is no process {pid}")
    try:
        return time.clock_gettime(~pid << 3 | _PROCESS_CLOCK)
    except OSError:
        raise ProcessLookupError(f"there is no process {pid}") from None


def own_cpu_seconds() -> float:
    """CPU time of this process so far, in seconds."""
    return process_cpu_seconds(os.getpid())
