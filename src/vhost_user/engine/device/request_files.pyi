"""Requests and files; see request.pyi."""

from vhost_user.engine.device.request_writer import RequestWriter

class RequestFiles(RequestWriter): ...
