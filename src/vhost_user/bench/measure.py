"""One load on one block back-end: brought up, loaded, put away, and what it cost."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vhost_user.bench.cpu_time import own_cpu_seconds, process_cpu_seconds
from vhost_user.bench.units import mix_name, show_size
from vhost_user.frontend import BlockDriver, Frontend
from vhost_user.frontend.load import LoadResult, run_block_load
from vhost_user.spec.blk import SECTOR_SIZE, BlkFeature
from vhost_user.spec.features import VirtioFeature

DESCRIPTORS = 3
"""A request has: header, data, status."""
RING_SIZE = 256
MAX_RING_SIZE = 1024
STALL_SECONDS = 5.0
PROGRESS_SECONDS = 0.2


class LoadError(Exception):
    """The load makes no sense for this back-end; the message says why and what to change."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a back-end. Sizes are in bytes; ``requests`` counts for each queue."""

    read_percent: int = 100
    size: int = 4096
    depth: int = 32
    queues: int = 1
    seconds: float | None = 1.0
    requests: int | None = None
    packed: bool = False
    event_idx: bool = True
    polling: bool = True
    random: bool = True
    verify: bool = False
    offset: int = 0
    span: int | None = None
    ring_size: int | None = None
    indirect: bool | None = None
    batch: int = 0
    """Requests that become visible to the device at a time; 0: all that can be."""
    cpus: tuple[int, ...] = ()
    """CPUs that the client's threads, one for each queue, are bound to in turn; none: to no CPU."""

    def check(self) -> None:
        """Raise LoadError for what no back-end can do."""
        if self.size < SECTOR_SIZE or self.size % SECTOR_SIZE:
            raise LoadError(
                f"a size of {self.size} bytes is not a whole number of sectors of {SECTOR_SIZE} bytes"
            )
        if self.depth < 1 or self.queues < 1:
            raise LoadError(
                f"a depth of {self.depth} on {self.queues} queues makes no sense: both are 1 or more"
            )
        if self.seconds is None and self.requests is None:
            raise LoadError("say how long it is to last: seconds, requests or both")
        if self.chosen_ring_size > 32768 or self.depth > self.chosen_ring_size:
            raise LoadError(
                f"a ring of {self.chosen_ring_size} entries has no room for a depth of {self.depth}"
            )
        if self.offset % self.size:
            raise LoadError(f"the offset {self.offset} is not a multiple of the size {self.size}")

    @property
    def chosen_ring_size(self) -> int:
        """Entries of each ring: 256, or as many as the depth needs."""
        if self.ring_size is not None:
            return self.ring_size
        size = RING_SIZE
        while size < self.depth:
            size *= 2
        return size

    @property
    def memory_size(self) -> int:
        """Bytes of guest memory for buffers, rings and indirect tables, generously."""
        buffers = self.depth * (self.size + 1024)
        rings = self.chosen_ring_size * 512
        return (4 << 20) + self.queues * (buffers + rings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rw": mix_name(self.read_percent),
            "size": self.size,
            "depth": self.depth,
            "queues": self.queues,
            "seconds": self.seconds,
            "requests": self.requests,
            "ring": "packed" if self.packed else "split",
            "event_idx": self.event_idx,
            "client_polls": self.polling,
            "random": self.random,
            "verify": self.verify,
            "offset": self.offset,
            "span": self.span,
            "ring_size": self.chosen_ring_size,
            "batch": self.batch,
            "cpus": list(self.cpus),
        }

    def __str__(self) -> str:
        order = "random" if self.random else "sequential"
        parts = [
            f"{show_size(self.size)} {order} {mix_name(self.read_percent)}",
            f"depth {self.depth}",
            f"{self.queues} queue{'s' if self.queues > 1 else ''}",
            "packed ring" if self.packed else "split ring",
        ]
        if self.span is not None:
            parts.append(f"the first {show_size(self.span)} only")
        if not self.event_idx:
            parts.append("no event index")
        if self.batch:
            parts.append(f"{self.batch} at a time")
        if not self.polling:
            parts.append("woken by eventfd")
        if self.cpus:
            parts.append("a CPU for each queue")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a load did and cost."""

    load: Load
    result: LoadResult
    event_idx: bool
    """Negotiated, not only wanted."""
    client_cpu_seconds: float
    backend_cpu_seconds: float | None
    """None without a process id, or when that process ended meanwhile."""
    hung_up: bool = False
    """The back-end closed the connection during the load."""

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return self.hung_up or self.result.failed or self.result.requests == 0

    @property
    def backend_cpu_per_million(self) -> float | None:
        """CPU seconds of the back-end's process for a million requests."""
        return self._per_million(self.backend_cpu_seconds)

    @property
    def client_cpu_per_million(self) -> float | None:
        """CPU seconds of this process for a million requests; a polling client spends all it can get."""
        return self._per_million(self.client_cpu_seconds)

    def _per_million(self, seconds: float | None) -> float | None:
        if seconds is None or not self.result.requests:
            return None
        return seconds / self.result.requests * 1e6

    def problems(self) -> list[str]:
        """What went wrong, a sentence each."""
        result, found = self.result, []
        if self.hung_up:
            found.append("the back-end closed the connection during the load: look at its log")
        if result.stalled and not self.hung_up:
            found.append(f"no answer came for {STALL_SECONDS:g} seconds although requests were in flight")
        if result.errors:
            found.append(f"{result.errors} requests were answered with an error status")
        if result.length_errors:
            found.append(
                f"{result.length_errors} answers had a used length other than what was transferred [V014]"
            )
        if result.mismatches:
            found.append(f"{result.mismatches} blocks did not hold what had been written to them")
        if not result.requests and not found:
            found.append("not one request was answered")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "load": self.load.as_dict(),
            **self.result.as_dict(),
            "event_idx_negotiated": self.event_idx,
            "backend_cpu_seconds": self.backend_cpu_seconds,
            "backend_cpu_seconds_per_million": self.backend_cpu_per_million,
            "client_cpu_seconds": self.client_cpu_seconds,
            "hung_up": self.hung_up,
            "problems": self.problems(),
        }


