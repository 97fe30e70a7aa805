"""The driver's side of a packed ring (virtio 1.4 section 2.8), with raw access for tests that break rules."""

from typing import final

from vhost_user.engine.driver import DriverQueue

@final
class PackedDriverQueue(DriverQueue):
    """A packed ring of any size up to 32768.

    ``start`` 0 stands for 0x80008000: index 0, both wrap counters 1 (V024).
    """

    @property
    def avail_position(self) -> tuple[int, int]:
        """(index, wrap counter) of the next descriptor to make available."""
    @property
    def used_position(self) -> tuple[int, int]:
        """(index, wrap counter) of the next used descriptor expected."""
    def write_descriptor(self, i: int, address: int, length: int, id: int, flags: int) -> None:  # noqa: A002  # the field's name
        """Flags are stored last, with release."""
    def read_descriptor(self, i: int) -> tuple[int, int, int, int]:
        """(address, length, id, flags)."""
    @property
    def driver_event_fields(self) -> tuple[int, int]:
        """(offset and wrap, flags) of the driver event structure."""
    def set_driver_event(self, offset_wrap: int, flags: int) -> None: ...
    @property
    def device_event(self) -> tuple[int, int]:
        """(offset and wrap, flags) of the device event structure."""
    def set_device_event(self, offset_wrap: int, flags: int) -> None: ...
