"""Engine tests: a driver's queue of our own and the vring under test in one process."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.engine.dirty_logs import LOG_SIZE, Log
from tests.engine.pair import MakePair, Pair
from tests.support.tracked_ring import SIZE, MakeTracked, TrackedRing
from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.mapping import live_mappings


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    """Everything that holds for both kinds of ring is tested on both."""
    return bool(request.param)


@pytest.fixture
def new_pair() -> Iterator[Callable[..., Pair]]:
    """Make pairs of a kind the test chooses; they are closed at its end, and nothing may stay mapped."""
    if live_mappings():
        # What an earlier test left in a cycle goes at any moment, in the middle of this one for example.
        gc.collect()
    before = live_mappings()
    pairs: list[Pair] = []

    def make(packed: bool, size: int = 8, **options: Any) -> Pair:
        pair = Pair(packed, size, **options)
        pairs.append(pair)
        return pair

    with ExitStack() as stack:
        yield make
        for made in pairs:
            stack.callback(made.close)
    # Nor do we keep what the pairs hold, a log for one thing.
    pairs.clear()
    stack = ExitStack()
    made = None  # type: ignore[assignment] # only its reference has to go
    if live_mappings() != before:
        gc.collect()
    assert live_mappings() == before


@pytest.fixture
def make_pair(packed: bool, new_pair: Callable[..., Pair]) -> MakePair:
    """Make pairs of the kind that is this run's turn."""

    def make(size: int = 8, **options: Any) -> Pair:
        return new_pair(packed, size, **options)

    return make


@pytest.fixture
def make_tracked(packed: bool) -> Iterator[MakeTracked]:
    """Make rings with an in-flight area, of the kind that is this run's turn."""
    made: list[TrackedRing] = []

    def one(size: int = SIZE, **options: Any) -> TrackedRing:
        made.append(TrackedRing(packed, size, **options))
        return made[-1]

    yield one
    for ring in made:
        ring.close()


@pytest.fixture(params=[0, 0x1234])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A dirty log that is switched on, at the beginning of its file and further on."""
    fd = os.memfd_create("log")
    os.ftruncate(fd, request.param + LOG_SIZE)
    bitmap = Bitmap()
    bitmap.map(fd, LOG_SIZE, request.param)
    bitmap.enabled = True
    yield Log(fd, bitmap, request.param)
    bitmap.unmap()
    os.close(fd)


@pytest.fixture
def file() -> Iterator[int]:
    """A file of 4096 bytes, with every byte in it."""
    with tempfile.TemporaryFile() as stream:
        stream.write(bytes(range(256)) * 16)
        stream.flush()
        yield stream.fileno()


@pytest.fixture
def memory() -> Iterator[DriverMemory]:
    """A driver's memory, without a ring."""
    with DriverMemory(4 << 20) as memory:
        yield memory
