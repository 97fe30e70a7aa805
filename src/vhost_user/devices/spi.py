"""An SPI controller (virtio 1.4, 5.21), with models at its chip selects or chips of this machine.

class Thermometer(SpiModel):
    def exchange(self, byte): ...

serve(Spi(Flash(1 << 20), Thermometer()))
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vhost_user.backend import U8, U32, Config, Device, Queue
from vhost_user.devices.result_byte import RESULT, refuse
from vhost_user.devices.spi_chip import EVERYTHING, SpiModel, Transfer, complaint, union, word_size
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.spi import SpiConfig, SpiHeader, SpiResult

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MAX_TRANSFER = 1 << 20
"""Bytes of one transfer."""
MAX_CHIPS = 255

Framing: TypeAlias = Literal["virtio", "linux"]


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.spi.SpiConfig` has it."""

    cs_max_number = U8()
    cs_change_supported = U8()
    tx_nbits_supported = U8()
    rx_nbits_supported = U8()
    bits_per_word_mask = U32()
    mode_func_supported = U32()
    max_freq_hz = U32()
    max_word_delay_ns = U32()
    max_cs_setup_ns = U32()
    max_cs_hold_ns = U32()
    max_cs_inactive_ns = U32()


class Spi(Device, type="spi"):
    """A controller with ``chips`` at its chip selects, in their order; None is a select where nobody is.

    A frame is what a chip hears from being selected to being deselected. With the framing of the
    specification, "virtio", a transfer whose cs_change is 1 ends it, and the next one is in the same frame
    otherwise. Linux's driver hands on its own cs_change, and does not say where a message ends: with "linux"
    a transfer ends the frame unless its cs_change is 1. A transfer for another chip ends it in any case, and
    so do one that fails, and a reset. Raises ValueError without a chip, or for more than a driver can number.
    """

    config = Space()
    requests = Queue(0)

    def __init__(self, *chips: SpiModel | None, framing: Framing = "virtio") -> None:
        super().__init__()
        if not 1 <= len(chips) <= MAX_CHIPS:
            raise ValueError(f"{len(chips)} chips: there must be at least one, and {MAX_CHIPS} at most")
        limits = union([chip.limits for chip in chips if chip is not None] or [EVERYTHING])
        nobody = SpiModel()
        nobody.limits = limits
        self.chips: Sequence[SpiModel] = tuple(nobody if chip is None else chip for chip in chips)
        """By their chip selects."""
        self.framing = framing
        self.selected: int | None = None
        """The chip that is selected at this moment."""
        for name in limits.__slots__:
            setattr(self.config, name, getattr(limits, name))
        self.config.cs_max_number = len(self.chips)

    def shutdown(self) -> None:
        """Chips of this machine are closed."""
        for chip in self.chips:
            chip.close()

    def reset(self) -> None:
        """The frame of this driver ends with it; chips keep their power."""
        try:
            self._deselect()
        except OSError as error:
            _report.warning("a frame cannot be ended: %s", error)

    def save_state(self) -> object:
        """Which chip is selected, and what the chips are."""
        return {"selected": self.selected, "chips": [chip.save_state() for chip in self.chips]}

    def load_state(self, state: Any, version: int) -> None:
        """Go on with that. Raises ValueError for what is no such state."""
        del version  # there was one so far
        if not isinstance(state, dict) or not isinstance(state.get("chips"), list):
            raise ValueError("the state of an SPI controller is about its chips")  # noqa: TRY004  # as below
        selected = state.get("selected")
        known = selected is None or (type(selected) is int and 0 <= selected < len(self.chips))
        if len(state["chips"]) != len(self.chips) or not known:
            raise ValueError(f"the state has {len(state['chips'])} chips, and {selected!r} is selected")
        for chip, saved in zip(self.chips, state["chips"], strict=True):
            chip.load_state(saved)
        self.selected = selected

    @requests.handler
    def asked(self, request: Request) -> None:
        """Carry one transfer out."""
        header, data, wrong = self._looked_at(request)
        if wrong is not None:
            _report.warning("queue 0, head %d: a transfer is refused: %s", request.head, wrong)
            refuse(request, SpiResult.PARAM_ERR, most=MAX_TRANSFER)
            return
        last = bool(header.cs_change) == (self.framing == "virtio")
        try:
            answer = self._perform(header, data, last)
        except OSError as error:
            _report.warning("a transfer with chip %d fails: %s", header.chip_select_id, error)
            refuse(request, SpiResult.TRANS_ERR, most=MAX_TRANSFER)
        else:
            request.write(answer[: request.writable - RESULT] + bytes((SpiResult.TRANS_OK,)))

    def fail(self, request: Request, exception: BaseException) -> None:
        """What could not be read, and a model with a fault."""
        del exception
        refuse(request, SpiResult.TRANS_ERR, most=MAX_TRANSFER)
        request.complete()

    def _looked_at(self, request: Request) -> tuple[SpiHeader, bytes, str | None]:
        """Header, data to send, and what is wrong in words."""
        nothing = SpiHeader()
        size, room = request.readable - SpiHeader.SIZE, request.writable - RESULT
        if size < 0 or room < 0:
            return nothing, b"", "it has no header, or no result"
        if size > MAX_TRANSFER or room > MAX_TRANSFER or not (size or room):
            return nothing, b"", f"it sends {size} bytes and receives {room}"
        header = SpiHeader.unpack(request.read(SpiHeader.SIZE))
        if size and room and size != room:
            return header, b"", f"it sends {size} bytes and receives {room} meanwhile"
        if header.chip_select_id >= len(self.chips):
            return header, b"", f"there is no chip {header.chip_select_id}"
        wrong = complaint(header, self.chips[header.chip_select_id].limits)
        if wrong is None and max(size, room) % word_size(header):
            wrong = f"{max(size, room)} bytes of words of {word_size(header)}"
        if wrong is not None:
            return header, b"", wrong
        return header, request.read(size) if size else bytes(room), None

    def _perform(self, header: SpiHeader, data: bytes, last: bool) -> bytes:
        if self.selected != header.chip_select_id:
            self._deselect()
        chip = self.chips[header.chip_select_id]
        whole = False
        try:
            if self.selected is None:
                self.selected = header.chip_select_id
                chip.select()
            answer = chip.transfer(Transfer(header, data, last))
            whole = not last
        finally:
            if not whole:
                self._deselect()
        if len(answer) != len(data):
            raise OSError(f"{chip!r} answered {len(answer)} bytes to {len(data)}")
        return answer

    def _deselect(self) -> None:
        chip, self.selected = self.selected, None
        if chip is not None:
            self.chips[chip].deselect()


assert len(Space()) == SpiConfig.SIZE
