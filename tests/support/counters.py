"""Counters of the engine's objects, set to what only billions of requests would bring them to."""

from __future__ import annotations

import ctypes
import gc

WORD = ctypes.sizeof(ctypes.c_uint64)


def move_counters(owner: object, now: int, then: int) -> int:
    """Set every 64-bit word of a compiled object that is ``now`` to ``then``; how many those are.

    Choose a ``now`` that nothing else in the object is likely to be. A counter of fewer bits is not found, or
    goes on with as many as it has.
    """
    size = type(owner).__basicsize__ // WORD
    words = (ctypes.c_uint64 * size).from_address(id(owner))
    # The object's head, its reference count for one, is not ours.
    places = [place for place in range(object.__basicsize__ // WORD, size) if words[place] == now]
    for place in places:
        words[place] = then
    return len(places)


def ring_of(vring: object) -> object:
    """The ring of a vring that was started. Python sees it only where the garbage collector goes through."""
    return part(part(vring, "VringState"), "Ring")


def part(whole: object, of_type: str) -> object:
    """What a compiled object refers to whose type's name ends so; there is one."""
    (found,) = (each for each in gc.get_referents(whole) if type(each).__name__.endswith(of_type))
    return found
