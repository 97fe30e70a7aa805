"""What a guest tells of its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from vhost_user.spec.balloon import BalloonStat, BalloonStatistic

COUNTS = frozenset(
    {
        BalloonStat.MAJFLT,
        BalloonStat.MINFLT,
        BalloonStat.HTLB_PGALLOC,
        BalloonStat.HTLB_PGFAIL,
        BalloonStat.OOM_KILL,
        BalloonStat.ALLOC_STALL,
        BalloonStat.ASYNC_SCAN,
        BalloonStat.DIRECT_SCAN,
        BalloonStat.ASYNC_RECLAIM,
        BalloonStat.DIRECT_RECLAIM,
    }
)
"""Those that are no bytes."""
_KNOWN = {int(stat): stat for stat in BalloonStat}
MOST = 64 * BalloonStatistic.SIZE
"""Bytes of statistics that are looked at."""


class Statistics(Mapping[str, int]):
    """The statistics of one moment by name, such as ``stats["memfree"]``; ``print`` shows a table.

    Memory is in bytes. Which there are is up to the guest; a tag that the specification does not know is
    left out.
    """

    def __init__(self, values: Mapping[str, int] | None = None, *, when: float | None = None) -> None:
        self._values = dict(values or {})
        self.when = when
        """Time of ``time.time`` at which they came; None where there are none."""

    @classmethod
    def unpack(cls, data: bytes) -> Statistics:
        """Out of a buffer of the statistics queue; half an entry at its end is none."""
        values = {}
        for begin in range(0, len(data) - BalloonStatistic.SIZE + 1, BalloonStatistic.SIZE):
            each = BalloonStatistic.unpack(data[begin : begin + BalloonStatistic.SIZE])
            if each.tag in _KNOWN:
                values[_KNOWN[each.tag].name.lower()] = each.val
        return cls(values, when=time.time())

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        rows = [(name, _shown(name, value)) for name, value in self._values.items()]
        width = max((len(value) for _, value in rows), default=0)
        return "\n".join(f"{name:15}{value:>{width}}" for name, value in rows) or "no statistics"

    def __repr__(self) -> str:
        return f"Statistics({self._values!r})"


def _shown(name: str, value: int) -> str:
    return str(value) if BalloonStat[name.upper()] in COUNTS else f"{value / (1 << 20):.1f} MiB"
