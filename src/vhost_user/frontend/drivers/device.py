"""What the drivers of all device types have in common."""

from typing import Any, ClassVar

from vhost_user.frontend.driver import Target, VirtioDriver


class DeviceDriver(VirtioDriver):
    """A driver that is up when its constructor returns; use it in a ``with`` block or call ``close``.

    ``target`` and the options are those of :class:`VirtioDriver`. ``FEATURES`` are the device's feature bits
    that the driver wants when offered, ``QUEUES`` how many queues it takes (None: a constructor argument
    decides).
    """

    FEATURES: ClassVar[int] = 0
    QUEUES: ClassVar[int] = 1

    def __init__(self, target: Target, **options: Any) -> None:
        options.setdefault("num_queues", self.QUEUES)
        options.setdefault("features", self.FEATURES)
        super().__init__(target, **options)
        self.bring_up()
        try:
            self.ready()
        except BaseException:
            self.close()
            raise

    def ready(self) -> None:
        """The queues run: read the configuration, leave buffers with the device."""
