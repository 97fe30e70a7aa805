"""``Line``: one line of a GPIO device, and what is at its other end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from vhost_user.spec.gpio import GpioDirection, GpioIrqType

if TYPE_CHECKING:
    from vhost_user.backend.backend import EventFd

RISING = {GpioIrqType.EDGE_RISING, GpioIrqType.EDGE_BOTH}
FALLING = {GpioIrqType.EDGE_FALLING, GpioIrqType.EDGE_BOTH}
ACTIVE_LEVEL = {GpioIrqType.LEVEL_HIGH: 1, GpioIrqType.LEVEL_LOW: 0}


class Board(Protocol):
    """What a line needs of its device."""

    def interrupt(self, line: Line) -> None:
        """The line may have an interrupt to tell; called with the lock of the line held."""

    def listen(self, fd: EventFd, callback: Callable[[int], object]) -> None:
        """Call ``callback`` in a worker whenever ``fd`` can be read."""

    def unlisten(self, fd: EventFd) -> None:
        """Call it no longer."""


class Line:
    """A wire between the guest and a program: an input of the guest, or an output, as its driver says.

    ``rest`` is the level while nobody outside drives the line: 1 for a button with a pull-up. ``on_change``
    is called with the level whenever the guest changes it, be it by letting go of the line; in the worker: it
    must not block.

    For hardware at the other end derive from it: ``apply``, ``drive``, ``read`` and ``watch`` are called with
    the lock of the line held, and what OSError they raise is the guest's error. What changes outside goes to
    ``set``.
    """

    def __init__(
        self, name: str = "", *, rest: int = 0, on_change: Callable[[int], object] | None = None
    ) -> None:
        self.name = name
        self.number = -1
        """Its number in the device, once it belongs to one."""
        self.direction = GpioDirection.NONE
        self.irq_type = GpioIrqType.NONE
        self.latched = False
        """An edge that the driver has not been told of yet."""
        self.rest = _level(rest)
        self.on_change = on_change
        # What follows is changed with the lock held. The lock of a BufferQueue may be taken while it is held,
        # never the other way round; two lines are never locked at once, and ``on_change`` is called outside.
        self.changed = threading.Condition(threading.RLock())
        self.board: Board | None = None
        self._outside = self.rest
        self._output = 0
        self._level = self.rest
        self._assumed = False

    # What a program and a test use; from any thread

    @property
    def level(self) -> int:
        """What is on the line: what the guest drives if it is an output, else what comes from outside."""
        return self._level

    @property
    def is_output(self) -> bool:
        """The guest drives it."""
        return self.direction is GpioDirection.OUT

    def set(self, level: int) -> None:
        """Drive the line from outside. While the guest drives it, it is seen only afterwards."""
        with self.changed:
            self._outside = _level(level)
            self._look()

    def press(self) -> None:
        """The level that is not that of rest."""
        self.set(1 - self.rest)

    def release(self) -> None:
        """The level of rest."""
        self.set(self.rest)

    def toggle(self) -> None:
        """The other level."""
        with self.changed:
            self.set(1 - self._outside)

    def wait(self, level: int, timeout: float = 10.0) -> None:
        """Wait until this level is on the line. Raises TimeoutError after so many seconds."""
        with self.changed:
            if not self.changed.wait_for(lambda: self._level == level, timeout):
                raise TimeoutError(f"{self!r} is not {level} after {timeout:g} seconds")

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<{type(self).__name__} {self.number}{name}, {self.direction.name}, {self._level}>"

    # What an other end overrides

    def begin(self) -> None:
        """The device is about to be served."""

    def end(self) -> None:
        """It is not served any more."""

    def apply(self, direction: GpioDirection, output: int) -> None:
        """The driver set the direction; ``output`` is the level of an output."""

    def drive(self, level: int) -> None:
        """The driver set the level of an output."""

    def read(self) -> int:
        """The level that comes from outside."""
        return self._outside

    def watch(self, *, wanted: bool) -> None:
        """Whether ``set`` must be called at every change from now on."""

    # What the device calls, in the worker or the control thread

    def set_direction(self, direction: GpioDirection) -> None:
        """The driver did. NONE discards whatever it said of the line (virtio 1.4, 5.18.6)."""
        with self.changed:
            if direction is not GpioDirection.IN and self.irq_type is not GpioIrqType.NONE:
                self.set_irq_type(GpioIrqType.NONE)
            if direction is GpioDirection.NONE:
                self._output = 0
            self.apply(direction, self._output)
            self.direction = direction
            self._assumed = False
            before = self._look()
        self._tell(before)

    def set_value(self, level: int) -> None:
        """The driver did: for now if it is an output, else for when it becomes one."""
        with self.changed:
            before = self._level
            self._output = level
            if self._assumed and self.direction is GpioDirection.NONE:
                self.apply(GpioDirection.OUT, level)  # a driver sets the value of outputs only
                self.direction = GpioDirection.OUT
            elif self.is_output:
                self.drive(level)
            self._look()
        self._tell(before)

    def sense(self) -> int:
        """The level, looked up."""
        with self.changed:
            self._look()
            return self._level

    def set_irq_type(self, kind: GpioIrqType) -> None:
        """The driver wants other interrupts, or none; edges until now are forgotten."""
        with self.changed:
            if (kind is GpioIrqType.NONE) is not (self.irq_type is GpioIrqType.NONE):
                self.watch(wanted=kind is not GpioIrqType.NONE)
            self.irq_type, self.latched, self._assumed = kind, False, False
            if kind in ACTIVE_LEVEL:
                self._look()
            self._interrupt()

    def resume(self) -> None:
        """A driver that has long been at work will not say again what it said before this program began."""
        with self.changed:
            self._assumed = True

    def unmask(self) -> None:
        """The driver left a buffer for an interrupt.

        One who was at work before has enabled it, nobody knows for what: one too many does less harm than
        one that never comes.
        """
        with self.changed:
            if self._assumed and self.irq_type is GpioIrqType.NONE:
                self.set_irq_type(GpioIrqType.EDGE_BOTH)
            else:
                self._interrupt()

    def forget(self) -> None:
        """The driver is gone. OSError of the other end makes no difference."""
        self.set_direction(GpioDirection.NONE)

    def saved(self) -> list[int]:
        """What the driver said, for a migration."""
        with self.changed:
            return [self.direction, self._output, self.irq_type, int(self.latched)]

    def load(self, saved: list[int]) -> None:
        """Go on with that. ValueError for what makes no sense, OSError of the other end."""
        direction, output, irq_type, latched = saved
        self.set_value(_level(output))
        self.set_direction(GpioDirection(direction))
        self.set_irq_type(GpioIrqType(irq_type))
        self.latched = bool(latched)

    @property
    def wants_to_interrupt(self) -> bool:
        """There is an edge that was not told, or the level is the one that interrupts."""
        return self.latched or ACTIVE_LEVEL.get(self.irq_type) == self._level

    # With the lock held

    def _look(self) -> int:
        """Look what the level is; gives the one before."""
        before = self._level
        self._settle(self._output if self.is_output else self.read())
        return before

    def _edge(self, level: int) -> None:
        """The other end has seen this level, be it over by now."""
        self._outside = level
        if not self.is_output:
            self._settle(level)

    def _settle(self, level: int) -> None:
        if level != self._level:
            self._level = level
            if self.irq_type in (RISING if self._level else FALLING):
                self.latched = True
            self.changed.notify_all()
        self._interrupt()

    def _interrupt(self) -> None:
        if self.board is not None:
            self.board.interrupt(self)

    def _tell(self, before: int) -> None:
        level = self._level
        if level != before and self.on_change is not None:
            self.on_change(level)


def _level(level: int) -> int:
    if level not in {0, 1}:
        raise ValueError(f"the level of a line is 0 or 1, not {level!r}")
    return int(level)
