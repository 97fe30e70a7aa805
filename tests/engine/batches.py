"""Batches of requests as a block device has them, and the driver that made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.engine.pair import Pair
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.request import Request

DISK = bytes(range(256)) * 8  # four sectors that differ
IN, OUT, OTHER = 0, 1, 7
HUGE = 0xFFFF_FFFF_FFFF_FFFF


def header(kind: int, sector: int) -> bytes:
    return kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")


def serve(pair: Pair, handler: Callable[[Batch], object], **options: Any) -> list[tuple[Request, str]]:
    """Process what is there; the errors reported, as words."""
    reported: list[tuple[Request, str]] = []

    def on_error(request: Request, error: BaseException) -> None:
        reported.append((request, f"{type(error).__name__}: {error}"))
        request.complete(0)

    pair.vring.process_batch(handler, on_error, **options)
    return reported


def lengths(pair: Pair) -> list[int]:
    """The used lengths, in the order the requests were made available."""
    return [length for _, length in sorted(pair.queue.poll_many())]


def read_back(pair: Pair, segment: tuple[int, int]) -> bytes:
    return pair.memory.read(*segment)


def offer(pair: Pair, readable: bytes, writable: int) -> tuple[int, tuple[int, int]]:
    """A chain with one segment each way; its token, and the writable one."""
    answer = pair.buffer(writable)
    token = pair.queue.add([pair.buffer(readable)], [answer])
    pair.queue.publish()
    return token, answer
