"""A scripted front-end over a real socket, a back-end that writes down what it is asked, and leak checks."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.front_end import PATIENCE, FrontEnd
from vhost_user import VhostUserBackend, VhostUserDaemon
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.protocol.trace import Tracer
from vhost_user.protocol.transport import Connection


class Stage:
    """Makes daemons and front-ends, and ends them with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def daemon(
        self, backend: VhostUserBackend, name: str = "test", tracer: Tracer | None = None
    ) -> VhostUserDaemon:
        return self._stack.enter_context(VhostUserDaemon(name, backend, tracer=tracer))

    def front_end(self, sock: socket.socket | Connection, **options: Any) -> FrontEnd:
        connection = sock if isinstance(sock, Connection) else Connection(sock, timeout=PATIENCE)
        front = FrontEnd(connection, **options)
        self._stack.callback(front.close)
        return front

    def serve(self, backend: VhostUserBackend, **options: Any) -> tuple[VhostUserDaemon, FrontEnd]:
        daemon = self.daemon(backend)
        return daemon, self.connect(daemon, **options)

    def connect(self, daemon: VhostUserDaemon, **options: Any) -> FrontEnd:
        ours, theirs = socket.socketpair()
        daemon.start_connection(theirs)
        return self.front_end(ours, **options)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


def holdings() -> set[str]:
    """Descriptors, threads and mappings of this process, each by name."""
    threads = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    mappings = {f"mapping {number}" for number in range(live_mappings())}
    return {f"fd {fd}" for fd in open_fds()} | threads | mappings


@pytest.fixture(autouse=True)
def _nothing_leaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Each test leaves no descriptor, thread or mapping behind."""
    before = holdings()
    yield
    # Records hold exceptions, these hold frames, and those everything.
    caplog.get_records("call").clear()
    if holdings() - before:
        gc.collect()
    assert holdings() - before == set()
