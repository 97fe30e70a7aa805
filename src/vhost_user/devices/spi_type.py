"""The SPI controller, described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, QemuDevice, option
from vhost_user.device_types.options import size
from vhost_user.spec.spi import SpiHeader, SpiResult

if TYPE_CHECKING:
    from vhost_user.devices.spi import Spi
    from vhost_user.devices.spi_chip import SpiModel

_DEVICE_BITS = (1 << 24) - 1
_ROOM = 16
_NO_LANES = 3


@dataclass(frozen=True)
class SpiOptions:
    """The options of ``vhost-user serve spi``."""

    device: str | None = option(
        None,
        help="chips of this machine, from chip select 0 on (needs spidev, extra: spi)",
        metavar="/dev/spidevX.Y[,…]",
    )
    flash: str | None = option(
        None,
        help="flash memories behind them: an empty one of this size, or what is in a file",
        metavar="SIZE|FILE[,…]",
        shown_default="1M, unless there are other chips",
    )
    framing: Literal["virtio", "linux"] = option(
        "virtio", help="what cs_change of a transfer says: as specified, or as Linux's driver hands it on"
    )


def _build(options: SpiOptions) -> Spi:
    from vhost_user.devices.spi import Spi  # noqa: PLC0415  # a description is read without the device

    chips = [*_of_this_machine(options.device)]
    memories = options.flash if options.flash is not None or chips else "1M"
    return Spi(*chips, *_memories(memories), framing=options.framing)


def _of_this_machine(words: str | None) -> Iterator[SpiModel]:
    if words:
        from vhost_user.devices.spi_host import HostChip  # noqa: PLC0415  # it needs a library

        for word in words.split(","):
            yield HostChip(word)


def _memories(words: str | None) -> Iterator[SpiModel]:
    from vhost_user.devices.spi_flash import Flash  # noqa: PLC0415  # as above

    for word in words.split(",") if words else []:
        try:
            length = size(word)
        except OptionError:
            yield Flash(file=word)
        else:
            yield Flash(length)


def _of_no_lanes() -> bytes:
    """A transfer on three lanes, which no controller has: no chip hears of it."""
    return SpiHeader(tx_nbits=_NO_LANES, rx_nbits=_NO_LANES).pack()


def _wrong(data: bytes, length: int) -> str | None:
    if length not in {0, len(data)} or data[-1] != SpiResult.PARAM_ERR or any(data[:-1]):
        return f"a transfer on three lanes is answered by {data.hex()}, used.len {length}, not by PARAM_ERR"
    return None


DEVICE_TYPE = DeviceType(
    name="spi",
    title="an SPI controller: flash memories, models, chips of this machine",
    device="vhost_user.devices.spi:Spi",
    options=SpiOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/spi.sock --flash=4M",
        "--socket-path=/tmp/spi.sock --flash=bios.bin --framing=linux",
        "--socket-path=/tmp/spi.sock --device=/dev/spidev0.0,/dev/spidev0.1",
    ),
    qemu=QemuDevice("vhost-user-spi-pci", since=(11, 1)),
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=45,queue_sizes=[1024]",
        "User Mode Linux": "virtio_uml.device={socket}:45",
    },
    guest_modules=("spi_virtio",),
    config_space=True,
    harmless=HarmlessRequest(readable=_of_no_lanes, writable=lambda: _ROOM + 1, wrong=_wrong),
    resembles=lambda features, queues: not features & _DEVICE_BITS and queues == 1,
)
