"""Which worker serves which queue."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import index

from vhost_user.backend.answers import MAX_QUEUES, whole_number

MAX_WORKERS = 256
"""Threads. One that has no queues is for listeners."""
SHOWN = 8
"""Problems that an error lists."""
MASK_HINT = "for bit masks use queues_from_masks()"


class QueuesOfMask(list[int]):
    """The queues of one bit mask, which may say "and all that follow": see ``queues_from_masks``."""

    def within(self, num_queues: int) -> list[int]:
        """Without the queues that a device of ``num_queues`` has not, if the mask means all that follow.

        Its ones reach over the end without a gap then, as those of the crate's default mask ``0xffff_ffff``
        do. A lone bit beyond the end is a mistake, and stays.
        """
        run = list(range(num_queues - 1, num_queues - 1 + len(self)))
        surplus = [queue for queue in self if queue >= num_queues]
        if surplus and self[-len(surplus) - 1 :] == run[: len(surplus) + 1]:
            return self[: -len(surplus)]
        return list(self)


def queues_from_masks(masks: Iterable[int]) -> list[list[int]]:
    """Turn bit masks, one for each worker (bit ``i`` is queue ``i``), into collections of queue indices.

    Bits of queues that the device does not have are ignored, as the crate ignores them, where they continue a
    run of ones (``0xffff_ffff``, the crate's default: all queues); any other is an error of the daemon.
    Raises ValueError for a mask that is negative or has more than 256 bits, TypeError for what is not an int.
    """
    collections: list[list[int]] = []
    for worker, given in enumerate(masks):
        mask = whole_number(given)
        if mask is None:
            raise TypeError(f"mask {reprlib.repr(given)} of worker {worker} is not an int")
        if mask < 0:
            raise ValueError(f"mask {mask} of worker {worker} is negative")
        if mask.bit_length() > MAX_QUEUES:
            raise ValueError(
                f"the mask of worker {worker} has {mask.bit_length()} bits; a device has at most "
                f"{MAX_QUEUES} queues"
            )
        collections.append(QueuesOfMask(queue for queue in range(mask.bit_length()) if mask >> queue & 1))
    return collections


def assign_queues(
    queues_per_thread: Sequence[int | Collection[int]], num_queues: int
) -> list[tuple[int, ...]]:
    """The queues of each worker, ascending, from counts or collections.

    Raises ValueError that names every queue that is missing, doubled or does not exist, TypeError for what is
    neither a count nor a collection. Takes no more memory than the queues need, whatever the numbers are.
    """
    if not isinstance(queues_per_thread, Sequence) or isinstance(queues_per_thread, str | bytes | bytearray):
        raise TypeError(
            f"queues_per_thread() returned {reprlib.repr(queues_per_thread)}; it must return a list with a "
            f"count or a collection of queue indices for each worker; {MASK_HINT}"
        )
    if not queues_per_thread:
        raise ValueError("queues_per_thread() names no worker: at least one must serve the queues")
    if len(queues_per_thread) > MAX_WORKERS:
        raise ValueError(
            f"queues_per_thread() names {len(queues_per_thread)} workers; {MAX_WORKERS} are possible"
        )
    assigned: list[tuple[int, ...]] = []
    following = 0
    # No list gets longer: what lies beyond is an error anyway, and a mask taken for a count fills the memory.
    longest = num_queues + SHOWN
    for worker, entry in enumerate(queues_per_thread):
        count = whole_number(entry)
        if count is not None:
            if count < 0:
                raise ValueError(f"queues_per_thread(): worker {worker} cannot have {count} queues")
            assigned.append(tuple(range(following, following + min(count, longest))))
            following += count
        else:
            queues = _named(entry, worker, longest)
            if isinstance(entry, QueuesOfMask):
                queues = QueuesOfMask(queues).within(num_queues)
            assigned.append(tuple(sorted(queues)))
            following = max(following, *queues, -1) + 1 if queues else following
    _check(assigned, queues_per_thread, num_queues)
    return assigned


def _named(entry: object, worker: int, longest: int) -> list[int]:
    """The queues that a collection names."""
    if not isinstance(entry, Iterable) or isinstance(entry, str | bytes | bytearray):
        raise TypeError(
            f"queues_per_thread(): the entry of worker {worker} is {reprlib.repr(entry)}; "
            f"it must be a count or a collection of queue indices; {MASK_HINT}"
        )
    queues: list[int] = []
    for value in islice(entry, longest if not isinstance(entry, QueuesOfMask) else MAX_QUEUES):
        queue = whole_number(value)
        if queue is None:
            raise TypeError(
                f"queues_per_thread(): worker {worker} has {reprlib.repr(value)}, which is not a queue index"
            )
        queues.append(queue)
    return queues


def _check(
    assigned: Sequence[Sequence[int]], asked: Sequence[int | Collection[int]], num_queues: int
) -> None:
    problems = _problems(assigned, num_queues)
    if not problems:
        return
    shown = "; ".join(problems[:SHOWN]) + ("; …" if len(problems) > SHOWN else "")
    hint = f"An entry is a count or a collection of indices; {MASK_HINT}"
    if _are_masks(asked, num_queues):
        masks = ", ".join(map(hex, map(index, asked)))  # type: ignore[arg-type]  # they are all numbers, see there
        hint = f"These look like bit masks: return queues_from_masks([{masks}])"
    raise ValueError(
        f"queues_per_thread() returned {reprlib.repr(list(asked))} for {num_queues} queues: {shown}. {hint}"
    )


def _problems(assigned: Sequence[Sequence[int]], num_queues: int) -> list[str]:
    owners: dict[int, list[int]] = {}
    for worker, queues in enumerate(assigned):
        for queue in queues:
            owners.setdefault(queue, []).append(worker)
    problems = [f"queue {queue} has no worker" for queue in range(num_queues) if queue not in owners]
    for queue, workers in sorted(owners.items()):
        if len(set(workers)) > 1:
            problems.append(
                f"queue {queue} has more than one worker ({', '.join(map(str, sorted(set(workers))))})"
            )
        elif len(workers) > 1:
            problems.append(f"queue {queue} is named twice for worker {workers[0]}")
    problems += [f"queue {queue} does not exist" for queue in sorted(owners) if not 0 <= queue < num_queues]
    return problems


def _are_masks(asked: Sequence[object], num_queues: int) -> bool:
    """Whether the numbers make sense as the crate's masks."""
    masks = [whole_number(entry) for entry in asked]
    if not all(mask is not None and 0 <= mask < 1 << MAX_QUEUES for mask in masks):
        return False
    every = queues_from_masks(mask for mask in masks if mask is not None)
    return not _problems([QueuesOfMask(queues).within(num_queues) for queues in every], num_queues)
