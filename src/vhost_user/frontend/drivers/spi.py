"""Driver of the SPI controller (virtio 1.4 section 5.21)."""

from __future__ import annotations

from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.spec.spi import SpiConfig, SpiHeader, SpiResult

_RESULT = 1


class SpiDriver(DeviceDriver):
    r"""``with SpiDriver(socket) as spi: spi.write_read(b"\\x9f", 3)``.

    Each method takes the fields of :class:`vhost_user.spec.spi.SpiHeader` by name (``mode=3, freq=1_000``).
    ``keep`` leaves the chip selected, so that the next transfer goes on in the same frame. Raises DeviceError
    when the device says no, with its ``status``.
    """

    QUEUES: ClassVar[int] = 1

    def __init__(self, target: Target, **options: Any) -> None:
        self.config = SpiConfig()
        """What the controller can do."""
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the configuration."""
        self.config = SpiConfig.unpack(self.read_config(0, SpiConfig.SIZE))

    def exchange(self, data: bytes, chip: int = 0, *, keep: bool = False, **fields: Any) -> bytes:
        """Full duplex: write ``data``, and give as many bytes, which came in meanwhile."""
        return self._transfer(chip, keep, fields, data, len(data))

    def write(self, data: bytes, chip: int = 0, *, keep: bool = False, **fields: Any) -> None:
        """Half duplex: write ``data``."""
        self._transfer(chip, keep, fields, data, 0)

    def read(self, size: int, chip: int = 0, *, keep: bool = False, **fields: Any) -> bytes:
        """Half duplex: read ``size`` bytes."""
        return self._transfer(chip, keep, fields, b"", size)

    def write_read(self, command: bytes, size: int, chip: int = 0, **fields: Any) -> bytes:
        """Write a command and read its answer, in one frame: two transfers."""
        self.write(command, chip, keep=True, **fields)
        return self.read(size, chip, **fields)

    def _transfer(self, chip: int, keep: bool, fields: dict[str, Any], data: bytes, size: int) -> bytes:
        header = SpiHeader(**{"chip_select_id": chip, "cs_change": int(not keep), **fields})
        readable = [header.pack(), data] if data else [header.pack()]
        writable = [size, _RESULT] if size else [_RESULT]
        answer = self.queues[0].request(readable, writable, timeout=self.timeout)
        if answer[-1:] != bytes((SpiResult.TRANS_OK,)) or len(answer) != size + _RESULT:
            status = answer[-1] if answer else -1
            raise DeviceError(f"SPI transfer to chip {chip}: result {status}", status=status)
        return answer[:size]
