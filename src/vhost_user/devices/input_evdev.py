"""Input devices of this machine, by the library evdev (extra: input): a source, and a copy by uinput."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from typing import Any

from vhost_user.devices.input_source import Board, InputDescription, InputSource
from vhost_user.devices.input_state import LIFTED, SLOT, TRACKING_ID, InputState
from vhost_user.devices.library import library
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.input import InputAbsInfo, InputDeviceIds, InputEvent
from vhost_user.spec.input_codes import EventType, Repeat, Synchronization

_report = LimitedLog(logging.getLogger(__name__))

FORWARDED = {
    EventType.EV_KEY,
    EventType.EV_REL,
    EventType.EV_ABS,
    EventType.EV_MSC,
    EventType.EV_SW,
}
"""What a device tells. What is lit or rung comes from the guest, and this machine would send it back."""
GRAB_AGAIN = 0.1
"""Seconds until a device that somebody else has is tried again."""
LONGEST = 1024
"""Events of a report; no device has so many."""


def _evdev() -> Any:
    return library("evdev", extra="input")


class EvdevSource(InputSource):
    """The device ``/dev/input/eventN``, or a link to it such as those of ``/dev/input/by-id``.

    With ``grab`` nobody else on this machine gets its events while it is served; it is waited for as long as
    somebody else has it. Raises OSError when it cannot be opened, MissingLibraryError without evdev.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        grab: bool = True,
        name: str | None = None,
        serial: str | None = None,
    ) -> None:
        try:
            self._device = _evdev().InputDevice(os.fspath(path))
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise OSError(error.errno, "it is not an input device", os.fspath(path)) from error
            raise
        self._grab = grab
        self._board: Board | None = None
        self._open: list[InputEvent] = []
        self._lost = False
        super().__init__(_described(self._device).renamed(name, serial))
        self.state = self._now()

    def begin(self, board: Board) -> None:
        """Grabbed and waited for. Raises OSError when the kernel cannot."""
        self._board = board
        board.listen(self._device.fd, self._ready)
        if self._grab:
            self._take_hold()

    def end(self) -> None:
        """Closed, which lets go of it."""
        with self.lock:
            if self._board is not None:
                self._board.unlisten(self._device.fd)
                self._board = None
            self._device.close()

    def told(self, event: InputEvent) -> None:
        """The guest lights a LED of this machine's keyboard."""
        try:
            self._device.write(event.type, event.code, event.value)
        except (OSError, _evdev().EvdevError) as error:
            _report.warning("%s: a LED cannot be set: %s", self._device.path, error)

    def _take_hold(self) -> None:
        """Grab it; in an upgrade the process before this one still has it for a moment."""
        with self.lock:
            if self._board is None:
                return
            try:
                self._device.grab()
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                _report.warning("%s: somebody else has grabbed it: waiting", self._device.path)
                self._board.call_later(GRAB_AGAIN, self._take_hold)
                return
            self.hand_on(self._now().since(self.state))  # what happened meanwhile was not told here

    def _ready(self, _events: int) -> None:
        with self.lock:
            try:
                for event in self._device.read():
                    self._take(event.type, event.code, event.value)
            except BlockingIOError:
                pass
            except OSError as error:
                self._gone(error)

    # With the lock held

    def _take(self, kind: int, code: int, value: int) -> None:
        """One event of the kernel; a report ends with SYN_REPORT. After SYN_DROPPED one is worth nothing."""
        if kind == EventType.EV_SYN and code == Synchronization.SYN_DROPPED:
            self._lost = True
        elif kind == EventType.EV_SYN and code == Synchronization.SYN_REPORT:
            events, self._open = self._open, []
            if self._lost:
                self._lost = False
                events = self._now().since(self.state)
            self.hand_on(events)
        elif len(self._open) >= LONGEST:
            self._lost = True
        elif kind in FORWARDED or (kind, code) == (EventType.EV_SYN, Synchronization.SYN_MT_REPORT):
            self._open.append(InputEvent(kind, code, value))

    def _now(self) -> InputState:
        """What is pressed, asked of the kernel.

        The library cannot ask for contacts and switches: those count as lifted, these stay as they were.
        """
        state = InputState()
        state.keys = set(self._device.active_keys())
        state.switches = set(self.state.switches)
        codes = self._device.capabilities(absinfo=True).get(EventType.EV_ABS, ())
        state.axes = {axis: self._device.absinfo(axis).value for axis, _ in codes if axis < SLOT}
        state.contacts = {slot: {TRACKING_ID: LIFTED} for slot in range(self.description.slots)}
        return state

    def _gone(self, error: OSError) -> None:
        """Unplugged: nothing is pressed any more."""
        _report.error("%s is gone: %s", self._device.path, error.strerror)
        if self._board is not None:
            self._board.unlisten(self._device.fd)
            self._board = None
        self._open = []
        self.hand_on(InputState().since(self.state))


