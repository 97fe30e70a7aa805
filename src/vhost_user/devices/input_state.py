"""``InputState``: what is pressed, switched and touched, as the events so far left it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from vhost_user.spec.input import InputEvent
from vhost_user.spec.input_codes import Absolute, EventType

SLOT = Absolute.ABS_MT_SLOT
TRACKING_ID = Absolute.ABS_MT_TRACKING_ID
LIFTED = -1
"""The tracking id of a slot without a contact."""
MOST_SLOTS = 1024
"""More contacts than any device has: events come from files, other programs and migrations."""
_CODES = 1 << 16
_VALUES = range(-(1 << 31), 1 << 31)
_Axes = dict[int, int]


class InputState:
    """What events say of keys, switches, axes and contacts. Movements (EV_REL) leave nothing.

    A new one is what a driver takes for granted when it begins: nothing is pressed, and axes are unknown.
    """

    def __init__(self) -> None:
        self.keys: set[int] = set()
        """Those that are pressed."""
        self.switches: set[int] = set()
        """Those that are on."""
        self.axes: _Axes = {}
        """Values by axis, of those that were told."""
        self.contacts: dict[int, _Axes] = {}
        """Values of the multi-touch axes by slot (protocol B)."""
        self.slot = 0
        """Whose values come next."""

    def apply(self, events: Iterable[InputEvent]) -> None:
        """These events happened."""
        for event in events:
            if event.type == EventType.EV_KEY:
                (self.keys.add if event.value else self.keys.discard)(event.code)
            elif event.type == EventType.EV_SW:
                (self.switches.add if event.value else self.switches.discard)(event.code)
            elif event.type == EventType.EV_ABS:
                if event.code == SLOT:
                    self.slot = event.value
                elif event.code <= SLOT:
                    self.axes[event.code] = event.value
                elif 0 <= self.slot < MOST_SLOTS:
                    self.contacts.setdefault(self.slot, {})[event.code] = event.value

    def copy(self) -> InputState:
        """The same, of its own."""
        twin = InputState()
        twin.keys, twin.switches, twin.axes = set(self.keys), set(self.switches), dict(self.axes)
        twin.contacts = {slot: dict(values) for slot, values in self.contacts.items()}
        twin.slot = self.slot
        return twin

    def touches(self, slot: int) -> bool:
        """There is a contact in the slot."""
        return self.contacts.get(slot, {}).get(TRACKING_ID, LIFTED) != LIFTED

    def since(self, known: InputState) -> list[InputEvent]:
        """The events that make ``known`` this; without a SYN_REPORT, and none if they are equal."""
        events = [
            *_switched(EventType.EV_KEY, known.keys, self.keys),
            *_switched(EventType.EV_SW, known.switches, self.switches),
        ]
        events += [
            InputEvent(EventType.EV_ABS, axis, value)
            for axis, value in sorted(self.axes.items())
            if known.axes.get(axis) != value
        ]
        events += self._contacts_since(known)
        return events

    def of_all(self, codes: Mapping[int, Set[int]], slots: int) -> list[InputEvent]:
        """All of it, also what is not pressed: for a driver of whom nobody knows what it knows."""
        opposite = InputState()
        opposite.keys = set(codes.get(EventType.EV_KEY, ())) - self.keys
        opposite.switches = set(codes.get(EventType.EV_SW, ())) - self.switches
        opposite.contacts = {slot: {TRACKING_ID: 0} for slot in range(slots) if not self.touches(slot)}
        opposite.slot = -1 if slots else self.slot
        return self.since(opposite)

    def _contacts_since(self, known: InputState) -> Iterator[InputEvent]:
        slot = known.slot
        for number in sorted(known.contacts.keys() | self.contacts.keys()):
            before, now = known.contacts.get(number, {}), self.contacts.get(number, {})
            changes = {axis: value for axis, value in now.items() if before.get(axis) != value}
            if known.touches(number) and not self.touches(number):
                changes = {TRACKING_ID: LIFTED, **changes}
            if not known.touches(number) and changes.get(TRACKING_ID) == LIFTED:
                del changes[TRACKING_ID]  # that is what it was
            if not changes:
                continue
            if slot != number:
                slot = number
                yield InputEvent(EventType.EV_ABS, SLOT, number)
            # The id first: it says whose the other values are.
            for axis in sorted(changes, key=lambda axis: (axis != TRACKING_ID, axis)):
                yield InputEvent(EventType.EV_ABS, axis, changes[axis])
        if slot != self.slot:
            yield InputEvent(EventType.EV_ABS, SLOT, self.slot)

    # For a migration

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "keys": sorted(map(int, self.keys)),
            "switches": sorted(map(int, self.switches)),
            "axes": _pairs(self.axes),
            "contacts": [[slot, _pairs(values)] for slot, values in sorted(self.contacts.items())],
            "slot": self.slot,
        }

    @classmethod
    def from_plain(cls, data: Any) -> InputState:
        """Out of what ``plain`` gave. Raises ValueError for anything else."""
        if not isinstance(data, dict):
            raise ValueError("the state of an input device is a map")  # noqa: TRY004  # as for its parts
        state = cls()
        state.keys = set(_numbers(data.get("keys")))
        state.switches = set(_numbers(data.get("switches")))
        state.axes = _axes(data.get("axes"))
        contacts = data.get("contacts")
        if not isinstance(contacts, list) or len(contacts) > MOST_SLOTS:
            raise ValueError("the contacts in the state of an input device are a list")
        for each in contacts:
            if not (isinstance(each, list) and len(each) == 2 and each[0] in range(MOST_SLOTS)):
                raise ValueError(f"{each!r:.60} is not a contact")
            state.contacts[int(each[0])] = _axes(each[1])
        slot = data.get("slot")
        if type(slot) is not int or slot not in _VALUES:
            raise ValueError(f"{slot!r:.40} is not a slot")
        state.slot = slot
        return state


def event_from_plain(data: Any) -> InputEvent:
    """An event out of its three numbers. Raises ValueError for anything else."""
    if not (isinstance(data, list) and len(data) == 3 and all(type(number) is int for number in data)):
        raise ValueError(f"{data!r:.60} is not an event: type, code, value")
    kind, code, value = data
    if kind not in range(_CODES) or code not in range(_CODES) or value not in _VALUES:
        raise ValueError(f"{data!r:.60} has numbers that no event has")
    return InputEvent(kind, code, value)


def _switched(kind: EventType, before: set[int], now: set[int]) -> Iterator[InputEvent]:
    for code in sorted(before - now):
        yield InputEvent(kind, code, 0)
    for code in sorted(now - before):
        yield InputEvent(kind, code, 1)


def _pairs(axes: _Axes) -> list[list[int]]:
    return [[int(axis), value] for axis, value in sorted(axes.items())]


def _axes(data: Any) -> _Axes:
    if not isinstance(data, list):
        raise ValueError("the axes in the state of an input device are a list")  # noqa: TRY004  # as above
    events = [
        event_from_plain([int(EventType.EV_ABS), *pair] if isinstance(pair, list) else pair) for pair in data
    ]
    return {event.code: event.value for event in events}


def _numbers(data: Any) -> list[int]:
    if not isinstance(data, list) or not all(type(code) is int and code in range(_CODES) for code in data):
        raise ValueError("keys and switches in the state of an input device are lists of codes")
    return data
