"""A driver whose memory is logged for a migration, and the log."""

from __future__ import annotations

from vhost_user.conformance.context import MEMORY, CheckContext
from vhost_user.conformance.raw_requests import complete, layout
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Log, VringAddressFlag

GUEST = 0x100000
LOG_ADDRESS = 0x3FF000
"""Guest address at which writes to the used ring are logged: no memory is there."""
PAGE = 4096
LOG_SIZE = (GUEST + MEMORY) // PAGE // 8 + PAGE


class LogFile:
    """A dirty log in a file that stays ours to look at."""

    def __init__(self) -> None:
        self.region = DriverRegion(LOG_SIZE, guest_address=0)
        self.view = memoryview(self.region)

    def dirty(self, address: int) -> bool:
        """Whether the page of a guest address is marked."""
        page = address // PAGE
        return bool(self.view[page // 8] >> page % 8 & 1)

    def clear(self) -> None:
        """Take all marks back."""
        self.view[:] = bytes(len(self.view))

    @property
    def any(self) -> bool:
        """Whether there is a mark."""
        return any(self.view)


def unlogged_driver(context: CheckContext) -> tuple[VirtioDriver, DriverRegion]:
    """A running driver of a back-end that can log, which does not yet; and its memory."""
    context.need(ProtocolFeature.LOG_SHMFD)
    context.need_feature(VirtioFeature.LOG_ALL)
    context.need_io()
    region = DriverRegion(MEMORY, guest_address=GUEST)
    return context.driver(memory=DriverMemory([region])), region


def logged_driver(context: CheckContext, *, used: bool = True) -> tuple[VirtioDriver, LogFile]:
    """A running driver whose writes are logged, the used ring's too."""
    driver, _ = unlogged_driver(context)
    log = LogFile()
    set_log(driver, log.region.fd, LOG_SIZE)
    switch_on(context, driver, used=used)
    log.clear()
    return driver, log


def set_log(driver: VirtioDriver, fd: int, size: int) -> None:
    """SET_LOG_BASE, answered always: an ack besides is not asked for (what comes then is C003's business)."""
    driver.frontend.call(FrontendRequest.SET_LOG_BASE, Log(size, 0), [fd], need_reply=False)


def switch_on(context: CheckContext, driver: VirtioDriver, *, used: bool = True) -> None:
    """LOG_ALL, and the log flag of the ring that requests go to."""
    driver.frontend.set_features(driver.frontend.features | VirtioFeature.LOG_ALL)
    if used:
        index = context.queue(driver).index
        driver.send_addresses(index, flags=VringAddressFlag.LOG, log_address=LOG_ADDRESS)
    driver.frontend.barrier()


def switch_off(context: CheckContext, driver: VirtioDriver) -> None:
    """Neither."""
    driver.frontend.set_features(driver.frontend.features & ~int(VirtioFeature.LOG_ALL))
    driver.send_addresses(context.queue(driver).index)
    driver.frontend.barrier()


def one_request(context: CheckContext, driver: VirtioDriver) -> int:
    """One request; the address of its answer."""
    queue = context.queue(driver)
    readable, writable, answer, size = layout(context, queue)
    queue.ring.add(readable, writable)
    complete(context, queue, answer, size)
    driver.frontend.barrier()
    return answer
