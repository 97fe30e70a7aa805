"""The way of requests through a vring; and what ends it."""

from vhost_user.engine.device.vring_translation import VringTranslation

class VringFlow(VringTranslation): ...
