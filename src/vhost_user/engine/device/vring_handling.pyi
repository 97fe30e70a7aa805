"""Requests of a vring to a handler; everything in it is for the engine alone."""

from vhost_user.engine.device.vring_flow import VringFlow

class VringHandling(VringFlow): ...