class UinputCopy:
    """A new device of this machine that does all that ``source`` does, from now on until ``close``.

    Raises OSError when ``/dev/uinput`` cannot be used, MissingLibraryError without evdev.
    """

    def __init__(self, source: InputSource) -> None:
        description, identity = source.description, source.description.ids
        evdev = _evdev()
        codes: dict[int, list[Any]] = {kind: sorted(each) for kind, each in description.codes.items()}
        codes.pop(EventType.EV_REP, None)
        if description.has(EventType.EV_REP, Repeat.REP_DELAY):
            codes[EventType.EV_REP] = []  # the library knows the type, and no code of it
        codes[EventType.EV_ABS] = [
            (axis, evdev.AbsInfo(0, info.min, info.max, info.fuzz, info.flat, info.res))
            for axis, info in sorted(description.axes.items())
            if description.has(EventType.EV_ABS, axis)
        ]
        self._source = source
        try:
            self._device = evdev.UInput(
                {kind: each for kind, each in codes.items() if each or kind == EventType.EV_REP},
                name=description.name,
                vendor=identity.vendor,
                product=identity.product,
                version=identity.version,
                bustype=identity.bustype,
                input_props=sorted(description.properties),
            )
        except evdev.UInputError as error:
            raise OSError(f"no device can be made by uinput: {error}") from error
        with source.lock:
            self.report(source.add_sink(self).since(InputState()))

    def report(self, events: Sequence[InputEvent]) -> None:
        """Written at once."""
        if not events:
            return
        try:
            for event in events:
                self._device.write(event.type, event.code, event.value)
            self._device.syn()
        except OSError as error:
            _report.warning("uinput takes no events: %s", error)

    def wait_for_room(self, timeout: float) -> None:
        """There always is."""

    def close(self) -> None:
        """The device disappears."""
        self._source.remove_sink(self)
        self._device.close()


def _described(device: Any) -> InputDescription:
    codes: dict[int, set[int]] = {}
    axes: dict[int, InputAbsInfo] = {}
    for kind, each in device.capabilities(absinfo=True).items():
        if kind == EventType.EV_ABS:
            for axis, info in each:
                axes[axis] = InputAbsInfo(info.min, info.max, info.fuzz, info.flat, info.resolution)
            codes[kind] = set(axes)
        elif kind in FORWARDED | {EventType.EV_LED, EventType.EV_SND}:
            codes[kind] = set(each)
        elif kind == EventType.EV_REP:
            codes[kind] = set(Repeat)
    info = device.info
    return InputDescription(
        name=_cut(device.name),
        serial=_cut(device.uniq or ""),
        ids=InputDeviceIds(info.bustype, info.vendor, info.product, info.version),
        properties=set(device.input_props()),
        codes=codes,
        axes=axes,
    )


def _cut(text: str) -> str:
    """As much of it as there is room for."""
    return text.encode()[:128].decode(errors="ignore")
