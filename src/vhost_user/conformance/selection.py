"""All checks there are, and those of them that somebody wants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vhost_user.conformance import checks
from vhost_user.conformance.check import REGISTRY, Check, Level

MODULES = checks.__all__
"""Importing them has registered their checks."""


def all_checks() -> tuple[Check, ...]:
    """Every check there is, in the order in which they run: see :attr:`Check.order`."""
    return tuple(sorted(REGISTRY, key=lambda each: each.order))


def choose(
    only: Iterable[str] = (), skip: Iterable[str] = (), levels: Iterable[Level] = tuple(Level)
) -> list[Check]:
    """The checks that the patterns and levels leave.

    Raises ValueError for a pattern that fits none: it names it.
    """
    every: Sequence[Check] = all_checks()
    only, skip, levels = list(only), list(skip), list(levels)
    for pattern in [*only, *skip]:
        if not any(each.matches(pattern) for each in every):
            raise ValueError(f"no check fits {pattern!r}; `vhost-user check --list` shows all of them")
    return [
        each
        for each in every
        if each.level in levels
        and (not only or any(each.matches(pattern) for pattern in only))
        and not any(each.matches(pattern) for pattern in skip)
    ]
