"""Back-ends in turn, round after round, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tools.comparison.cases import Case, Entry
from tools.comparison.contenders import ContenderError, Place, RunningContender
from vhost_user.bench.measure import Load, Measurement, measure
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import VhostUserError

WARM_UP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None for no values at all."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"median": self.median, "low": self.low, "high": self.high}


QUANTITIES: dict[str, Callable[[Measurement], float | None]] = {
    "requests_per_second": lambda one: one.result.requests_per_second,
    "bytes_per_second": lambda one: (
        one.result.bytes_moved / one.result.seconds if one.result.seconds else 0.0
    ),
    "p50_seconds": lambda one: one.result.percentile(50),
    "p99_seconds": lambda one: one.result.percentile(99),
    "p999_seconds": lambda one: one.result.percentile(99.9),
    "cpu_seconds_per_million": lambda one: one.backend_cpu_per_million,
    "client_cpu_seconds_per_million": lambda one: one.client_cpu_per_million,
}


@dataclass(slots=True)
class EntryResult:
    """The rounds of one entry."""

    entry: Entry
    rounds: list[Measurement] = field(default_factory=list)

    def spread(self, quantity: str) -> Spread | None:
        """Of one of QUANTITIES over the rounds."""
        values = (QUANTITIES[quantity](one) for one in self.rounds)
        return Spread.of([value for value in values if value is not None])

    def ratio(self, base: EntryResult, quantity: str) -> Spread | None:
        """Of one of QUANTITIES to that of ``base`` in the same round."""
        value = QUANTITIES[quantity]
        ratios = []
        for one, other in zip(self.rounds, base.rounds, strict=False):
            own, its = value(one), value(other)
            if own is not None and its:
                ratios.append(own / its)
        return Spread.of(ratios)

    def problems(self) -> list[str]:
        """What went wrong in any round, each once."""
        return list(dict.fromkeys(problem for one in self.rounds for problem in one.problems()))

    def as_dict(self, base: EntryResult) -> dict[str, Any]:
        """For JSON."""

        def shown(spread: Spread | None) -> dict[str, float] | None:
            return None if spread is None else spread.as_dict()

        return {
            "label": self.entry.label,
            "contender": self.entry.contender.name,
            "ours": self.entry.contender.ours,
            "load": self.entry.load.as_dict(),
            "spread": {name: shown(self.spread(name)) for name in QUANTITIES},
            "ratio_to_first": {name: shown(self.ratio(base, name)) for name in QUANTITIES},
            "problems": self.problems(),
            "rounds": [
                {name: value(one) for name, value in QUANTITIES.items()}
                | {"requests": one.result.requests, "errors": one.result.errors}
                for one in self.rounds
            ],
        }


@dataclass(slots=True)
class CaseResult:
    """The entries of one case, all with as many rounds."""

    case: Case
    entries: list[EntryResult]

    @property
    def base(self) -> EntryResult:
        """What the others are compared with."""
        return self.entries[0]

    def entry(self, label: str) -> EntryResult | None:
        """The one with this label, or None."""
        return next((each for each in self.entries if each.entry.label == label), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.case.name,
            "title": self.case.title,
            "entries": [each.as_dict(self.base) for each in self.entries],
        }


def run_case(
    case: Case,
    place: Place,
    *,
    rounds: int = 5,
    backend_cpus: Sequence[int] = (),
    progress: Callable[[str], object] | None = None,
) -> CaseResult:
    """Start every back-end of the case and measure them in turn, ``rounds`` times.

    Raises ContenderError, and LoadError for a load that does not fit.
    """
    results = [EntryResult(entry) for entry in case.entries]
    backend_cpus = case.cpus or backend_cpus
    with ExitStack() as stack:
        stack.enter_context(_on(case.cpus))
        running = {
            contender.name: stack.enter_context(RunningContender(contender, place, cpus=backend_cpus))
            for contender in dict.fromkeys(entry.contender for entry in case.entries)
        }
        for back_end in running.values():
            _fill(back_end, place.disk_size)
        for result in results:
            warm_up = replace(result.entry.load, seconds=WARM_UP_SECONDS, requests=None)
            _measured(running[result.entry.contender.name], warm_up)
        for number in range(rounds):
            # Who is first changes from round to round: A B C, B C A, C A B.
            start = number % len(results)
            for result in results[start:] + results[:start]:
                if progress is not None:
                    progress(f"{case.name}: round {number + 1} of {rounds}: {result.entry.label}")
                result.rounds.append(_measured(running[result.entry.contender.name], result.entry.load))
    return CaseResult(case, results)


@contextmanager
def _on(cpus: Sequence[int]) -> Iterator[None]:
    """Bind the calling thread, and those that it starts, to these CPUs; for none to no others than before."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measured(back_end: RunningContender, load: Load) -> Measurement:
    try:
        return measure(back_end.socket, load, pid=back_end.pid)
    except (VhostUserError, EngineError) as error:
        raise ContenderError(
            f"{back_end.contender.title}, {load}: {error}\n--- its output ---\n{back_end.output()}"
        ) from error


def _fill(back_end: RunningContender, disk_size: int) -> None:
    """Write all of the disk once.

    Pages that were never touched would be paid for, or spared, while measured.
    """
    block = min(disk_size, 1 << 20)
    _measured(
        back_end,
        Load(read_percent=0, size=block, depth=4, random=False, seconds=None, requests=disk_size // block),
    )
