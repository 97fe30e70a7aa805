"""GPIO lines (virtio 1.4, 5.18): buttons, LEDs and whatever else is a wire.

    board = Gpio(Line("button", rest=1), "led")
    board.start("/tmp/gpio.sock")
    board.line("button").press()
    board.line("led").wait(1)

An end of a line is a program, or a line of this machine: ``vhost_user.devices.gpio_chip.ChipLine``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.backend import U16, U32, BufferQueue, Config, Device, Queue, Refuse
from vhost_user.devices.gpio_line import Line
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.gpio import (
    EVENT_QUEUE,
    REQUEST_QUEUE,
    GpioConfig,
    GpioDirection,
    GpioFeature,
    GpioIrqRequest,
    GpioIrqStatus,
    GpioIrqType,
    GpioRequestType,
    GpioResponse,
    GpioStatus,
)

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MAX_LINES = 0xFFFF
RING_SIZE = 256
"""Descriptors: QEMU's front-end has rings of this size, and does not ask."""


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.gpio.GpioConfig` has it."""

    ngpio = U16()
    gpio_names_size = U32(at=4)


class Gpio(Device, type="gpio", device_features=GpioFeature.IRQ, queue_size=RING_SIZE):
    """Lines with names, directions and all types of interrupts: names, or :class:`Line` objects.

    What the driver said of its lines is forgotten when it resets the device or its session ends. An edge
    while the interrupt is masked is kept, one of them; a level interrupts again and again while it lasts.

    Raises ValueError for names that are not unique or not ASCII, and without a line.
    """

    config = Space()
    requests = Queue(REQUEST_QUEUE, header="<HHI")
    events = BufferQueue(EVENT_QUEUE)

    def __init__(self, *lines: Line | str) -> None:
        self.lines: Sequence[Line] = tuple(Line(line) if isinstance(line, str) else line for line in lines)
        """All lines, by number."""
        if not 1 <= len(self.lines) <= MAX_LINES:
            raise ValueError(f"{len(self.lines)} lines: there must be at least one, and {MAX_LINES} at most")
        names = [line.name for line in self.lines]
        self._by_name = {line.name: line for line in self.lines if line.name}
        if len(self._by_name) != len([name for name in names if name]):
            raise ValueError("two lines have the same name; the name of a line is unique, or empty")
        for name in names:
            if not name.isascii() or "\0" in name:
                raise ValueError(f"the name of a line is ASCII (virtio 1.4, 5.18.6.1), not {name!r}")
        self._names = "".join(f"{name}\0" for name in names).encode() if self._by_name else b""
        self.config.ngpio, self.config.gpio_names_size = len(self.lines), len(self._names)
        self._heard = False
        self._overtaken = False
        for number, line in enumerate(self.lines):
            if line.board is not None:
                raise ValueError(f"{line!r} belongs to a device already")
            line.number, line.board = number, self

    def line(self, which: int | str) -> Line:
        """A line by its name or number. Raises KeyError or IndexError for one that is not there."""
        return self._by_name[which] if isinstance(which, str) else self.lines[which]

    # The life of the device

    def setup(self) -> None:
        """The other ends begin."""
        for line in self.lines:
            line.begin()

    def shutdown(self) -> None:
        """They end."""
        for line in self.lines:
            line.end()

    def queue_started(self, queue: int) -> None:
        """A driver that was at work before this program began will not say again what it said then."""
        if queue == EVENT_QUEUE:
            self._overtaken = False
        # The position in the ring; bit 15 is the wrap counter of a packed one.
        if not self._heard and self.vring(queue).base() & 0x7FFF:
            self._heard = True
            for line in self.lines:
                line.resume()

    def queue_stopping(self, queue: int) -> float | None:
        """A ring cannot keep a buffer that is older than one which was used: such a one goes back INVALID.

        Linux queues that again, and an edge in between is kept. Used without a status, it would be lost.
        """
        if queue == EVENT_QUEUE and self._overtaken:
            while (buffer := self.events.take()) is not None:
                self._use(buffer, GpioIrqStatus.INVALID)
        return None

    def reset(self) -> None:
        """All lines are inactive, as for a driver that begins."""
        self._heard = False
        for line in self.lines:
            try:
                line.forget()
            except OSError as error:
                _report.warning("%r cannot be released: %s", line, error)

    def save_state(self) -> list[list[int]]:
        """What the driver said of each line."""
        return [line.saved() for line in self.lines]

    def load_state(self, state: Any, version: int) -> None:
        """Go on with that, as far as it makes sense."""
        del version
        if not isinstance(state, list) or len(state) != len(self.lines):
            raise ValueError("the state has another number of lines")
        for line, saved in zip(self.lines, state, strict=True):
            if not (isinstance(saved, list) and len(saved) == 4 and all(type(n) is int for n in saved)):
                raise ValueError(f"the state of line {line.number} is not four numbers")
            line.load(saved)
        self._heard = True

    # Requests

    @requests.handler
    def request(self, request: Request) -> None:
        """Carry out one request, in the order of the queue."""
        self._heard = True
        kind, number, value = request.header
        if request.writable < GpioResponse.SIZE:
            raise Refuse(errno.EINVAL, "there is no room for the answer")
        if kind == GpioRequestType.GET_LINE_NAMES:
            if not self._names or request.writable <= len(self._names):
                raise Refuse(errno.EINVAL, f"the names have {len(self._names)} bytes")
            request.write(bytes((GpioStatus.OK,)) + self._names)
            return
        if number >= len(self.lines):
            raise Refuse(errno.EINVAL, f"there is no line {number}")
        try:
            answer = self._perform(kind, self.lines[number], value)
        except ValueError as error:
            raise Refuse(errno.EINVAL, str(error)) from error
        except OSError as error:
            if not isinstance(error, Refuse):
                _report.warning("%r: %s", self.lines[number], error)
            raise Refuse(error.errno or errno.EIO, str(error)) from error
        request.write(GpioResponse(GpioStatus.OK, answer).pack())

    def _perform(self, kind: int, line: Line, value: int) -> int:
        match kind:
            case GpioRequestType.GET_DIRECTION:
                return line.direction
            case GpioRequestType.SET_DIRECTION:
                line.set_direction(GpioDirection(value))
            case GpioRequestType.GET_VALUE:
                return line.sense()
            case GpioRequestType.SET_VALUE if value in {0, 1}:
                line.set_value(value)
            case GpioRequestType.SET_IRQ_TYPE if self.driver_features & GpioFeature.IRQ:
                irq_type = GpioIrqType(value)
                if irq_type and line.is_output:
                    raise Refuse(errno.EINVAL, f"line {line.number} is an output and cannot interrupt")
                line.set_irq_type(irq_type)
            case _:
                raise Refuse(errno.EINVAL, f"no request {kind} with {value}")
        return 0

    def fail(self, request: Request, exception: BaseException) -> None:
        """The answer to what cannot be carried out."""
        del exception
        request.write(GpioResponse(GpioStatus.ERR).pack()[: request.writable])
        request.complete()

    # Interrupts

    @events.on_available
    def unmasked(self) -> None:
        """The driver left buffers: each unmasks the interrupt of one line."""
        numbers: set[int] = set()
        self.events.take_where(lambda buffer: numbers.add(_line_of(buffer)))
        for number in numbers:
            if number < len(self.lines):
                self.lines[number].unmask()
            else:
                self._give_back(number)

    def interrupt(self, line: Line) -> None:
        """Tell the driver of an interrupt of the line if there is one and a buffer for it."""
        if self._daemon is None:
            return
        if line.irq_type is GpioIrqType.NONE:
            self._give_back(line.number)
        while line.wants_to_interrupt and self._tell(line.number, GpioIrqStatus.VALID):
            line.latched = False

    def _give_back(self, number: int) -> None:
        while self._tell(number, GpioIrqStatus.INVALID):
            pass

    def _tell(self, number: int, status: GpioIrqStatus) -> bool:
        """Use a buffer of this line; False: there is none."""
        older: list[int] = []

        def wanted(buffer: Request) -> bool:
            found = _line_of(buffer)
            older.append(found)
            return found == number

        buffer = self.events.take_where(wanted)
        if buffer is None:
            return False
        self._overtaken |= len(older) > 1
        return self._use(buffer, status)

    def _use(self, buffer: Request, status: GpioIrqStatus) -> bool:
        try:
            buffer.write(bytes((status,))[: buffer.writable])
            buffer.complete()
        except EngineError as error:  # the queue stopped at this moment, or the buffer lies nowhere
            _report.warning("queue %d, head %d: an event is not told: %s", buffer.queue, buffer.head, error)
            if buffer.alive:
                buffer.complete(0)
            return False
        return True


NO_LINE = MAX_LINES
"""The line of a buffer that names none: numbers end before it."""


def _line_of(buffer: Request) -> int:
    """The line that a buffer of the event queue is for."""
    try:
        data = buffer.read_at(0, GpioIrqRequest.SIZE)
    except EngineError:  # it lies in memory that is not there
        return NO_LINE
    return int.from_bytes(data, "little") if len(data) == GpioIrqRequest.SIZE else NO_LINE


assert len(Space()) == GpioConfig.SIZE
