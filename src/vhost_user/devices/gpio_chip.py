"""``ChipLine``: a line of this machine's GPIO chips, by libgpiod 2 (extra: gpio)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vhost_user.devices.gpio_line import Line
from vhost_user.devices.library import library
from vhost_user.spec.gpio import GpioDirection

CONSUMER = "vhost-user-gpio"


def _gpiod() -> Any:
    return library("gpiod", extra="gpio")


def _path(chip: str) -> str:
    return chip if "/" in chip else f"/dev/gpiochip{chip}" if chip.isdecimal() else f"/dev/{chip}"


class ChipLine(Line):
    """Line ``offset`` of ``chip`` (``/dev/gpiochip0``, ``gpiochip0``, ``0``), or the line of that name.

    It is requested from the kernel as soon as the guest gives it a direction, and released when the guest
    does not use it any more. Raises OSError when the chip cannot be opened, ValueError for a line that it
    does not have, MissingLibraryError without gpiod.
    """

    def __init__(self, chip: str, offset: int | str, *, name: str | None = None) -> None:
        self._gpiod = _gpiod()
        self._path = _path(chip)
        with self._gpiod.Chip(self._path) as opened:
            try:
                self._offset = int(opened.line_offset_from_id(offset))
                own_name = str(opened.get_line_info(self._offset).name or "")
            except (OSError, ValueError) as error:
                raise ValueError(f"{self._path} has no line {offset!r}: {error}") from error
        super().__init__(own_name if name is None else name)
        self._request: Any = None
        self._watched = False

    def end(self) -> None:
        """Released."""
        with self.changed:
            self._release()

    def apply(self, direction: GpioDirection, output: int) -> None:
        """Request it, change the request, or release it."""
        if direction is GpioDirection.NONE:
            self._release()
        else:
            self._configure(direction, output, watched=self._watched)

    def drive(self, level: int) -> None:
        """Set the value."""
        self._request.set_value(self._offset, self._value(level))

    def read(self) -> int:
        """The value; that of before while the line is not requested."""
        if self._request is not None:
            self._outside = int(self._request.get_value(self._offset) == self._gpiod.line.Value.ACTIVE)
        return self._outside

    def watch(self, *, wanted: bool) -> None:
        """Both edges, whatever the driver wants: levels are told by them as well."""
        if wanted or self._request is not None:
            self._configure(GpioDirection.IN, 0, watched=wanted)

    # With the lock held

    def _value(self, level: int) -> Any:
        value = self._gpiod.line.Value
        return value.ACTIVE if level else value.INACTIVE

    def _configure(self, direction: GpioDirection, output: int, *, watched: bool) -> None:
        line = self._gpiod.line
        if direction is GpioDirection.OUT:
            settings = self._gpiod.LineSettings(
                direction=line.Direction.OUTPUT, output_value=self._value(output)
            )
            watched = False
        else:
            edges = line.Edge.BOTH if watched else line.Edge.NONE
            settings = self._gpiod.LineSettings(direction=line.Direction.INPUT, edge_detection=edges)
        config = {self._offset: settings}
        if self._request is None:
            self._request = self._gpiod.request_lines(self._path, config, consumer=CONSUMER)
        else:
            self._request.reconfigure_lines(config)
        self._listen(watched=watched)

    def _listen(self, *, watched: bool) -> None:
        if watched is not self._watched and self.board is not None:
            self._watched = watched
            if watched:
                self.board.listen(self._request.fd, self._edges)
            else:
                self.board.unlisten(self._request.fd)

    def _release(self) -> None:
        if self._request is not None:
            self._listen(watched=False)
            self._request.release()
            self._request = None

    def _edges(self, _events: int) -> None:
        """The kernel has seen some, in their order: a short pulse is two."""
        rising = self._gpiod.EdgeEvent.Type.RISING_EDGE
        with self.changed:
            if self._request is None or not self._request.wait_edge_events(0):
                return
            for event in self._request.read_edge_events():
                self._edge(int(event.event_type == rising))


def chip_lines(chip: str) -> Sequence[ChipLine]:
    """All lines of a chip, with their names. Raises what ChipLine raises."""
    with _gpiod().Chip(_path(chip)) as opened:
        count = opened.get_info().num_lines
    return [ChipLine(chip, offset) for offset in range(count)]
