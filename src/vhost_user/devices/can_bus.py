"""What a CAN device is connected to: a bus of python-can, a model, or nothing.

Can("socketcan:can0")                          # any bus of python-can, by its interface and channel
Can(can.Bus("lab", interface="virtual"))       # one that is open already
Can(engine)                                    # a model: def engine(frame): return CanFrame(0x7E8, b"…")
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from vhost_user.devices.library import library
from vhost_user.spec.can import MAX_CLASSIC, MAX_EXTENDED_ID, MAX_FD, MAX_STANDARD_ID
from vhost_user.spec.errors import VhostUserError

SEND_PATIENCE = 0.05
"""Seconds that a bus may take to accept a frame."""
MODEL_BACKLOG = 4096
"""Frames of a model that wait to be received."""
LINUX_BUS_OFF = 0x40
"""In the identifier of an error frame of Linux: the controller went off the bus."""
FD_SIZES = (*range(9), 12, 16, 20, 24, 32, 48, 64)
"""Bytes of data that a frame of CAN FD can have."""


@dataclass(frozen=True, slots=True)
class CanFrame:
    """A frame. One that is ``rtr`` has no data: it asks for a frame of ``length`` bytes.

    ``length`` is that of the data otherwise, and need not be given. Raises ValueError for what no frame can
    be.
    """

    can_id: int
    data: bytes = b""
    extended: bool = False
    fd: bool = False
    rtr: bool = False
    length: int = -1

    def __post_init__(self) -> None:
        limit = MAX_EXTENDED_ID if self.extended else MAX_STANDARD_ID
        if not 0 <= self.can_id <= limit:
            raise ValueError(f"the identifier of a CAN frame is {self.can_id:#x}: it must be 0 to {limit:#x}")
        if self.rtr and (self.fd or self.data):
            raise ValueError("a remote request is a classic frame without data")
        if self.length < 0:
            object.__setattr__(self, "length", len(self.data))
        most = MAX_FD if self.fd else MAX_CLASSIC
        if self.length > most or (self.length != len(self.data) and not self.rtr):
            raise ValueError(
                f"a CAN frame of length {self.length} with {len(self.data)} bytes of data: "
                f"there can be {most}, and both are equal"
            )


class BusOffError(VhostUserError):
    """The controller has seen too many errors, and takes part in the bus no more."""


@runtime_checkable
class CanBus(Protocol):
    """What a device needs of a bus; each method is called in a thread that may wait a moment."""

    def send(self, frame: CanFrame) -> None:
        """Put a frame on the bus. Raises OSError when it is not accepted, BusOffError."""

    def recv(self, timeout: float) -> CanFrame | None:
        """The next frame of somebody else, or None after ``timeout`` seconds. Raises OSError, BusOffError."""

    def close(self) -> None:
        """The device ends."""


Model: TypeAlias = Callable[[CanFrame], "CanFrame | Iterable[CanFrame] | None"]
"""Somebody else on the bus: gets each frame of the guest, and returns what it says to that."""


class ModelBus:
    """A bus with a model at its other end: a function, or nobody.

    ``say`` puts frames on the bus without being asked, from any thread; when nobody takes them, later ones
    are lost.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._model = model
        self._frames: queue.Queue[CanFrame] = queue.Queue(MODEL_BACKLOG)

    def say(self, frame: CanFrame) -> bool:
        """Put a frame on the bus; False when it is lost."""
        try:
            self._frames.put_nowait(frame)
        except queue.Full:
            return False
        return True

    def send(self, frame: CanFrame) -> None:
        """The model hears it, and answers."""
        said = self._model(frame) if self._model is not None else None
        for answer in (said,) if isinstance(said, CanFrame) else said or ():
            self.say(answer)

    def recv(self, timeout: float) -> CanFrame | None:
        """What the model said."""
        try:
            return self._frames.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Nothing is to be closed."""


class PythonCanBus:
    """A bus of python-can (extra ``can``): ``INTERFACE:CHANNEL[,OPTION=VALUE…]``, or an open ``can.BusABC``.

    The options are those of the interface, such as ``bitrate=500000``. Error frames are for the controller,
    so a guest does not see them; one that says so raises BusOffError. A bus that was open is left open.
    Raises MissingLibraryError without python-can, ValueError for words that make no sense, OSError when the
    bus cannot be opened.
    """

    def __init__(self, bus: Any) -> None:
        self._can = library("can", extra="can")
        self._ours = isinstance(bus, str)
        self._bus = self._opened(bus) if self._ours else bus

    def _opened(self, words: str) -> Any:
        place, *options = words.split(",")
        interface, colon, channel = place.partition(":")
        settings = dict(option.partition("=")[::2] for option in options)
        if not (interface and colon and channel) or "" in settings:
            raise ValueError(f"{words!r} is not a CAN bus: write INTERFACE:CHANNEL, such as socketcan:can0")
        if interface not in self._can.VALID_INTERFACES:
            raise ValueError(f"python-can has no interface {interface!r} for the CAN bus {words!r}")
        if interface == "socketcan":
            settings.setdefault("fd", "True")  # otherwise the kernel hides such frames
        values = {key: _value(text) for key, text in settings.items()}
        try:
            return self._can.Bus(channel=channel, interface=interface, **values)
        except (self._can.CanError, OSError, TypeError, ImportError) as error:
            raise OSError(f"the CAN bus {words} cannot be opened: {error}") from error

    def send(self, frame: CanFrame) -> None:
        """Give it to python-can; a length that CAN FD does not have is filled up with zeroes."""
        data = frame.data
        if frame.fd:
            data = data.ljust(next(size for size in FD_SIZES if size >= len(data)), b"\0")
        message = self._can.Message(
            arbitration_id=frame.can_id,
            is_extended_id=frame.extended,
            is_remote_frame=frame.rtr,
            is_fd=frame.fd,
            data=None if frame.rtr else data,
            dlc=frame.length if frame.rtr else len(data),
        )
        try:
            self._bus.send(message, timeout=SEND_PATIENCE)
        except self._can.CanError as error:
            raise OSError(f"the CAN bus does not take a frame: {error}") from error

    def recv(self, timeout: float) -> CanFrame | None:
        """The next frame that is none of an error, and no CAN XL."""
        try:
            message = self._bus.recv(timeout)
        except self._can.CanError as error:
            raise OSError(f"the CAN bus gives no frames: {error}") from error
        if message is None:
            return None
        if message.is_error_frame:
            if message.arbitration_id & LINUX_BUS_OFF:
                raise BusOffError("the interface says that it is off the bus")
            return None
        try:
            return CanFrame(
                message.arbitration_id,
                b"" if message.is_remote_frame else bytes(message.data),
                bool(message.is_extended_id),
                bool(message.is_fd),
                bool(message.is_remote_frame),
                min(message.dlc, MAX_CLASSIC) if message.is_remote_frame else -1,
            )
        except ValueError as error:
            raise OSError(f"the CAN bus gives what is not a frame: {error}") from error

    def close(self) -> None:
        """The bus is closed, if it was opened here."""
        if self._ours:
            self._bus.shutdown()


def _value(text: str) -> object:
    """What an option of python-can is: a number, yes or no, or a word."""
    if text in {"True", "False"}:
        return text == "True"
    try:
        return int(text, 0)
    except ValueError:
        return text


def connected(end: Any) -> CanBus:
    """The bus that ``end`` stands for: words, a CanBus, a bus of python-can, a model, or None for nobody."""
    if end is None or end == "null":
        return ModelBus()
    if isinstance(end, str):
        return PythonCanBus(end)
    if hasattr(end, "shutdown") and hasattr(end, "send_periodic"):
        return PythonCanBus(end)
    if isinstance(end, CanBus):
        return end
    if callable(end):
        return ModelBus(end)
    raise TypeError(
        f"{end!r} is not a CAN bus: give INTERFACE:CHANNEL, a bus of python-can, a function of a frame, "
        "or an object with send, recv and close"
    )
