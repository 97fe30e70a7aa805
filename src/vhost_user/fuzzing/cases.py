"""The hostile inputs that once broke a back-end or a device, by name.

H01 to H100 as in docs/rules.md; others have the rule that they are about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vhost_user.fuzzing.sessions import Script
from vhost_user.fuzzing.steps import Step


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile input: id, what is done in words, and the steps for one back-end."""

    id: str
    title: str
    steps: Callable[[Script], list[Step]]


CASES: list[Case] = []


def case(identifier: str) -> Callable[[Callable[[Script], list[Step]]], Callable[[Script], list[Step]]]:
    """Register a function as a case; its docstring's first line is the title."""

    def register(function: Callable[[Script], list[Step]]) -> Callable[[Script], list[Step]]:
        title = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        CASES.append(Case(identifier, title, function))
        return function

    return register


def all_cases() -> tuple[Case, ...]:
    """Every case there is."""
    from vhost_user.fuzzing import front_end_cases, message_cases, ring_cases  # noqa: F401, PLC0415 - registers

    return tuple(CASES)
