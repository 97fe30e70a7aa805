"""Entry points that lead to something else than a description of that name."""

from vhost_user.device_types import DeviceType

NUMBER = 7
DEVICE_TYPE = DeviceType(name="rng", title="not the one that is meant")
