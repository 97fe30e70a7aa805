"""The device-readable part of a request; see request.pyi."""

from vhost_user.engine.device.request_state import RequestState

class RequestReader(RequestState): ...
