"""The input device (virtio 1.4, 5.8): a keyboard, a mouse, a tablet, a touch screen, or one of this machine.

    keyboard = Keyboard()
    serve(Input(keyboard))
    keyboard.type("hello")
    Input(EvdevSource("/dev/input/event3"))

Models are in ``input_model``, devices of this machine in ``input_evdev``, recorded sessions in
``input_recording``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vhost_user.backend import BufferQueue, Device, Queue
from vhost_user.devices.input_model import Keyboard
from vhost_user.devices.input_state import InputState, event_from_plain
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.input import EVENT_QUEUE, STATUS_QUEUE, InputConfig, InputEvent
from vhost_user.spec.input_codes import EventType, Synchronization

if TYPE_CHECKING:
    from vhost_user.devices.input_source import InputSource
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

BACKLOG = 1024
"""Events on their way to a driver that does not take them; beyond that, reports are dropped."""
PATIENCE = 64
"""Buffers that are good for no event, after which the driver waits ``REST`` seconds."""
REST = 0.01
WRITABLE = 2
"""Bytes of the configuration space that a driver writes: ``select`` and ``subsel``."""
END = InputEvent(EventType.EV_SYN, Synchronization.SYN_REPORT, 0)
DROPPED = InputEvent(EventType.EV_SYN, Synchronization.SYN_DROPPED, 0)


class Mirror(Protocol):
    """What does or writes the same as the source."""

    def close(self) -> None:
        """No longer."""


class Input(Device, type="input"):
    """An input device whose events come from ``source``; by default a keyboard that a program types on.

    Reports arrive whole and in order. When a driver takes no more events, reports are dropped, each as a
    whole; it is told of that by SYN_DROPPED, then what is pressed and touched now. A driver that begins is
    told what is. While there is none, events are lost, as with a keyboard that is not plugged in.

    Raises ValueError for a source that belongs to another device.
    """

    capability_features = ("evdev-path", "no-grab")
    config_writable = (range(WRITABLE),)
    events = BufferQueue(EVENT_QUEUE)
    status = Queue(STATUS_QUEUE)

    def __init__(self, source: InputSource | None = None) -> None:
        self.source: InputSource = Keyboard() if source is None else source
        if self.source.device is not None:
            raise ValueError(f"{self.source!r} belongs to a device already")
        self.source.device = self
        self.config = self._answers = bytearray(InputConfig.SIZE)
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._driver = False
        self._told: InputState | None = InputState()  # what the driver knows; None: nobody knows what
        self._behind = False  # reports were dropped: the driver is to be told that as well
        self._rest: deque[InputEvent] = deque()  # of the report that has begun
        self._waiting: deque[list[InputEvent]] = deque()
        self._count = 0  # events in all of these
        self._current = self.source.add_sink(self)
        self._mirrors: list[Mirror] = []

    def mirror(self, mirror: Mirror) -> None:
        """Close this along with the device: a :class:`Recorder`, a :class:`UinputCopy`."""
        self._mirrors.append(mirror)

    # The life of the device

    def setup(self) -> None:
        """The source begins."""
        self.source.begin(self)

    def shutdown(self) -> None:
        """It ends, and whatever follows it."""
        self.source.end()
        for mirror in self._mirrors:
            mirror.close()

    def queue_started(self, queue: int) -> None:
        """A driver begins, unless a ring goes on that had stopped."""
        if queue != EVENT_QUEUE:
            return
        with self._lock:
            if self._driver:
                return
            self._driver = True
            # The position in the ring; bit 15 is the wrap counter of a packed one. A driver that was at work
            # before this program began may know of keys that were pressed then.
            self._told = None if self.vring(queue).base() & 0x7FFF else InputState()
            self._tell_state()
        self.source.driver_came()

    def driver_gone(self) -> None:
        """The next driver is another, although nobody reset the device."""
        super().driver_gone()
        self._forget()

    def reset(self) -> None:
        """As for a driver that begins."""
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            went, self._driver = self._driver, False
            self._behind = False
            self._rest.clear()
            self._waiting.clear()
            self._count = 0
            self._answers[:WRITABLE] = bytes(WRITABLE)
            self._room.notify_all()
        self._answer()
        if went:
            self.source.driver_went()

    # The configuration space

    def set_config(self, offset: int, data: bytes) -> None:
        """``select`` and ``subsel``. What is written behind them along with them is left alone.

        QEMU writes its copy of the whole space, which is out of date, to change one byte of it.
        """
        super().set_config(offset, data[: WRITABLE - offset] if offset < WRITABLE else data)
        self._answer()

    def restore_config(self, offset: int, data: bytes) -> None:
        """``select`` and ``subsel``, after a migration."""
        super().restore_config(offset, data[: WRITABLE - offset] if offset < WRITABLE else data)
        self._answer()

    def _answer(self) -> None:
        select, subselect = self._answers[:WRITABLE]
        answer = self.source.description.answer(select, subselect)
        self._answers[:] = InputConfig(select, subselect, len(answer), answer).pack()

    # Events

    def report(self, events: Sequence[InputEvent]) -> None:
        """The source tells what happened; from any thread."""
        with self._lock:
            self._current.apply(events)
            if not self._driver or self._behind:
                return
            if self._count + len(events) >= BACKLOG:
                self._fall_behind()
            else:
                self._waiting.append([*events, END])
                self._count += len(events) + 1
            self._deliver()

    def wait_for_room(self, timeout: float) -> None:
        """Wait until less than half of what may wait does, or there is no driver. Raises TimeoutError."""
        with self._room:
            if not self._room.wait_for(
                lambda: not self._driver or not (self._behind or self._count > BACKLOG // 2), timeout
            ):
                raise TimeoutError(f"the guest took no input events for {timeout:g} seconds")

    @events.on_available
    def _deliver(self) -> None:
        """Fill buffers, one with each event, as far as there are any."""
        with self._lock:
            useless = 0
            while self._has_events and (buffer := self.events.take()) is not None:
                if not self._rest:
                    self._begin_report()
                if _filled(buffer, self._rest[0]):
                    event = self._rest.popleft()
                    self._count -= 1
                    if self._told is not None:
                        self._told.apply((event,))
                    continue
                useless += 1
                if useless == PATIENCE:  # such a driver may bring them faster than they are used
                    self.call_later(REST, self._deliver)
                    break
            self._room.notify_all()

    # With the lock held

    def _fall_behind(self) -> None:
        """The report that has begun is ended, for there are no half ones; all others are dropped."""
        _report.warning("the guest does not take input events: %d of them are dropped", self._count)
        self._behind = True
        self._waiting.clear()
        self._count = len(self._rest)

    @property
    def _has_events(self) -> bool:
        return bool(self._rest or self._waiting or self._behind)

    def _begin_report(self) -> None:
        """There is a buffer for the next one; what is told of the state is that of this moment."""
        if self._behind:
            self._tell_state()
        else:
            self._rest.extend(self._waiting.popleft())

    def _tell_state(self) -> None:
        if self._told is None:
            description = self.source.description
            changes = self._current.of_all(description.codes, description.slots)
            self._told = InputState()
        else:
            changes = self._current.since(self._told)
        if self._behind:
            self._rest.extend((DROPPED, END))
        if changes:
            self._rest.extend((*changes, END))
        self._behind = False
        self._count = len(self._rest)  # nothing waits yet, or nothing any more

    # What the driver tells

    @status.handler
    def heard(self, request: Request) -> None:
        """An event of the driver, a LED."""
        data = request.read(InputEvent.SIZE)
        if len(data) == InputEvent.SIZE:
            self.source.hear(InputEvent.unpack(data))
        else:
            _report.warning("a status event of %d bytes is left alone: it must have 8", len(data))

    # Its state

    def save_state(self) -> object:
        """What is pressed, what the driver knows of it, what is on its way, and what it told."""
        with self._lock:
            return {
                "driver": self._driver,
                "state": self._current.plain(),
                "known": None if self._told is None else self._told.plain(),
                "behind": self._behind,
                "begun": _plain(self._rest),
                "waiting": [_plain(report) for report in self._waiting],
                "source": self.source.saved(),
            }

    def load_state(self, state: Any, version: int) -> None:
        """Go on with that. Raises ValueError for what is no such state."""
        del version  # there was one so far
        if not isinstance(state, dict):
            raise ValueError("the state of an input device is a map")  # noqa: TRY004  # as for its parts
        if type(state.get("driver")) is not bool or type(state.get("behind")) is not bool:
            raise ValueError("driver and behind in the state of an input device are true or false")
        current = InputState.from_plain(state.get("state"))
        known = None if state.get("known") is None else InputState.from_plain(state["known"])
        begun = _events(state.get("begun"))
        waiting = state.get("waiting")
        if not isinstance(waiting, list):
            raise ValueError("the reports that wait in the state of an input device are a list")  # noqa: TRY004
        reports = [_events(report) for report in waiting]
        if not all(report and report[-1] == END for report in (*reports, begun or [END])):
            raise ValueError("a report in the state of an input device ends with SYN_REPORT")
        with self._lock:
            self._driver, self._behind = state["driver"], state["behind"]
            self._current, self._told = current, known
            self._rest, self._waiting = deque(begun), deque(reports)
            self._count = len(begun) + sum(map(len, reports))
        self.source.go_on(current.copy(), state.get("source"))
        if state["driver"]:
            self.source.driver_came()


def _filled(buffer: Request, event: InputEvent) -> bool:
    """Use the buffer for this event; False: it is good for none."""
    try:
        if buffer.writable >= InputEvent.SIZE:
            buffer.write(event.pack())
            buffer.complete()
            return True
        _report.warning("a buffer of %d bytes is too small for an input event", buffer.writable)
    except EngineError as error:  # the queue stopped at this moment, or the buffer lies nowhere
        _report.warning("queue %d, head %d: an event waits: %s", buffer.queue, buffer.head, error)
    if buffer.alive:
        buffer.complete(0)
    return False


def _plain(events: Sequence[InputEvent] | deque[InputEvent]) -> list[list[int]]:
    return [[int(event.type), int(event.code), event.value] for event in events]


def _events(data: Any) -> list[InputEvent]:
    if not isinstance(data, list) or len(data) > 2 * BACKLOG:
        raise ValueError("the events in the state of an input device are a list")
    return [event_from_plain(each) for each in data]
