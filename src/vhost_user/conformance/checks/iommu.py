"""Addresses behind an IOMMU (C088 to C092)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.findings import Deviation
from vhost_user.frontend.iommu import PAGE, Iommu
from vhost_user.protocol.errors import PeerTimeout, RequestRefused
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import Iotlb, IotlbPermission, IotlbType

if TYPE_CHECKING:
    from vhost_user.conformance.context import CheckContext
    from vhost_user.frontend.driver import VirtioDriver

MUST, SHOULD, ROBUSTNESS = Level
SECTION = "IOMMU support"
EVERYTHING = (1 << 64) - 1


def _driver(context: CheckContext) -> tuple[VirtioDriver, Iommu]:
    """A running driver behind an IOMMU; one request was carried out, so that the rings are translated."""
    context.need_feature(VirtioFeature.ACCESS_PLATFORM)
    context.need(ProtocolFeature.BACKEND_REQ)
    context.need(ProtocolFeature.REPLY_ACK)
    context.need_io()
    iommu = Iommu()
    driver = context.driver(iommu=iommu)
    context.exchange(context.queue(driver))
    return driver, iommu


@check("C088-translated", MUST, SECTION, "With ACCESS_PLATFORM ring addresses and descriptors are IOVAs.")
def translated(context: CheckContext) -> None:
    """Rings and buffers at addresses that mean nothing without the IOMMU are found by asking."""
    driver, iommu = _driver(context)
    context.exchange(context.queue(driver), 20)
    if not iommu.misses:
        raise Deviation("requests were answered, and no translation was asked for")


@check("C089-invalidate", MUST, SECTION, "INVALIDATE means its range; the other fields have no meaning.")
def invalidate(context: CheckContext) -> None:
    """INVALIDATE with a permission and a user address that are any number is carried out."""
    driver, iommu = _driver(context)
    try:
        iommu.send(Iotlb(0, PAGE, EVERYTHING, 178, IotlbType.INVALIDATE))
    except RequestRefused as error:
        raise Deviation(f"it is refused: {error}") from error
    context.exchange(context.queue(driver))


@check("C090-no-answer", MUST, SECTION, "While an answer to a miss is waited for, messages are carried out.")
def no_answer(context: CheckContext) -> None:
    """A translation that never comes keeps the back-end from nothing else."""
    driver, iommu = _driver(context)
    iommu.silent = True
    iommu.invalidate(0, EVERYTHING)
    asked = len(iommu.misses)
    context.submit(context.queue(driver))
    deadline = time.monotonic() + context.timeout
    while len(iommu.misses) == asked and time.monotonic() < deadline:
        time.sleep(0.001)
    try:
        driver.frontend.get_vring_base(context.queue(driver).index)
    except PeerTimeout as error:
        raise Deviation("a ring that lacks a translation cannot be stopped") from error


@check("C091-unknown-memory", MUST, SECTION, "UPDATE of memory that is not in the memory table is refused.")
def unknown_memory(context: CheckContext) -> None:
    """A translation to nowhere is refused, and the device goes on."""
    driver, iommu = _driver(context)
    for message in (
        Iotlb(1 << 50, PAGE, 0x1000, 3, IotlbType.UPDATE),
        Iotlb(1 << 50, 1 << 62, driver.memory.regions[0].user_address, 3, IotlbType.UPDATE),
    ):
        try:
            iommu.send(message)
        except RequestRefused:
            continue
        raise Deviation(f"{message} is accepted")
    context.exchange(context.queue(driver))


@check("C091-forgotten", MUST, SECTION, "After INVALIDATE was answered the translation is not used any more.")
def forgotten(context: CheckContext) -> None:
    """Translations that were invalidated are asked for again."""
    driver, iommu = _driver(context)
    for _ in range(3):
        asked = len(iommu.misses)
        iommu.invalidate(0, EVERYTHING)
        context.exchange(context.queue(driver))
        if len(iommu.misses) == asked:
            raise Deviation("a request was answered with translations that had been invalidated")


@check("C092-read-only", MUST, SECTION, "What a translation allows to read only is not written.")
def read_only(context: CheckContext) -> None:
    """A buffer that may only be read stays as it is."""
    context.need_answer()
    driver, iommu = _driver(context)
    queue = context.queue(driver)
    memory = driver.memory
    page = memory.allocate(PAGE, PAGE)
    memory.fill(page, PAGE, 0x5A)
    iommu.map(page, PAGE, memory.guest_to_user(page), IotlbPermission.READ)
    iommu.invalidate(page, PAGE)
    iommu.update(page)
    readable = context.profile.readable()
    place = memory.allocate(max(len(readable), 1))
    memory.write(place, readable)
    queue.ring.add([(place, len(readable))] if readable else [], [(page, 16)])
    queue.ring.publish()
    queue.ring.kick()
    deadline = time.monotonic() + context.quiet * 10
    while time.monotonic() < deadline and queue.ring.poll() is None:
        time.sleep(0.001)
    if memory.read(page, PAGE) != b"\x5a" * PAGE:
        raise Deviation("it was written")
