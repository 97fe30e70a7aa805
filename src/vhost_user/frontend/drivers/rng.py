"""Driver of the entropy device (virtio 1.4 section 5.4)."""

from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError


class RngDriver(DeviceDriver):
    """``with RngDriver("/run/rng.sock") as rng: rng.read(64)``."""

    def read_some(self, size: int, *, timeout: float | None = None) -> bytes:
        """What one request for ``size`` bytes gives: 1 to ``size`` bytes.

        Raises DeviceError when it gives none.
        """
        data = self.queues[0].request(writable=size, timeout=timeout)
        if not data:
            raise DeviceError(
                f"the device used a buffer of {size} bytes without writing to it: at least one byte is due"
            )
        return data

    def read(self, size: int, *, timeout: float | None = None) -> bytes:
        """Exactly ``size`` bytes, in as many requests as the device makes of it."""
        parts = bytearray()
        while len(parts) < size:
            parts += self.read_some(size - len(parts), timeout=timeout)
        return bytes(parts)
