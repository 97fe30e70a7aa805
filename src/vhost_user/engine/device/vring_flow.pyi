"""The way of requests through a vring; and what ends it."""

from vhost_user.engine.device.vring_control import VringControl
from vhost_user.engine.errors import RingError

class VringFlow(VringControl):
    def refuse(self, error: RingError) -> None: ...
