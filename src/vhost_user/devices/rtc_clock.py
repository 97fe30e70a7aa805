"""``Clock``: a clock of the host, which a test may set, freeze and let jump."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from vhost_user.spec.rtc import ClockType, Smearing

SECOND = 1_000_000_000
TAI_AHEAD = 37 * SECOND
"""Nanoseconds that TAI is ahead of UTC since 2017."""
MOST = (1 << 64) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

When: TypeAlias = datetime | timedelta | int
"""A time, a distance from now, or nanoseconds since 1970 (of the clock's own epoch)."""


def host_tai() -> int:
    """TAI, also on a machine whose kernel was not told how far UTC is behind."""
    tai, utc = time.clock_gettime_ns(time.CLOCK_TAI), time.time_ns()
    return tai if tai - utc > SECOND else utc + TAI_AHEAD


_SOURCES: dict[ClockType, Callable[[], int]] = {
    ClockType.TAI: host_tai,
    ClockType.MONOTONIC: time.monotonic_ns,
}


class Clock:
    """A clock of type ``kind``: that of the host, until it is moved. ``source`` gives other nanoseconds.

    ``travel`` lets it jump, ``freeze`` stops it, ``thaw`` lets it go on from there; from any thread. Alarms
    of the device follow at once.
    """

    def __init__(
        self,
        kind: ClockType = ClockType.UTC,
        *,
        smearing: Smearing = Smearing.UNSPECIFIED,
        source: Callable[[], int] | None = None,
    ) -> None:
        if smearing and kind != ClockType.UTC_SMEARED:
            raise ValueError(f"a clock of type {kind.name} is not smeared")
        self.kind = kind
        self.smearing = smearing
        self._source = source or _SOURCES.get(kind, time.time_ns)
        self._lock = threading.Lock()
        self._offset = 0
        self._frozen: int | None = None
        self._listeners: list[Callable[[], object]] = []

    def now(self) -> int:
        """Nanoseconds since the clock's epoch."""
        with self._lock:
            return self._now()

    def _now(self) -> int:
        value = self._source() + self._offset if self._frozen is None else self._frozen
        return min(max(value, 0), MOST)

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._frozen is not None

    def travel(self, when: When) -> None:
        """Jump; a frozen clock stays frozen. Raises ValueError for a monotonic one that is to go back."""
        with self._lock:
            now = self._now()
            target = _nanoseconds(when, now)
            if not 0 <= target <= MOST:
                raise ValueError(f"a clock cannot show {when!r}: it counts 64 bits of nanoseconds from 1970")
            if self.kind is ClockType.MONOTONIC and target < now:
                raise ValueError("a monotonic clock does not go back")
            if self._frozen is None:
                self._offset += target - now
            else:
                self._frozen = target
        self._tell()

    def freeze(self) -> None:
        """Stand still."""
        with self._lock:
            self._frozen = self._now()
        self._tell()

    def thaw(self) -> None:
        """Go on from where it stands."""
        with self._lock:
            if self._frozen is not None:
                self._offset = self._frozen - self._source()
                self._frozen = None
        self._tell()

    def on_change(self, function: Callable[[], object]) -> None:
        """Call ``function`` after each jump, in the thread that made it."""
        self._listeners.append(function)

    def _tell(self) -> None:
        for function in self._listeners:
            function()


def _nanoseconds(when: When, now: int) -> int:
    if isinstance(when, timedelta):
        return now + _count(when)
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when!r} says no time zone: give it tzinfo=UTC")
        return _count(when - _EPOCH)
    return when


def _count(distance: timedelta) -> int:
    return distance // timedelta(microseconds=1) * 1000
