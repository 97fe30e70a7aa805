"""A front-end with a back-channel, and a device that shares memory and objects with it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from tests.support.devices import Echo
from tests.support.front_end import FrontEnd
from vhost_user import RequestRefused, SharedMemory, SharedObjects
from vhost_user.frontend.back_channel import BackChannel, BackChannelHandler
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import SharedUuid

PAGE = 4096


class Screen(Echo):
    """Shares memory and objects."""

    shared_memory = SharedMemory({1: 8 * PAGE, 7: PAGE})
    shared_objects = SharedObjects()


class VmmHandler(BackChannelHandler):
    """The front-end's side, which can be slow."""

    def __init__(self) -> None:
        super().__init__(shmem={1: 8 * PAGE, 7: PAGE})
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.answer.set()

    def shmem_map(self, request: Any, fd: int) -> None:
        self.asked.set()
        assert self.answer.wait(20)
        super().shmem_map(request, fd)


class Vmm:
    """A front-end with a back-channel, which maps what it is asked to."""

    def __init__(self, front: FrontEnd, *, channel: bool = True) -> None:
        self.front = front
        self.handler = VmmHandler()
        front.negotiate()
        self.channel = BackChannel(front.session.negotiation, self.handler)
        if channel:
            front.call(Ask.SET_BACKEND_REQ_FD, None, [self.channel.backend_socket.fileno()])
            self.channel.sent()

    def run(self) -> None:
        self.front.share_memory()
        self.front.start_ring()

    def object(self, identifier: uuid.UUID) -> int | None:
        """A descriptor of what the back-end exports."""
        front, payload = self.front, SharedUuid.of(identifier)
        try:
            reply = front.connection.call(front.session, Ask.GET_SHARED_OBJECT, payload, timeout=20)
        except RequestRefused:  # no descriptor (C097)
            return None
        assert reply is not None
        with reply.fds as fds:
            return fds.take_one()


BeginVmm = Callable[..., Vmm]
