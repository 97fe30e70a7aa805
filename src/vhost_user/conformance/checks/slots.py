"""Memory region by region (C042 to C044)."""

from __future__ import annotations

import time

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import MEMORY, CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.refusals import Verdict, attempt, refused
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import MemoryRegion, MemorySlot

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
SLOTS = "Configure memory slots"
GUEST, USER, SIZE = 0x10000000, 0x7F0010000000, 0x10000
MAX_SLOTS = 1024


@check("C042-add", MUST, SLOTS, "ADD_MEM_REG adds one region, while rings run or before.")
def add(context: CheckContext) -> None:
    """Memory handed over region by region works."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    regions = [DriverRegion(MEMORY, guest_address=GUEST), DriverRegion(1 << 20, guest_address=0x40000000)]
    driver = context.driver(memory=DriverMemory(regions), memory_slots=True)
    if context.profile.works:
        context.exchange(context.queue(driver), 2)


@check("C042-remove", MUST, SLOTS, "REM_MEM_REG removes the region that has these addresses and this size.")
def remove(context: CheckContext) -> None:
    """A region can be removed and added again; one that is not there cannot be removed."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    driver = context.driver(memory_slots=True)
    frontend = driver.frontend
    with DriverRegion(1 << 20, guest_address=0x40000000) as region:
        for _ in range(2):
            frontend.add_mem_reg(region)
            frontend.rem_mem_reg(region)
        frontend.barrier()
        slot = MemorySlot(MemoryRegion(region.guest_address, region.size, region.user_address, 0))
        refused(frontend, REQUEST.REM_MEM_REG, slot, "a region that was removed before")


@check(
    "C043-promise",
    MUST,
    SLOTS,
    "GET_MAX_MEM_SLOTS tells how many regions there may be, and never fewer later.",
)
def promise(context: CheckContext) -> None:
    """The number of memory slots is at least 1 and stays the same."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    frontend = context.session()
    first = frontend.get_max_mem_slots()
    if first < 1:
        raise Deviation("there are 0 slots")
    driver = context.driver(memory_slots=True)
    second = driver.frontend.get_max_mem_slots()
    if second < first:
        raise Deviation(f"there were {first} slots, with memory added there are {second}")


@check("C043-too-many", ROBUSTNESS, SLOTS, "There are no more regions than GET_MAX_MEM_SLOTS promised.")
def too_many(context: CheckContext) -> None:
    """One region more than there are slots is refused."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    frontend = context.session()
    slots = min(frontend.get_max_mem_slots(), MAX_SLOTS)
    fd = context.fds.memfd(4096)
    for number in range(slots + 1):
        slot = MemorySlot(MemoryRegion(GUEST + number * SIZE, 4096, USER + number * SIZE, 0))
        verdict = attempt(frontend, REQUEST.ADD_MEM_REG, slot, (fd,))
        if verdict is Verdict.ACCEPTED:
            continue
        if number < slots:
            raise Deviation(f"of {slots} promised slots number {number + 1} is {verdict.value}")
        return
    if slots < MAX_SLOTS:
        raise Deviation(f"{slots} slots are promised, region {slots + 1} is accepted")


@check("C042-overlap", SHOULD, SLOTS, "Regions overlap neither in guest nor in user addresses.")
def overlap(context: CheckContext) -> None:
    """A region that overlaps one that is there already is refused."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    frontend = context.session()
    fd = context.fds.memfd(SIZE)
    attempt(frontend, REQUEST.ADD_MEM_REG, MemorySlot(MemoryRegion(GUEST, SIZE, USER, 0)), (fd,))
    for what, region in {
        "the guest addresses of another": MemoryRegion(GUEST + SIZE // 2, SIZE, USER + SIZE, 0),
        "the user addresses of another": MemoryRegion(GUEST + SIZE, SIZE, USER + SIZE // 2, 0),
    }.items():
        if frontend.hung_up():
            return
        refused(frontend, REQUEST.ADD_MEM_REG, MemorySlot(region), what, (fd,))


@check(
    "C044-live-removal",
    MUST,
    SLOTS,
    "A region may be removed while a ring lies in it; it is not touched then.",
    destructive=True,
)
def live_removal(context: CheckContext) -> None:
    """Removing the memory under a running ring does no harm."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    driver = context.driver(memory_slots=True)
    queue = context.queue(driver)
    if context.profile.works:
        context.exchange(queue)
    region = driver.memory.regions[0]
    try:
        driver.frontend.rem_mem_reg(region)
        before = region_bytes(region)
        if context.profile.works:
            context.submit(queue, publish=False)
            queue.ring.publish()
            before = region_bytes(region)
        queue.ring.kick(force=True)
        driver.frontend.barrier()
    except (VhostUserError, PeerTimeout) as error:
        raise Deviation(f"after REM_MEM_REG of the memory of a running ring: {error}") from error
    deadline = time.monotonic() + context.quiet
    while time.monotonic() < deadline:
        if region_bytes(region) != before:
            raise Deviation("the region is written after it was removed")
        time.sleep(0.005)
    driver.frontend.close()
    context.alive("the removal of memory under a running ring")


@check(
    "C013-removal-descriptor", SHOULD, SLOTS,
    "REM_MEM_REG should carry no descriptor; a back-end may take one, and then closes it.",
)  # fmt: skip
def removal_descriptor(context: CheckContext) -> None:
    """A descriptor with REM_MEM_REG is closed."""
    context.need(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    frontend = context.session()
    read, write = context.fds.tell_tale()
    region = MemoryRegion(GUEST, SIZE, USER, 0)
    attempt(frontend, REQUEST.ADD_MEM_REG, MemorySlot(region), (context.fds.memfd(SIZE),))
    attempt(frontend, REQUEST.REM_MEM_REG, MemorySlot(region), (write,))
    if not context.fds.released(read, write):
        raise Deviation("the descriptor stays open")


def region_bytes(region: DriverRegion) -> bytes:
    """All bytes of a region."""
    return bytes(memoryview(region))
