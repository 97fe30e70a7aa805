"""What an input device tells of itself, and ``InputSource``: where its events come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from vhost_user.devices.input_state import SLOT, InputState
from vhost_user.spec.input import UNION_SIZE, InputAbsInfo, InputDeviceIds, InputEvent, InputSelect
from vhost_user.spec.input_codes import EventType

if TYPE_CHECKING:
    from vhost_user.backend.backend import EventFd
    from vhost_user.backend.timers import Timer

BUS_VIRTUAL = 6
"""The bus of devices that are made by programs (linux/input.h)."""
NOBODYS = InputDeviceIds(BUS_VIRTUAL, 0, 0, 1)
ROOM_TIMEOUT = 10.0
"""Seconds that a guest may take to make room for more."""
TOLD = {EventType.EV_LED, EventType.EV_SND}
"""What a driver tells the device. Linux sends back EV_MSC, too, which would go round and round."""
_BITS = 8 * UNION_SIZE


@dataclass(frozen=True, kw_only=True)
class InputDescription:
    """What a driver is told of an input device (virtio 1.4, 5.8.4).

    ``codes`` has the codes by their event type, ``axes`` the range of each code of EV_ABS. Raises ValueError
    for what the configuration space has no room for, and for an axis without a range.
    """

    name: str
    serial: str = ""
    ids: InputDeviceIds = NOBODYS
    properties: Set[int] = frozenset()
    codes: Mapping[int, Set[int]] = field(default_factory=dict)
    axes: Mapping[int, InputAbsInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("serial", self.serial)):
            if len(text.encode()) > UNION_SIZE:
                raise ValueError(
                    f"the {what} of an input device has {UNION_SIZE} bytes at most, not {text!r}"
                )
        for code in (*self.properties, *(code for codes in self.codes.values() for code in codes)):
            if not 0 <= code < _BITS:
                raise ValueError(
                    f"an input device has codes and properties from 0 to {_BITS - 1}, not {code}"
                )
        if missing := set(self.codes.get(EventType.EV_ABS, ())) - set(self.axes):
            raise ValueError(f"axis {min(missing)} of an input device has no range")

    @property
    def slots(self) -> int:
        """How many contacts there may be at a time (multi-touch protocol B); 0 for a device without them."""
        return self.axes[SLOT].max + 1 if SLOT in self.axes else 0

    def has(self, kind: int, code: int) -> bool:
        """Whether it has events of this type and code."""
        return code in self.codes.get(kind, ())

    def renamed(self, name: str | None, serial: str | None) -> InputDescription:
        """With another name or serial number, where one is given."""
        return replace(
            self,
            name=self.name if name is None else name,
            serial=self.serial if serial is None else serial,
        )

    def answer(self, select: int, subselect: int) -> bytes:
        """What the configuration space says to a question; nothing to one that it does not know."""
        if select == InputSelect.EV_BITS:
            return _bitmap(self.codes.get(subselect, ()))
        if select == InputSelect.ABS_INFO:
            return self.axes[subselect].pack() if self.has(EventType.EV_ABS, subselect) else b""
        answers: dict[int, Callable[[], bytes]] = {
            InputSelect.ID_NAME: self.name.encode,
            InputSelect.ID_SERIAL: self.serial.encode,
            InputSelect.ID_DEVIDS: self.ids.pack,
            InputSelect.PROP_BITS: lambda: _bitmap(self.properties),
        }
        return answers.get(select, bytes)() if subselect == 0 else b""


def _bitmap(codes: Iterable[int]) -> bytes:
    bits = sum(1 << code for code in set(codes))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


class InputSink(Protocol):
    """Who hears of events: the device, a recording, uinput."""

    def report(self, events: Sequence[InputEvent]) -> None:
        """What happened at one moment, without SYN_REPORT. Called with the lock of the source held."""

    def wait_for_room(self, timeout: float) -> None:
        """Wait until there is room for a few reports. Raises TimeoutError."""


class Board(Protocol):
    """What a source needs of the device it belongs to."""

    def listen(self, fd: EventFd, callback: Callable[[int], object]) -> None:
        """Call ``callback`` in a worker whenever ``fd`` can be read."""

    def unlisten(self, fd: EventFd) -> None:
        """Call it no longer."""

    def call_later(self, seconds: float, function: Callable[..., object]) -> Timer:
        """Call ``function`` in a worker then."""


class InputSource:
    """Where events come from. ``hand_on`` tells all sinks of a report; from any thread.

    A source may have several sinks, and belongs to one device at most.
    """

    def __init__(self, description: InputDescription) -> None:
        self.description = description
        self.state = InputState()
        """What is pressed and touched. Changed with the lock held."""
        # Held while sinks are told, so that all of them hear the same in the same order. They may take locks
        # of their own meanwhile; nobody takes this one while holding one of theirs.
        self.lock = threading.RLock()
        self.device: object = None
        """The device that it belongs to."""
        self._sinks: list[InputSink] = []

    def add_sink(self, sink: InputSink) -> InputState:
        """Tell it, too, from now on. Gives the state that it begins with."""
        with self.lock:
            self._sinks.append(sink)
            return self.state.copy()

    def remove_sink(self, sink: InputSink) -> None:
        """Tell it no longer."""
        with self.lock:
            self._sinks.remove(sink)

    def hand_on(self, events: Sequence[InputEvent]) -> None:
        """A report: all that happened at one moment, without the SYN_REPORT that ends it.

        Raises ValueError, and does nothing, for numbers that an event has no room for.
        """
        if not events:
            return
        for event in events:
            event.pack()
        with self.lock:
            self.state.apply(events)
            for sink in self._sinks:
                sink.report(events)

    def wait_for_room(self, timeout: float = ROOM_TIMEOUT) -> None:
        """Wait while a guest has much to catch up on. Raises TimeoutError after so many seconds."""
        with self.lock:
            sinks = list(self._sinks)
        for sink in sinks:
            sink.wait_for_room(timeout)

    def hear(self, event: InputEvent) -> None:
        """The driver tells something; in the worker."""
        if event.type in TOLD and self.description.has(event.type, event.code):
            self.told(event)

    # What a source overrides

    def begin(self, board: Board) -> None:
        """The device is about to be served."""

    def end(self) -> None:
        """It is not served any more."""

    def driver_came(self) -> None:
        """A driver is at work from now on; must not block."""

    def driver_went(self) -> None:
        """It is not any more: its reset, or its end; must not block."""

    def told(self, event: InputEvent) -> None:
        """The driver lit a LED, or rang a bell. In the worker, and must not block."""

    def saved(self) -> object:
        """What else goes along in a migration, as plain data: what the driver will not tell again."""
        return None

    def go_on(self, state: InputState, saved: Any) -> None:
        """Another process had this state and saved this; ValueError for what makes no sense.

        Hardware has a state of its own, which counts.
        """
        del saved
        with self.lock:
            now = self.state
            self.state = state
            self.hand_on(now.since(state))
