"""The way of requests through a vring; everything in it is for the engine alone."""

from vhost_user.engine.device.vring_inflight import VringInflight

class VringFlow(VringInflight): ...
