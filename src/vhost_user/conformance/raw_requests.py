"""Requests that checks lay out in memory and complete by hand, segment by segment."""

from __future__ import annotations

import time

from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.frontend.queue import Pending, Queue


def layout(
    context: CheckContext, queue: Queue, *, size: int | None = None
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]:
    """A request in memory: readable and writable segments, the writable address and its size.

    ``size`` of the writable part, if it is not to be the profile's usual one.
    """
    profile = context.profile
    readable, size = profile.readable(), profile.writable() if size is None else size
    address = queue.memory.allocate(len(readable) + size + 64, 4096)
    queue.memory.write(address, readable)
    answer = address + len(readable)
    if size:
        queue.memory.fill(answer, size, 0xA5)
    return [(address, len(readable))] if readable else [], [(answer, size)] if size else [], answer, size


def bytewise(segments: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """The first ``most`` bytes one by one, then the rest."""
    pieces = []
    for address, length in segments:
        single = min(most, length - 1)
        pieces += [(address + i, 1) for i in range(single)]
        pieces.append((address + single, length - single))
        most -= single
    return pieces


def complete(context: CheckContext, queue: Queue, answer: int, size: int) -> int:
    """Publish what was added, wait for it and check the answer; returns used.len."""
    ring = queue.ring
    ring.publish()
    ring.kick(force=True)
    if not ring.wait(context.timeout):
        raise Deviation(f"a request is not completed within {context.timeout} s")
    done = ring.poll()
    if done is None:
        raise Deviation("the call is signalled, but nothing is used")
    context.profile.verify(queue.memory.read(answer, size), done[1])
    return done[1]


def await_used(context: CheckContext, queue: Queue, pending: Pending) -> None:
    """Wait for ``pending`` by looking at the ring, not at the call descriptor."""
    deadline = time.monotonic() + context.timeout
    while not pending.done:
        if time.monotonic() > deadline:
            raise Deviation(f"a request is not completed within {context.timeout} s")
        time.sleep(0.0005)
        queue.reap()
    context.profile.verify(pending.data, pending.length)
