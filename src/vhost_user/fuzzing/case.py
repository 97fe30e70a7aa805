"""What a hostile input is, and the registry that the modules of cases write themselves into."""

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
"""In the order of the modules. Filled by importing them: see ``all_cases``."""


def case(identifier: str) -> Callable[[Callable[[Script], list[Step]]], Callable[[Script], list[Step]]]:
    """Register a function as a case; its docstring's first line is the title."""

    def register(function: Callable[[Script], list[Step]]) -> Callable[[Script], list[Step]]:
        title = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        CASES.append(Case(identifier, title, function))
        return function

    return register
