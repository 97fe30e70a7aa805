"""A device with a state, and a front-end that moves it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.support.front_end import REQUEST as ASK
from tests.support.front_end import FrontEnd
from vhost_user import U16, BufferQueue, Config, Device, Queue, Request
from vhost_user.spec.structs import TransferState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

SAVE, LOAD = 0, 1


class LinesConfig(Config):
    lines = U16(4)
    interval = U16(1000, writable=True)


class Counter(Device, type="gpio", queues=2):
    """Counts its requests, and keeps bytes that somebody gave it."""

    config = LinesConfig()
    requests = Queue(0)
    events = BufferQueue(1)
    state_version = 2

    def __init__(self) -> None:
        self.count = 0
        self.store = b""
        self.resets = 0
        self.versions: list[int] = []

    @requests.handler
    def request(self, request: Request) -> None:
        self.count += 1
        request.write(self.count.to_bytes(8, "little"))

    def reset(self) -> None:
        self.resets += 1

    def save_state(self) -> object:
        return {"count": self.count, "store": self.store}

    def load_state(self, state: Any, version: int) -> None:
        self.versions.append(version)
        self.count = state["count"] + 0
        if not isinstance(state["store"], bytes):
            raise TypeError("store is made of bytes")
        self.store = state["store"]


class Pipes:
    """Both ends of a pipe or a socket pair, in the roles of a transfer."""

    def __init__(self, stack: ExitStack, *, sockets: bool = False) -> None:
        if sockets:
            one, other = socket.socketpair()
            self.reading, self.writing = one.detach(), other.detach()
        else:
            self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}
        stack.callback(self.close)

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self._open):
            self._open.remove(fd)
            os.close(fd)


Channel = Callable[[], Pipes]


def begin(front: FrontEnd, direction: int, fd: int) -> None:
    assert front.call(ASK.SET_DEVICE_STATE_FD, TransferState(direction), [fd]).no_fd


def save(front: FrontEnd, pipes: Pipes) -> bytes:
    begin(front, SAVE, pipes.writing)
    pipes.close(pipes.writing)
    with os.fdopen(os.dup(pipes.reading), "rb") as file:
        state = file.read()
    front.call(ASK.CHECK_DEVICE_STATE)
    return state


def write_all(pipes: Pipes, data: bytes) -> None:
    with os.fdopen(os.dup(pipes.writing), "wb") as file:
        file.write(data)
    pipes.close(pipes.writing)


def load(front: FrontEnd, pipes: Pipes, state: bytes) -> None:
    begin(front, LOAD, pipes.reading)
    pipes.close(pipes.reading)
    writer = threading.Thread(target=write_all, args=(pipes, state))
    writer.start()
    writer.join(10)
    front.call(ASK.CHECK_DEVICE_STATE)


def alive(front: FrontEnd) -> None:
    assert front.call(ASK.GET_FEATURES).value


def negotiated(stage: Stage, device: Device) -> FrontEnd:
    _, front = stage.serve(device)
    front.negotiate()
    return front
