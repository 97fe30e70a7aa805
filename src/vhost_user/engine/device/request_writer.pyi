"""The device-writable part of a request; see request.pyi."""

from vhost_user.engine.device.request_reader import RequestReader

class RequestWriter(RequestReader): ...
