"""A scripted front-end over a real socket, a back-end that writes down what it is asked, and leak checks."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.children import children
from tests.support.descriptors import open_fds
from tests.support.front_end import PATIENCE, FrontEnd, until
from tests.support.iommu import DriveIommu
from tests.support.post_copy import Served
from tests.support.state_transfers import Channel, Pipes
from tests.support.vmm import PAGE, BeginVmm, Vmm
from vhost_user import Device, VhostUserBackend, VhostUserDaemon
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.frontend import VirtioDriver
from vhost_user.frontend.iommu import Iommu
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


@pytest.fixture
def frame() -> Iterator[int]:
    """A file of four pages."""
    fd = os.memfd_create("frame")
    os.truncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def begin_vmm(stage: Stage) -> Iterator[BeginVmm]:
    """Make the front-end of a daemon's next session; it waits for the one before to end."""
    with ExitStack() as stack:

        def start(daemon: VhostUserDaemon, **options: Any) -> Vmm:
            ours, theirs = socket.socketpair()
            assert daemon.wait(20)
            daemon.start_connection(theirs)
            vmm = Vmm(stage.front_end(ours), **options)
            stack.callback(vmm.channel.close)
            stack.callback(vmm.handler.answer.set)
            return vmm

        yield start


@pytest.fixture(params=["pipe", "socket"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    """Make pipes or socket pairs for a transfer of state."""
    with ExitStack() as stack:
        yield lambda: Pipes(stack, sockets=request.param == "socket")


@pytest.fixture
def pipe() -> Iterator[Channel]:
    """As ``channel``, pipes alone."""
    with ExitStack() as stack:
        yield lambda: Pipes(stack)


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    """What holds for both kinds of ring is tested on both."""
    return bool(request.param)


@pytest.fixture
def behind_iommu(packed: bool) -> Iterator[DriveIommu]:
    """Serve a device and bring a driver up on it, behind an IOMMU."""
    with ExitStack() as stack:

        def make(device: Device, iommu: Iommu, kind: type[Any] = VirtioDriver, **options: Any) -> Any:
            ours, theirs = socket.socketpair()
            daemon = stack.enter_context(VhostUserDaemon("test", device, iommu=True))
            daemon.start_connection(theirs)
            options.setdefault("queue_size", 16)
            driver = kind(ours, iommu=iommu, packed=packed, **options)
            stack.callback(driver.close)
            return driver.bring_up()

        yield make


@pytest.fixture
def served(packed: bool) -> Iterator[Served]:
    """Serve a device to a driver whose pages are on their way."""
    with ExitStack() as stack:
        yield Served(stack, packed)
    until(lambda: not children(), "the end of the pager")
