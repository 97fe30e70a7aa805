"""Recorded sessions: what a device did, with its times, in the format of evemu.

``evemu-record``, ``evemu-describe``, ``evemu-device`` and ``evemu-play`` write and read it as well: a text of
the lines N (name), I (identity), P (properties), B (codes), A (axes) and E (events).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vhost_user.devices.input_source import InputDescription, InputSource
from vhost_user.devices.input_state import InputState
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.input import InputAbsInfo, InputDeviceIds, InputEvent
from vhost_user.spec.input_codes import EventType, Synchronization

_report = LimitedLog(logging.getLogger(__name__))

_HEADER = "# EVEMU 1.3"
_A_LINE = 8
"""Bytes on a line of a bit map."""
_HIGHEST = {
    EventType.EV_KEY: 0x2FF,
    EventType.EV_REL: 0xF,
    EventType.EV_ABS: 0x3F,
    EventType.EV_MSC: 7,
    EventType.EV_SW: 0x10,
    EventType.EV_LED: 0xF,
    EventType.EV_SND: 7,
    EventType.EV_REP: 1,
}
"""The highest code of each type that has a bit map (Linux 6.1)."""
MOST_EVENTS = 1 << 20
"""More than anybody records by hand; a file is read into memory."""


@dataclass(frozen=True)
class Report:
    """What happened at one moment, ``time`` seconds after the session began."""

    time: float
    events: tuple[InputEvent, ...]


@dataclass
class InputRecording:
    """A device, and what it did."""

    description: InputDescription
    reports: list[Report] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file. Raises OSError, and ValueError that names the line which is not as it should be."""
        return cls.parse(Path(path).read_text(encoding="utf-8", errors="replace"), str(path))

    @classmethod
    def parse(cls, text: str, name: str = "recording") -> Self:
        """Read a text; ``name`` is for messages. Raises ValueError."""
        return cls(*_Reader(name).read(text))

    def dump(self) -> str:
        """As text."""
        return header(self.description) + "".join(event_lines(each) for each in self.reports)

    def play(
        self,
        hand_on: Callable[[tuple[InputEvent, ...]], object],
        *,
        skip_time: bool = False,
        start: int = 0,
        ended: threading.Event | None = None,
    ) -> bool:
        """Give each report from ``start`` on to ``hand_on``, when its time has come, or at once.

        False: ``ended`` was set meanwhile.
        """
        began = time.monotonic()
        ended = threading.Event() if ended is None else ended
        reports = self.reports[start:]
        for report in reports:
            left = 0.0 if skip_time else began + report.time - reports[0].time - time.monotonic()
            if ended.wait(left) if left > 0 else ended.is_set():
                return False
            hand_on(report.events)
        return True


class Recorder:
    """Writes what ``source`` does into a file, from now on until ``close``.

    What is pressed at the beginning is its first report. A file that has a session of the same device goes on
    where that ends. Raises OSError, and ValueError for a file that has something else.
    """

    def __init__(self, source: InputSource, path: str | Path) -> None:
        self._source = source
        self._path = Path(path)
        self._file = self._path.open("a+b", buffering=0)
        try:
            self._began = time.monotonic() - self._end_of_session()
        except BaseException:
            self._file.close()
            raise
        with source.lock:
            self.report(source.add_sink(self).since(InputState()))

    def report(self, events: Sequence[InputEvent]) -> None:
        """Written at once: a program that is killed has recorded until then."""
        if not events:
            return
        try:
            self._file.write(event_lines(Report(time.monotonic() - self._began, tuple(events))).encode())
        except OSError as error:
            _report.error("%s: events are not recorded: %s", self._path, error)

    def wait_for_room(self, timeout: float) -> None:
        """There always is."""

    def close(self) -> None:
        """The session is complete."""
        with self._source.lock:
            if not self._file.closed:
                self._source.remove_sink(self)
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _end_of_session(self) -> float:
        """When the session in the file ends; begins one in an empty file."""
        self._file.seek(0)
        text = self._file.read().decode(errors="replace")
        beginning = header(self._source.description)
        if not text:
            self._file.write(beginning.encode())
            return 0.0
        if not text.startswith(beginning):
            raise ValueError(f"{self._path} is there, and is not a session of this device: name another file")
        reports = InputRecording.parse(text, str(self._path)).reports
        return reports[-1].time if reports else 0.0