def measure(
    target: str | os.PathLike[str] | socket.socket | Frontend,
    load: Load,
    *,
    pid: int | None = None,
    progress: Callable[[int, float], object] | None = None,
    timeout: float = 10.0,
) -> Measurement:
    """Bring the block back-end at ``target`` up, put ``load`` on it, and put it away.

    ``pid`` is the back-end's process, for its CPU time. ``progress`` is called a few times a second with
    (requests answered, seconds passed); a true answer ends the load early. Raises LoadError when back-end and
    load do not fit, ProcessLookupError for a wrong ``pid``, and what the front-end raises: SocketError,
    RequestRefused, PeerTimeout, FrontendError, DeviceBroken.
    """
    load.check()
    if pid is not None:
        process_cpu_seconds(pid)
    with BlockDriver(
        target,
        num_queues=load.queues,
        queue_size=load.chosen_ring_size,
        packed=load.packed,
        event_idx=load.event_idx,
        memory_size=load.memory_size,
        timeout=timeout,
    ) as disk:
        load = _fitted(load, disk)
        hung_up = False

        def watch(requests: int, seconds: float) -> object:
            nonlocal hung_up
            hung_up = disk.frontend.hung_up()
            return hung_up or (progress is not None and progress(requests, seconds))

        own = own_cpu_seconds()
        used = None if pid is None else process_cpu_seconds(pid)
        result = run_block_load(
            disk,
            depth=load.depth,
            block_size=load.size,
            offset=load.offset,
            span=load.span,
            read_percent=load.read_percent,
            random=load.random,
            seconds=load.seconds,
            requests=load.requests,
            polling=load.polling,
            indirect=load.indirect,
            batch=load.batch,
            cpus=load.cpus,
            verify=load.verify,
            stall_seconds=STALL_SECONDS,
            progress=watch,
            progress_interval=PROGRESS_SECONDS,
        )
        own = own_cpu_seconds() - own
        if pid is not None and used is not None:
            used = _cpu_since(pid, used)
        return Measurement(
            load=load,
            result=result,
            event_idx=bool(disk.features & VirtioFeature.RING_EVENT_IDX),
            client_cpu_seconds=own,
            backend_cpu_seconds=used,
            hung_up=hung_up or disk.frontend.hung_up(),
        )


def _cpu_since(pid: int, before: float) -> float | None:
    try:
        return process_cpu_seconds(pid) - before
    except ProcessLookupError:
        return None


def _fitted(load: Load, disk: BlockDriver) -> Load:
    """The load with the disk's size in it. Raises LoadError for what this disk cannot do."""
    if not disk.size:
        raise LoadError(
            "the back-end has a disk of 0 bytes: is it a block device, with a configuration space?"
        )
    span = disk.size - load.offset if load.span is None else load.span
    span = span // load.size * load.size
    if load.offset + span > disk.size or span < load.size * (load.queues if load.verify else 1):
        raise LoadError(
            f"{show_size(load.size)} blocks in {span} bytes from {load.offset} on do not fit "
            f"on a disk of {disk.size} bytes"
        )
    if load.read_percent < 100 and disk.read_only:
        raise LoadError("the disk is read-only: only --rw read makes sense")
    if disk.features & BlkFeature.SIZE_MAX and disk.config.size_max and load.size > disk.config.size_max:
        raise LoadError(
            f"the device takes segments of {disk.config.size_max} bytes at most: choose a smaller size"
        )
    block = disk.config.blk_size if disk.features & BlkFeature.BLK_SIZE else SECTOR_SIZE
    if block and load.size % block:
        raise LoadError(f"the disk has blocks of {block} bytes: the size must be a multiple of that")
    return replace(load, span=span)
