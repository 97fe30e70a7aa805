"""``queues_per_thread``: counts, collections, masks; every queue exactly once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost_user import Device, Request, VhostUserDaemon, queues_from_masks
from vhost_user.backend.assignment import assign_queues


@pytest.mark.parametrize(
    ("asked", "queues", "assigned"),
    [
        ([1], 1, [(0,)]),
        ([2, 2, 4], 8, [(0, 1), (2, 3), (4, 5, 6, 7)]),
        ([{0, 2}, [1, 3]], 4, [(0, 2), (1, 3)]),
        ([[3, 1], range(0, 3, 2)], 4, [(1, 3), (0, 2)]),
        ([0, 2], 2, [(), (0, 1)]),
        ([[0], 2], 3, [(0,), (1, 2)]),
    ],
)
def test_counts_and_collections(
    asked: Sequence[int | Collection[int]], queues: int, assigned: list[tuple[int, ...]]
) -> None:
    assert assign_queues(asked, queues) == assigned


@pytest.mark.parametrize(
    ("asked", "queues", "problem"),
    [
        ([], 1, "names no worker"),
        ([1], 2, "queue 1 has no worker"),
        ([{0}, {0, 1}], 2, r"queue 0 has more than one worker \(0, 1\)"),
        ([{0, 5}], 1, "queue 5 does not exist"),
        ([{-1, 0}], 1, "queue -1 does not exist"),
        ([3], 2, "queue 2 does not exist"),
        ([-1, 3], 2, "cannot have -1 queues"),
        # What a crate's user would write for masks.
        ([0b0011, 0b1000], 4, r"queue 4 does not exist.*queues_from_masks\(\)"),
    ],
)
def test_what_is_wrong_is_named(asked: Sequence[int | Collection[int]], queues: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        assign_queues(asked, queues)


def test_masks_become_collections() -> None:
    assert queues_from_masks([0b0101, 0b1010]) == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="mask -1 of worker 0 is negative"):
        queues_from_masks([-1])


@given(st.lists(st.integers(0, 5), min_size=1).filter(any))
def test_counts_give_each_queue_to_one_worker(counts: list[int]) -> None:
    assigned = assign_queues(counts, sum(counts))
    assert [len(queues) for queues in assigned] == counts
    assert [queue for queues in assigned for queue in queues] == list(range(sum(counts)))


class Plain(Device):
    def handle(self, request: Request) -> None: ...


@pytest.mark.parametrize(("workers", "shares"), [(1, [5]), (2, [3, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_a_number_of_workers_shares_the_queues(workers: int, shares: list[int]) -> None:
    device = Plain()
    device.queues, device.workers = 5, workers
    assert device.queues_per_thread() == shares


def test_a_mask_that_leaves_a_queue_out_keeps_the_daemon_from_starting() -> None:
    device = Plain()
    device.queues, device.workers = 3, queues_from_masks([0b001, 0b100])
    with pytest.raises(ValueError, match="queue 1 has no worker"):
        VhostUserDaemon("test", device)


@pytest.mark.parametrize(
    ("queues", "size", "problem"),
    [
        (0, 64, "queues is 0"),
        (257, 64, "queues is 257"),
        (1, 100, "queue_size is 100"),
        (1, 65536, "queue_size is 65536"),
    ],
)
def test_impossible_numbers_keep_the_daemon_from_starting(queues: int, size: int, problem: str) -> None:
    device = Plain()
    device.queues, device.queue_size = queues, size
    with pytest.raises(ValueError, match=problem):
        VhostUserDaemon("test", device)
