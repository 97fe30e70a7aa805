"""``Touch``: a touch screen with several contacts at a time (multi-touch protocol B of Linux).

screen = Touch(800, 600)
with screen.down(100, 100) as finger:
    finger.move_to(300, 100)
"""

from __future__ import annotations

from typing import Any, Self

from vhost_user.devices.input_model import SIZE, InputModel, ids, inside, side
from vhost_user.devices.input_source import InputDescription
from vhost_user.devices.input_state import LIFTED, SLOT, TRACKING_ID, InputState
from vhost_user.spec.input import InputAbsInfo
from vhost_user.spec.input_codes import Absolute, EventType, InputProperty
from vhost_user.spec.input_keys import Key

MOST_CONTACTS = 64
_IDS = 1 << 16
_X, _Y = Absolute.ABS_MT_POSITION_X, Absolute.ABS_MT_POSITION_Y


class Contact:
    """A finger on a :class:`Touch`; lifted by ``up``, or at the end of a ``with`` block."""

    def __init__(self, screen: Touch, slot: int) -> None:
        self.slot = slot
        """Its number, below ``contacts``; free for another when it is lifted."""
        self._screen = screen
        self._place: dict[Absolute, int] = {}

    def move_to(self, x: int, y: int) -> None:
        """Glide there. Raises ValueError for a place that is outside, and for a finger that was lifted."""
        self._screen.place(self, x, y)

    def up(self) -> None:
        """Lift it; once is enough."""
        self._screen.lift(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.up()


class Touch(InputModel):
    """A touch screen: x from 0 to ``width`` - 1, y from 0 to ``height`` - 1, so many ``contacts`` at a time.

    Programs that know of one finger get BTN_TOUCH, ABS_X and ABS_Y of the one that has been there longest.
    Raises ValueError for a side of less than 2, and for fewer than 1 or more than 64 contacts.
    """

    def __init__(
        self,
        width: int = SIZE,
        height: int = SIZE,
        *,
        contacts: int = 10,
        name: str = "vhost-user touch screen",
        serial: str = "",
    ) -> None:
        if not 1 <= contacts <= MOST_CONTACTS:
            raise ValueError(f"a touch screen has 1 to {MOST_CONTACTS} contacts, not {contacts}")
        axes: dict[int, InputAbsInfo] = {
            Absolute.ABS_X: side(width),
            Absolute.ABS_Y: side(height),
            SLOT: InputAbsInfo(0, contacts - 1),
            _X: side(width),
            _Y: side(height),
            TRACKING_ID: InputAbsInfo(0, _IDS - 1),
        }
        super().__init__(
            InputDescription(
                name=name,
                serial=serial,
                ids=ids(4),
                properties={InputProperty.INPUT_PROP_DIRECT},
                codes={EventType.EV_KEY: {Key.BTN_TOUCH}, EventType.EV_ABS: set(axes)},
                axes=axes,
            )
        )
        self._contacts: dict[int, Contact] = {}  # the longest there first
        self._next_id = 0
        self._axes[SLOT] = 0  # as drivers take it

    @property
    def contacts(self) -> list[Contact]:
        """The fingers that are on the screen, the first one first."""
        with self.lock:
            return list(self._contacts.values())

    def down(self, x: int, y: int) -> Contact:
        """Put a finger there. Raises ValueError for a place outside, and when all contacts are used."""
        with self.report():
            slots = self.description.axes[SLOT].max + 1
            slot = next((number for number in range(slots) if number not in self._contacts), None)
            if slot is None:
                raise ValueError(f"{slots} fingers are on the screen: give Touch more contacts")
            inside(self.description, {_X: x, _Y: y})
            contact = self._contacts[slot] = Contact(self, slot)
            self._select(slot)
            self.emit(EventType.EV_ABS, TRACKING_ID, self._next_id)
            self._next_id = (self._next_id + 1) % _IDS
            if len(self._contacts) == 1:
                self.emit(EventType.EV_KEY, Key.BTN_TOUCH, 1)
            self.place(contact, x, y)
        return contact

    def tap(self, x: int, y: int) -> None:
        """Put a finger there, and lift it."""
        self.down(x, y).up()

    def place(self, contact: Contact, x: int, y: int) -> None:
        """What ``Contact.move_to`` does."""
        place = {_X: x, _Y: y}
        inside(self.description, place)
        with self.report():
            if self._contacts.get(contact.slot) is not contact:
                raise ValueError("this finger was lifted: put another one down")
            for axis, value in place.items():
                if contact._place.get(axis) != value:  # noqa: SLF001  # the other half of this class
                    self._select(contact.slot)
                    self.emit(EventType.EV_ABS, axis, value)
            contact._place = place  # noqa: SLF001  # as above
            self._emulate()

    def lift(self, contact: Contact) -> None:
        """What ``Contact.up`` does."""
        with self.report():
            if self._contacts.get(contact.slot) is not contact:
                return
            del self._contacts[contact.slot]
            self._select(contact.slot)
            self.emit(EventType.EV_ABS, TRACKING_ID, LIFTED)
            if not self._contacts:
                self.emit(EventType.EV_KEY, Key.BTN_TOUCH, 0)
            self._emulate()

    def go_on(self, state: InputState, saved: Any) -> None:
        """The fingers of another process are on this screen: they are in ``contacts``."""
        with self.lock:
            super().go_on(state, saved)
            self._axes[SLOT] = state.slot
            self._contacts.clear()
            slots = self.description.axes[SLOT].max + 1
            for slot, values in state.contacts.items():
                if slot < slots and state.touches(slot):
                    contact = self._contacts[slot] = Contact(self, slot)
                    contact._place = {axis: values.get(axis, 0) for axis in (_X, _Y)}  # noqa: SLF001  # as above
                    self._next_id = (values[TRACKING_ID] + 1) % _IDS

    # With the lock held

    def _select(self, slot: int) -> None:
        self._put(SLOT, slot)

    def _emulate(self) -> None:
        """ABS_X and ABS_Y, for those that know of one finger."""
        if not self._contacts:
            return
        first = next(iter(self._contacts.values()))
        for axis, own in ((Absolute.ABS_X, _X), (Absolute.ABS_Y, _Y)):
            self._put(axis, first._place[own])  # noqa: SLF001  # as above
