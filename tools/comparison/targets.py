"""The figures that the project set itself, and whether a run reached them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.comparison.compare import CaseResult, Spread
from tools.comparison.contenders import CONTENDERS


@dataclass(frozen=True, slots=True)
class Target:
    """``label``'s ratio to ``base`` in ``quantity`` is to be at most, or at least, ``bound``."""

    case: str
    label: str
    base: str
    quantity: str
    bound: float
    at_most: bool
    words: str

    def ratio(self, results: Iterable[CaseResult]) -> Spread | None:
        """What the run shows, or None when it has no such case."""
        for result in results:
            if result.case.name == self.case:
                own, base = result.entry(self.label), result.entry(self.base)
                return own.ratio(base, self.quantity) if own and base else None
        return None

    def reached(self, ratio: Spread) -> bool:
        """Judged by the median."""
        return ratio.median <= self.bound if self.at_most else ratio.median >= self.bound

    def line(self, ratio: Spread) -> str:
        """The verdict in words."""
        verdict = "reached" if self.reached(ratio) else "missed "
        sign = "≤" if self.at_most else "≥"
        return f"{verdict}  {self.words}: {ratio}, target {sign} {self.bound:g}"


def _title(name: str) -> str:
    return CONTENDERS[name].title


CPU, IOPS, BYTES, P50 = "cpu_seconds_per_million", "requests_per_second", "bytes_per_second", "p50_seconds"
_WORDS = {CPU: "CPU per request", IOPS: "requests/s", BYTES: "bytes/s", P50: "p50"}
# case, back-end, the one it is compared with, quantity, bound, whether that is the most it may be
_ROWS = (
    ("depth32", "handle", "qsd-null", CPU, 1.0, True),
    ("depth32", "handle", "qsd-null", IOPS, 1.0, False),
    ("depth32", "handle_batch", "qsd-null", CPU, 0.75, True),
    ("depth32", "fast", "qsd-null", CPU, 0.5, True),
    ("depth32", "fast", "qsd-null", IOPS, 1.5, False),
    ("depth32-near", "handle", "qsd-null", CPU, 1.0, True),
    ("depth32-near", "handle", "qsd-null", IOPS, 1.0, False),
    ("depth32-near", "handle_batch", "qsd-null", CPU, 0.75, True),
    ("depth32-near", "fast", "qsd-null", CPU, 0.5, True),
    ("depth32-near", "fast", "qsd-null", IOPS, 1.5, False),
    ("depth1", "handle", "qsd-null", P50, 1.0, True),
    ("depth1", "fast", "qsd-null", P50, 1.0, True),
    ("file-depth32", "fast-file", "qsd-file", IOPS, 2.0, False),
    ("large", "fast", "qsd-null", BYTES, 1.0, False),
    ("file-large", "fast-file", "qsd-file", BYTES, 1.0, False),
)
TARGETS = (
    *(
        Target(
            case, _title(name), _title(base), quantity, bound, at_most, f"{case}, {name}: {_WORDS[quantity]}"
        )
        for case, name, base, quantity, bound, at_most in _ROWS
    ),
    *(
        Target(
            case,
            f"{_title('fast')}, 2 queues",
            f"{_title('fast')}, 1 queue",
            IOPS,
            1.6,
            at_most=False,
            words=f"{case}, fast: requests/s against one queue",
        )
        for case in ("two-queues", "two-cpus")
    ),
)


def verdicts(results: Iterable[CaseResult]) -> list[str]:
    """A line for each target that the run had a case for."""
    results = list(results)
    found = ((target, target.ratio(results)) for target in TARGETS)
    return [target.line(ratio) for target, ratio in found if ratio is not None]
