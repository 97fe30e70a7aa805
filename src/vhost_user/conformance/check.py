"""What a check is, what came out of it, and the registry that the modules of checks write themselves into."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.conformance.context import CheckContext


class Level(StrEnum):
    """How much weight a rule has."""

    MUST = "must"
    """The specification demands it, or no session works without it."""
    SHOULD = "should"
    """The specification recommends it, or known front-ends rely on it."""
    ROBUSTNESS = "robustness"
    """The specification is silent or leaves it to the front-end; a back-end that faces careless or hostile
    peers wants it. A finding of this level is not a violation of the specification."""


class Outcome(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    SKIP = "skip"
    TOLERATED = "tolerated"
    """A deviation that a known quirk explains, and that front-ends put up with."""
    GONE = "gone"
    """The back-end went away, or was gone already: the rule was not tested. Says nothing about the rule."""
    ERROR = "error"
    """The check itself went wrong: a mistake of this suite."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``id`` begins with the rule it is about; ``title`` says what a conforming back-end does."""

    id: str
    level: Level
    section: str
    """Of the specification that the rule stands in."""
    statement: str
    """What the rule says, in our words."""
    run: Callable[[CheckContext], None]
    destructive: bool = False
    """Whether back-ends are known to have died of it, or it is made to hit where they do."""

    @property
    def order(self) -> int:
        """Where it stands in a run.

        What only careless and hostile peers do comes after all that a conforming front-end does, and what
        kills comes last: a back-end that does not survive has shown everything else by then.
        """
        return 2 if self.destructive else int(self.level is Level.ROBUSTNESS)

    @property
    def rule(self) -> str:
        """The rule's id, as in docs/rules.md."""
        return self.id.partition("-")[0]

    @property
    def title(self) -> str:
        """One line: what is expected."""
        return (self.run.__doc__ or "").partition("\n")[0].rstrip(".")

    def matches(self, pattern: str) -> bool:
        """Whether ``pattern`` is this check's id, its rule, or a shell pattern for its id."""
        return pattern in (self.id, self.rule) or fnmatch.fnmatchcase(self.id, pattern)


@dataclass(slots=True)
class Result:
    """What came out of one check.

    ``seconds`` it took; ``trace`` are the last messages, for a failure; ``death`` says how the back-end died
    of it, if it did.
    """

    check: Check
    outcome: Outcome
    text: str = ""
    seconds: float = 0.0
    quirk: str | None = None
    trace: list[str] = field(default_factory=list)
    death: str | None = None

    @property
    def failed(self) -> bool:
        """Whether this counts as a deviation."""
        return self.outcome in (Outcome.FAIL, Outcome.ERROR)


REGISTRY: list[Check] = []
"""Every check, as the files have them. Filled by importing ``vhost_user.conformance.checks``."""


def check(
    identifier: str, level: Level, section: str, statement: str, *, destructive: bool = False
) -> Callable[[Callable[[CheckContext], None]], Callable[[CheckContext], None]]:
    """Register a function as a check; its docstring's first line is the title."""

    def register(run: Callable[[CheckContext], None]) -> Callable[[CheckContext], None]:
        assert not any(known.id == identifier for known in REGISTRY), identifier
        REGISTRY.append(Check(identifier, level, section, statement, run, destructive))
        return run

    return register
