"""Load on a block back-end: one compiled loop and one thread for each queue, the results put together."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vhost_user.engine.driver.load import BlockLoad
from vhost_user.frontend.drivers.blk import BlockDriver

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(slots=True)
class LoadResult:
    """What a load did.

    Times are in seconds, sizes in bytes; ``histogram`` maps a latency in nanoseconds to a count.
    """

    requests: int = 0
    reads: int = 0
    writes: int = 0
    errors: int = 0
    """Answers with a status other than OK."""
    length_errors: int = 0
    """Answers whose used length was wrong."""
    mismatches: int = 0
    """Blocks read back that did not hold what was written."""
    verified: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    kicks: int = 0
    calls: int = 0
    stalled: bool = False
    """A queue gave no answer any more although requests were in flight."""
    histogram: dict[int, int] = field(default_factory=dict)

    @property
    def requests_per_second(self) -> float:
        """Rate over the whole run."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> bool:
        """Whether anything at all went wrong."""
        return bool(self.errors or self.length_errors or self.mismatches or self.stalled)

    def percentile(self, percent: float) -> float:
        """Latency in seconds that ``percent`` of the requests did not exceed; 3 % exact."""
        wanted = percent / 100 * self.requests
        seen = 0
        for limit in sorted(self.histogram):
            seen += self.histogram[limit]
            if seen >= wanted:
                return limit / 1e9
        return 0.0

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        total = sum(limit * count for limit, count in self.histogram.items())
        return total / self.requests / 1e9 if self.requests else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "requests": self.requests,
            "reads": self.reads,
            "writes": self.writes,
            "errors": self.errors,
            "length_errors": self.length_errors,
            "mismatches": self.mismatches,
            "verified": self.verified,
            "stalled": self.stalled,
            "bytes": self.bytes_moved,
            "seconds": self.seconds,
            "requests_per_second": self.requests_per_second,
            "bytes_per_second": self.bytes_moved / self.seconds if self.seconds else 0.0,
            "kicks": self.kicks,
            "calls": self.calls,
            "latency_seconds": {
                "mean": self.mean,
                **{f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES},
            },
        }


def run_block_load(
    disk: BlockDriver,
    *,
    depth: int = 32,
    block_size: int = 4096,
    queues: int | None = None,
    offset: int = 0,
    span: int | None = None,
    read_percent: int = 100,
    random: bool = True,
    seconds: float | None = None,
    requests: int | None = None,
    polling: bool = True,
    indirect: bool | None = None,
    seed: int = 1,
    verify: bool = False,
    stall_seconds: float = 10.0,
    batch: int = 0,
    cpus: Sequence[int] = (),
    progress: Callable[[int, float], object] | None = None,
    progress_interval: float = 1.0,
) -> LoadResult:
    """Keep ``depth`` requests of ``block_size`` bytes in flight on each queue.

    ``queues`` says how many of the queues, the first ones; None takes all. The load stays in ``span`` bytes
    from ``offset`` on (None: to the end of the disk), each queue in its own part of them when ``verify``
    checks the data. It ends after ``seconds`` or ``requests`` a queue. The threads are bound to ``cpus`` in
    turn, if any are given. ``progress`` is called with (requests answered, seconds passed) every
    ``progress_interval`` seconds; a true answer ends the load. Raises
    ValueError for settings that make no sense, DeviceBroken when the device breaks a ring; everything else
    that goes wrong is counted.
    """
    used = disk.queues[: len(disk.queues) if queues is None else queues]
    span = disk.size - offset if span is None else span
    if span <= 0 or offset + span > disk.size:
        raise ValueError(f"{span} bytes from {offset} on are not on a disk of {disk.size} bytes")
    part = span // len(used) // block_size * block_size
    loads = [
        BlockLoad(
            queue.ring,
            depth=depth,
            block_size=block_size,
            offset=offset + number * part if verify else offset,
            span=part if verify else span,
            read_percent=read_percent,
            random=random,
            seconds=seconds,
            requests=requests,
            polling=polling,
            indirect=indirect,
            seed=seed + number,
            verify=verify,
            stall_seconds=stall_seconds,
            batch=batch,
        )
        for number, queue in enumerate(used)
    ]
    return _run(loads, block_size, cpus, progress, progress_interval)


def _run(
    loads: list[BlockLoad],
    block_size: int,
    cpus: Sequence[int],
    progress: Callable[[int, float], object] | None,
    interval: float,
) -> LoadResult:
    before = [load.queue.statistics() for load in loads]
    failures: list[BaseException] = []

    def work(number: int, load: BlockLoad) -> None:
        try:
            if cpus:
                os.sched_setaffinity(0, {cpus[number % len(cpus)]})  # 0: this thread
            load.run()
        except BaseException as error:  # noqa: BLE001  # handed over to the thread that asked for the load
            failures.append(error)
            for other in loads:
                other.stop()

    threads = [
        threading.Thread(target=work, args=(number, load), name=f"load {load.queue.index}")
        for number, load in enumerate(loads)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(interval if progress is not None else None)
                if progress is None or not thread.is_alive():
                    continue
                if progress(sum(load.completed for load in loads), time.monotonic() - begun):
                    for load in loads:
                        load.stop()
    except BaseException:
        for load in loads:
            load.stop()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise failures[0]
    return _merge(loads, before, block_size)


def _merge(loads: list[BlockLoad], before: list[dict[str, int]], block_size: int) -> LoadResult:
    result = LoadResult(seconds=max(load.elapsed for load in loads) / 1e9)
    for load, earlier in zip(loads, before, strict=True):
        now = load.queue.statistics()
        result.requests += load.completed
        result.reads += load.reads
        result.writes += load.writes
        result.errors += load.errors
        result.length_errors += load.length_errors
        result.mismatches += load.mismatches
        result.verified += load.verified
        result.stalled = result.stalled or load.stalled
        result.kicks += now["kicks"] - earlier["kicks"]
        result.calls += now["calls"] - earlier["calls"]
        for limit, count in load.buckets().items():
            result.histogram[limit] = result.histogram.get(limit, 0) + count
    result.bytes_moved = (result.requests - result.errors) * block_size
    return result
