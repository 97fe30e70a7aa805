"""An SPI controller in a real guest: Linux's own driver (spi-virtio), spidev and spi-tools.

No kernel of Debian has the driver: it is Linux 7's, compiled for 6.1 (``vhost_user.testing.guest_spi``).
"""

from __future__ import annotations

import pytest

from vhost_user.devices import Flash, Spi, SpiModel, Transfer
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.spi import SpiMode
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_drivers import locate_driver_kernel

pytestmark = pytest.mark.guest
BIND = "echo spidev >$d/driver_override; echo $d >/sys/bus/spi/drivers/spidev/bind"


class Noted(SpiModel):
    """Notes what it hears, with mode and speed."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, int, int]] = []

    def transfer(self, transfer: Transfer) -> bytes:
        self.heard.append((transfer.data, transfer.header.mode, transfer.header.freq))
        return super().transfer(transfer)

    def exchange(self, byte: int) -> int:
        return byte ^ 0xFF


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_memory_is_read_and_programmed_by_spidev(virtio_guest: BootGuest, packed: bool) -> None:
    flash, noted = Flash(1 << 16, content=b"hello from the flash" + b"\xff" * 1000), Noted()
    controller = Spi(flash, None, noted, framing="linux")
    controller.packed = packed
    guest = virtio_guest(
        controller,
        kernel=locate_driver_kernel(module="spi-virtio"),
        programs=("spi-pipe", "spi-config"),
    )
    guest.run(f"cd /sys/bus/spi/devices; for d in *; do {BIND}; done")
    assert guest.run("cd /dev; echo spidev*") == "spidev0.0 spidev0.1 spidev0.2\n"

    def pipe(chip: int, data: bytes, options: str = "") -> bytes:
        written = "".join(f"\\{byte:03o}" for byte in data)
        command = f"printf '{written}' | spi-pipe -d /dev/spidev0.{chip} -b {len(data)} -n 1 {options}"
        return bytes.fromhex(guest.run(f"{command} | od -An -v -tx1").replace("\n", ""))

    assert bool(controller.driver_features & VirtioFeature.RING_PACKED) is packed
    assert pipe(0, b"\x9f\0\0\0") == b"\xff\xef\x40\x10"
    assert pipe(0, b"\x03\0\0\x06" + bytes(8))[4:] == b"from the"
    pipe(0, b"\x06")
    pipe(0, b"\x02\0\x02\0programmed by the guest")
    assert pipe(0, b"\x05\0\0")[1:] == b"\x01\x00"
    assert flash.read(0x200, 23) == b"programmed by the guest"
    assert pipe(1, b"anybody?") == b"\xff" * 8
    guest.run("spi-config -d /dev/spidev0.2 -m 3 -l 1 -s 500000")
    assert pipe(2, b"\x0f\xaa", "-s 400000") == b"\xf0\x55"
    assert noted.heard[-1] == (b"\x0f\xaa", SpiMode.CPHA | SpiMode.CPOL | SpiMode.LSB_FIRST, 400_000)
    large = guest.run("head -c 4096 /dev/zero | spi-pipe -d /dev/spidev0.2 -b 4096 -n 1 | md5sum").split()[0]
    assert large == guest.run("head -c 4096 /dev/zero | tr '\\000' '\\377' | md5sum").split()[0]
