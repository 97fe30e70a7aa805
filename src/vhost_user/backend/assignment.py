"""Which worker serves which queue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def queues_from_masks(masks: Iterable[int]) -> list[list[int]]:
    """Turn bit masks, one for each worker (bit ``i`` is queue ``i``), into collections of queue indices.

    Raises ValueError for a negative mask.
    """
    collections = []
    for worker, mask in enumerate(masks):
        if mask < 0:
            raise ValueError(f"mask {mask} of worker {worker} is negative")
        collections.append([queue for queue in range(mask.bit_length()) if mask >> queue & 1])
    return collections


def assign_queues(
    queues_per_thread: Sequence[int | Collection[int]], num_queues: int
) -> list[tuple[int, ...]]:
    """The queues of each worker, ascending, from counts or collections.

    Raises ValueError that names every queue that is missing, doubled or does not exist.
    """
    if not queues_per_thread:
        raise ValueError("queues_per_thread() names no worker: at least one must serve the queues")
    assigned: list[tuple[int, ...]] = []
    following = 0
    for worker, entry in enumerate(queues_per_thread):
        if isinstance(entry, int):
            if entry < 0:
                raise ValueError(f"queues_per_thread(): worker {worker} cannot have {entry} queues")
            assigned.append(tuple(range(following, following + entry)))
            following += entry
        else:
            assigned.append(tuple(sorted(entry)))
            following = max(following, *entry, -1) + 1 if entry else following
    _check(assigned, queues_per_thread, num_queues)
    return assigned


def _check(
    assigned: Sequence[Sequence[int]], asked: Sequence[int | Collection[int]], num_queues: int
) -> None:
    owners: dict[int, list[int]] = {}
    for worker, queues in enumerate(assigned):
        for queue in queues:
            owners.setdefault(queue, []).append(worker)
    problems = [f"queue {queue} has no worker" for queue in range(num_queues) if queue not in owners]
    problems += [
        f"queue {queue} has more than one worker ({', '.join(map(str, workers))})"
        for queue, workers in sorted(owners.items())
        if len(workers) > 1
    ]
    problems += [f"queue {queue} does not exist" for queue in sorted(owners) if not 0 <= queue < num_queues]
    if problems:
        shown = "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "")
        raise ValueError(
            f"queues_per_thread() returned {list(asked)!r} for {num_queues} queues: {shown}. "
            "An entry is a count or a collection of indices; for bit masks use queues_from_masks()"
        )
