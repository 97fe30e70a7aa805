"""Driver of the I2C adapter (virtio 1.4 section 5.16)."""

from collections.abc import Sequence
from typing import ClassVar

from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.spec.i2c import I2cFeature, I2cFlag, I2cHeader, I2cStatus

Transfer = bytes | int
"""Bytes to write, or how many to read."""


class I2cDriver(DeviceDriver):
    r"""``with I2cDriver(socket) as bus: bus.transfer(0x50, [b"\\x00", 16])``. Addresses have 7 bits.

    Raises DeviceError when the device reports an error.
    """

    FEATURES: ClassVar[int] = I2cFeature.ZERO_LENGTH_REQUEST

    def write(self, address: int, data: bytes) -> None:
        """Write ``data`` to a device of the bus."""
        self.transfer(address, [data])

    def read(self, address: int, size: int) -> bytes:
        """Read ``size`` bytes from a device of the bus."""
        return self.transfer(address, [size])[0]

    def transfer(self, address: int, transfers: Sequence[Transfer]) -> list[bytes]:
        """Several transfers as one group: after a failure the rest fails as well.

        Returns what each of the reading ones read.
        """
        every: list[tuple[Transfer, Pending]] = []
        queue = self.queues[0]
        for position, transfer in enumerate(transfers):
            more = I2cFlag.FAIL_NEXT if position + 1 < len(transfers) else 0
            read = isinstance(transfer, int)
            header = I2cHeader(address << 1, more | (I2cFlag.READ if read else 0)).pack()
            if isinstance(transfer, int):
                readable, writable = [header], [transfer, 1] if transfer else [1]
            else:
                readable, writable = [header, transfer] if transfer else [header], [1]
            every.append((transfer, queue.submit_when_free(readable, writable, self.timeout)))
        queue.publish()
        queue.wait_for([pending for _, pending in every], self.timeout)
        results = []
        failed = -1
        for position, (transfer, pending) in enumerate(every):
            data = pending.data
            pending.release()
            if data[-1] != I2cStatus.OK and failed < 0:
                failed = position
            if isinstance(transfer, int):
                results.append(data[:-1])
        if failed >= 0:
            raise DeviceError(f"I2C transfer {failed} to address {address:#x} failed", status=I2cStatus.ERR)
        return results