class Replay(InputSource):
    """Does what was recorded, for each driver that begins, from the beginning.

    With ``skip_time`` it does not wait between reports. Without ``automatic`` it waits for ``play``.
    """

    def __init__(
        self,
        recording: InputRecording | str | Path,
        *,
        name: str | None = None,
        serial: str | None = None,
        skip_time: bool = False,
        automatic: bool = True,
    ) -> None:
        self.recording = (
            recording if isinstance(recording, InputRecording) else InputRecording.load(recording)
        )
        super().__init__(self.recording.description.renamed(name, serial))
        self.skip_time = skip_time
        self.automatic = automatic
        self._ended = threading.Event()
        self._next = 0  # the report that comes next; changed with the lock held
        self._playing: threading.Thread | None = None

    def play(self) -> bool:
        """Do all of it now, in this thread. Raises TimeoutError when the guest takes nothing any more."""
        with self.lock:
            self._next = 0
        return self._play(threading.Event())

    def driver_came(self) -> None:
        """It begins, in a thread of its own."""
        if self.automatic:
            self._ended = threading.Event()
            self._playing = threading.Thread(
                target=self._play_alone, args=(self._ended,), name="input-replay", daemon=True
            )
            self._playing.start()

    def driver_went(self) -> None:
        """It ends, with nothing pressed, and begins anew with the next."""
        self._ended.set()
        with self.lock:
            self._next = 0
            self.hand_on(InputState().since(self.state))

    def end(self) -> None:
        """The thread ends."""
        self._ended.set()
        if self._playing is not None:
            self._playing.join(1.0)

    def saved(self) -> object:
        """How far it is."""
        return self._next

    def go_on(self, state: InputState, saved: Any) -> None:
        """It goes on there."""
        if type(saved) is not int or not 0 <= saved <= len(self.recording.reports):
            raise ValueError(f"{saved!r:.40} is not a place in {len(self.recording.reports)} reports")
        with self.lock:
            self.state, self._next = state, saved

    def _play(self, ended: threading.Event) -> bool:
        def hand_on(events: tuple[InputEvent, ...]) -> None:
            self.wait_for_room()
            with self.lock:
                if not ended.is_set():
                    self._next += 1
                    self.hand_on(events)

        return self.recording.play(hand_on, skip_time=self.skip_time, start=self._next, ended=ended)

    def _play_alone(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                self._play(ended)
            except TimeoutError:  # the VM is paused
                continue
            return


def header(description: InputDescription) -> str:
    """The lines that describe a device."""
    identity = description.ids
    lines = [
        _HEADER,
        f"N: {' '.join(description.name.split())}",
        f"I: {identity.bustype:04x} {identity.vendor:04x} {identity.product:04x} {identity.version:04x}",
        f"P: {_hexadecimal(_bytes(description.properties, 31)[:_A_LINE])}",
        "B: 00 0b 00 00 00 00 00 00 00",
    ]
    for kind, highest in _HIGHEST.items():
        data = _bytes(description.codes.get(kind, ()), highest)
        lines += [
            f"B: {kind:02x} {_hexadecimal(data[place : place + _A_LINE])}"
            for place in range(0, len(data), _A_LINE)
        ]
    lines += [
        f"A: {axis:02x} {each.min} {each.max} {each.fuzz} {each.flat} {each.res}"
        for axis, each in sorted(description.axes.items())
        if description.has(EventType.EV_ABS, axis)
    ]
    return "".join(f"{line}\n" for line in lines)


def event_lines(report: Report) -> str:
    """The lines of a report; its time has microseconds."""
    when = f"{report.time:.6f}"
    end = InputEvent(EventType.EV_SYN, Synchronization.SYN_REPORT, 0)
    return "".join(
        f"E: {when} {event.type:04x} {event.code:04x} {event.value:04d}\n" for event in (*report.events, end)
    )


def _bytes(codes: Collection[int], highest: int) -> bytes:
    """A bit map up to the highest code that there is, in whole lines."""
    lines = max([highest, *codes]) // (8 * _A_LINE) + 1
    bits = sum(1 << code for code in set(codes))
    return bits.to_bytes(lines * _A_LINE, "little")


def _hexadecimal(data: bytes) -> str:
    return data.hex(" ")


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._title = ""
        self._ids = InputDeviceIds(0, 0, 0, 0)
        self._bits: dict[int, bytearray] = {}
        self._axes: dict[int, InputAbsInfo] = {}
        self._reports: list[Report] = []
        self._open: list[InputEvent] = []
        self._count = 0

    def read(self, text: str) -> tuple[InputDescription, list[Report]]:
        for number, line in enumerate(text.splitlines(), 1):
            word, _, rest = line.strip().partition(":")
            if not word or word.startswith("#"):
                continue
            if word == "N":  # a name may contain a #
                self._title = rest.strip()
                continue
            try:
                self._take(word, rest.partition("#")[0].split())
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{self._name}, line {number}: {line.strip()[:80]!r}: {error}") from error
        codes = {kind: set(_codes(data)) for kind, data in self._bits.items() if kind in _HIGHEST}
        if not any(codes.values()):
            raise ValueError(f"{self._name} is not a recording of evemu: it has no line B with a code")
        try:
            description = InputDescription(
                name=self._title,
                ids=self._ids,
                properties=set(_codes(self._bits.get(-1, bytearray()))),
                codes={kind: each for kind, each in codes.items() if each},
                axes=self._axes,
            )
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from error
        return description, self._reports

    def _take(self, word: str, parts: list[str]) -> None:
        match word:
            case "I":
                self._ids = InputDeviceIds(*(_number(part, 16, 0xFFFF) for part in _so_many(parts, 4)))
            case "P":
                self._bits.setdefault(-1, bytearray()).extend(_number(part, 16, 0xFF) for part in parts)
            case "B":
                kind, *data = (_number(part, 16, 0xFF) for part in _so_many(parts, 1, 129))
                found = self._bits.setdefault(kind, bytearray())
                if len(found) + len(data) > 128:
                    raise ValueError("there are more codes than any device has")
                found.extend(data)
            case "A":
                axis, *numbers = _so_many(parts, 5, 6)
                low, high, fuzz, flat, *more = (_number(part, 10) for part in numbers)
                self._axes[_number(axis, 16, 0x3F)] = InputAbsInfo(low, high, fuzz, flat, *more[:1])
            case "E":
                self._event(*_so_many(parts, 4))
            case "L" | "S":  # the LEDs and switches of that moment
                pass
            case _:
                raise ValueError("such a line does not exist")

    def _event(self, when: str, kind: str, code: str, value: str) -> None:
        seconds = float(when)
        if not 0 <= seconds < 1e12:
            raise ValueError(f"{when} is not a time")
        event = InputEvent(_number(kind, 16, 0xFFFF), _number(code, 16, 0xFFFF), _number(value, 10))
        self._count += 1
        if self._count > MOST_EVENTS:
            raise ValueError(f"there are more than {MOST_EVENTS} events")
        if event.type != EventType.EV_SYN or event.code == Synchronization.SYN_MT_REPORT:
            self._open.append(event)
        elif event.code == Synchronization.SYN_REPORT and self._open:
            self._reports.append(Report(seconds, tuple(self._open)))
            self._open = []


def _so_many(parts: list[str], least: int, most: int | None = None) -> list[str]:
    most = least if most is None else most
    if not least <= len(parts) <= most:
        due = str(least) if most == least else f"{least} to {most}"
        raise ValueError(f"there are {len(parts)} numbers, and {due} are due")
    return parts


def _number(word: str, base: int, most: int = (1 << 31) - 1) -> int:
    number = int(word, base)
    if not -most - 1 <= number <= most or (base == 16 and number < 0):
        raise ValueError(f"{word} is not a number from {0 if base == 16 else -most - 1} to {most}")
    return number


def _codes(data: bytearray) -> Iterator[int]:
    bits = int.from_bytes(data, "little")
    return (code for code in range(bits.bit_length()) if bits >> code & 1)
