"""A driver of a flash memory, and a test of it with no memory anywhere. Run it with pytest."""

import pytest

from vhost_user.devices import Flash, Spi
from vhost_user.frontend import SpiDriver
from vhost_user.testing.virtio import Virtio


class FlashDriver:
    """What is tested here: it must enable each change, wait for it, and stay within a page."""

    def __init__(self, spi: SpiDriver, *, page: int = 256) -> None:
        self.spi, self.page = spi, page

    def change(self, command: int, address: int, data: bytes = b"") -> None:
        self.spi.write(b"\x06")
        self.spi.write(bytes((command, *address.to_bytes(3, "big"))) + data)
        while self.spi.write_read(b"\x05", 1)[0] & 1:
            pass

    def erase(self, address: int) -> None:
        self.change(0x20, address)

    def write(self, address: int, data: bytes) -> None:
        while data:
            fits = self.page - address % self.page
            self.change(0x02, address, data[:fits])
            address, data = address + fits, data[fits:]


@pytest.mark.parametrize("address", [0, 0x10F0])
def test_a_text_over_two_pages(virtio: Virtio, address: int) -> None:
    flash = Flash(1 << 16, content=bytes(1 << 16))
    driver = FlashDriver(virtio.attach(Spi(flash)).drive(SpiDriver))
    driver.erase(address)
    driver.write(address, b"hello " * 80)
    assert flash.read(address, 480) == b"hello " * 80
