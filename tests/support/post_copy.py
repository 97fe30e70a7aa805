"""A back-end in post-copy, in this process, with a driver that withholds pages."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Any

from vhost_user import Device, Request, VhostUserBackend, VhostUserDaemon
from vhost_user.frontend import Frontend, VirtioDriver
from vhost_user.frontend.postcopy import PAGE, PostCopy
from vhost_user.spec.features import DeviceStatus

CONTENT = bytes(range(256)) * 16


class Echo(Device, type="rng"):
    """Answers with what it was asked, backwards."""

    def handle(self, request: Request) -> None:
        request.write(request.read()[::-1])


class Served:
    """A daemon, and a driver in post-copy on it."""

    def __init__(self, stack: ExitStack, packed: bool) -> None:
        self.stack = stack
        self._packed = packed
        self.pages = PostCopy()
        stack.callback(self.pages.close)
        self.daemon: VhostUserDaemon

    def serve(
        self, device: VhostUserBackend, kind: type[Any] = VirtioDriver, *, up: bool = True, **options: Any
    ) -> Any:
        ours, theirs = socket.socketpair()
        self.daemon = self.stack.enter_context(VhostUserDaemon("test", device))
        self.daemon.start_connection(theirs)
        options.setdefault("queue_size", 16)
        driver = kind(ours, postcopy=self.pages, packed=self._packed, **options)
        self.stack.callback(driver.close)
        return driver.bring_up() if up else driver

    def frontend(self, device: VhostUserBackend) -> Frontend:
        ours, theirs = socket.socketpair()
        self.daemon = self.stack.enter_context(VhostUserDaemon("test", device))
        self.daemon.start_connection(theirs)
        front = Frontend(ours)
        self.stack.callback(front.close)
        front.get_features()
        front.set_protocol_features(front.get_protocol_features())
        front.set_owner()
        return front


def ask(driver: VirtioDriver, pages: PostCopy, *, indirect: bool) -> tuple[int, int]:
    """Hand in a request whose pages are all missing: where its answer will be, and how long."""
    memory = driver.memory
    source, target = memory.allocate(PAGE, PAGE), memory.allocate(2 * PAGE, PAGE)
    memory.write(source, CONTENT)
    memory.write(target, b"old" * 2000)
    ring = driver.queues[0].ring
    ring.add([(source, PAGE)], [(target, PAGE), (target + PAGE, PAGE)], indirect=indirect)
    pages.withhold(source, PAGE)
    pages.withhold(target, 2 * PAGE)
    ring.publish()
    ring.kick()
    return source, target


def answered(driver: VirtioDriver, timeout: float = 10.0) -> int:
    """The length of the next answer."""
    end = time.monotonic() + timeout
    while (done := driver.queues[0].ring.poll()) is None:
        assert time.monotonic() < end, "no answer"
        time.sleep(0.001)
    return int(done[1])


def areas_of(driver: VirtioDriver) -> list[int]:
    """The pages that the areas of the first ring lie in."""
    ring = driver.queues[0].ring
    return sorted(
        {
            address // PAGE * PAGE
            for address in (ring.descriptor_address, ring.driver_address, ring.device_address)
        }
    )


def started_without_pages(served: Served, device: VhostUserBackend) -> VirtioDriver:
    """A ring with a request in it that was started while its pages, and those of the request, are missing."""
    driver: VirtioDriver = served.serve(device, up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    for page in areas_of(driver):
        served.pages.withhold(page, PAGE)
    driver.start_queue(0)
    driver.enable_queue(0)
    driver.set_status(DeviceStatus.DRIVER_OK)
    return driver
