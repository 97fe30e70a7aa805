"""The memory table (C035 to C048)."""

from __future__ import annotations

import contextlib

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import MEMORY, CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.refusals import attempt, refused
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import DeviceStatus, ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Memory, MemoryRegion

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
TABLE = "Memory regions description"
GUEST, USER, SIZE = 0x10000000, 0x7F0010000000, 0x10000


def _table(
    context: CheckContext, regions: tuple[MemoryRegion, ...], what: str, count: int | None = None
) -> None:
    """Expect that this table is refused; the descriptors are of files that are large enough."""
    frontend = context.session()
    fd = context.fds.memfd(1 << 20)
    refused(
        frontend, REQUEST.SET_MEM_TABLE, Memory(regions), what,
        [fd] * (len(regions) if count is None else count),
    )  # fmt: skip


def _several(context: CheckContext, cases: dict[str, tuple[tuple[MemoryRegion, ...], int | None]]) -> None:
    wrong = []
    for what, (regions, count) in cases.items():
        try:
            _table(context, regions, what, count)
        except Deviation as deviation:
            wrong.append(deviation)
    context.alive("memory tables that make no sense")
    if wrong:
        raise Deviation("; ".join(map(str, wrong)), quirk=wrong[0].quirk)


@check("C035-count", ROBUSTNESS, TABLE, "A table has one to eight regions and a descriptor for each.")
def count(context: CheckContext) -> None:
    """A table without regions, or with another number of descriptors, is refused."""
    one = MemoryRegion(GUEST, SIZE, USER, 0)
    two = MemoryRegion(GUEST + SIZE, SIZE, USER + SIZE, SIZE)
    nine = tuple(MemoryRegion(GUEST + i * SIZE, SIZE, USER + i * SIZE, 0) for i in range(9))
    _several(
        context,
        {
            "no region": ((), None),
            "two regions and one descriptor": ((one, two), 1),
            "one region and two descriptors": ((one,), 2),
            "nine regions": (nine, 8),
        },
    )


@check("C035-several", MUST, TABLE, "Each region of a table has its descriptor, in the same order.")
def several(context: CheckContext) -> None:
    """A table of eight regions works, whichever of them a request lies in."""
    context.need_answer()
    regions = [DriverRegion(1 << 19, guest_address=GUEST + i * (1 << 20)) for i in range(8)]
    driver = context.driver(memory=DriverMemory(regions))
    queue = context.queue(driver)
    for region in regions[1:]:
        _request_in(context, driver, region.guest_address + 0x1000)
    context.exchange(queue)


@check("C036-offset", MUST, TABLE, "A region begins mmap_offset bytes into its file.")
def offset(context: CheckContext) -> None:
    """Memory that begins in the middle of its file works."""
    context.need_io()
    region = DriverRegion(MEMORY, guest_address=GUEST, file_offset=0x3000)
    context.exchange(context.queue(context.driver(memory=DriverMemory([region]))), 3)


@check("C037-overlap", SHOULD, TABLE, "Regions overlap neither in guest nor in user addresses.")
def overlap(context: CheckContext) -> None:
    """Overlapping regions are refused."""
    _several(
        context,
        {
            "overlapping guest addresses": (
                (MemoryRegion(GUEST, SIZE, USER, 0), MemoryRegion(GUEST + SIZE // 2, SIZE, USER + SIZE, 0)),
                None,
            ),
            "overlapping user addresses": (
                (MemoryRegion(GUEST, SIZE, USER, 0), MemoryRegion(GUEST + SIZE, SIZE, USER + SIZE // 2, 0)),
                None,
            ),
        },
    )


@check("C038-wrap", ROBUSTNESS, TABLE, "A region ends within 64 bits and is not empty.")
def wrap(context: CheckContext) -> None:
    """Empty regions, and those that wrap around 2^64, are refused."""
    end = (1 << 64) - 4096
    _several(
        context,
        {
            "size 0": ((MemoryRegion(GUEST, 0, USER, 0),), None),
            "guest addresses that wrap": ((MemoryRegion(end, SIZE, USER, 0),), None),
            "user addresses that wrap": ((MemoryRegion(GUEST, SIZE, end, 0),), None),
            "a file offset that wraps": ((MemoryRegion(GUEST, SIZE, USER, end),), None),
            "2^63 bytes": ((MemoryRegion(GUEST, 1 << 63, USER, 0),), None),
        },
    )


@check("C039-short-file", ROBUSTNESS, TABLE, "A region lies within its file.")
def short_file(context: CheckContext) -> None:
    """A region that is larger than its file is refused."""
    frontend = context.session()
    table = Memory((MemoryRegion(GUEST, 1 << 24, USER, 0),))
    refused(
        frontend,
        REQUEST.SET_MEM_TABLE,
        table,
        "a region beyond the end of its file",
        [context.fds.memfd(4096)],
    )


@check("C039-truncated", ROBUSTNESS, TABLE, "The file may be cut off while it is mapped.", destructive=True)
def truncated(context: CheckContext) -> None:
    """A back-end survives that its memory is cut off while rings run (SIGBUS)."""
    context.need_io()
    region = DriverRegion(MEMORY, guest_address=GUEST, seal=False)
    driver = context.driver(memory=DriverMemory([region]))
    context.exchange(context.queue(driver))
    region.truncate(0)
    context.queue(driver).ring.kick(force=True)
    context.await_reaction(driver, context.queue(driver))
    with contextlib.suppress(VhostUserError):  # ending the session is right
        driver.frontend.barrier()
    driver.frontend.close()
    context.alive("memory that was cut off")


@check(
    "C040-live-table",
    MUST,
    "Front-end message types: SET_MEM_TABLE",
    "The table may be replaced while rings run.",
)
def live_table(context: CheckContext) -> None:
    """Rings go on when a new table arrives, and its memory can be used."""
    context.need_answer()
    driver = context.driver()
    context.exchange(context.queue(driver), 2)
    region = DriverRegion(1 << 20, guest_address=0x40000000)
    driver.memory.add_region(region)
    driver.frontend.set_mem_table(driver.memory.regions)
    driver.frontend.barrier()
    _request_in(context, driver, region.guest_address)
    context.exchange(context.queue(driver), 2)


@check("C035-replaced", MUST, "Front-end message types: SET_MEM_TABLE", "A new table replaces the old one.")
def replaced(context: CheckContext) -> None:
    """Memory that the new table lacks is not written any more."""
    context.need_answer()
    extra = DriverRegion(1 << 20, guest_address=0x40000000)
    main = DriverRegion(MEMORY, guest_address=GUEST)
    driver = context.driver(memory=DriverMemory([main, extra]))
    _request_in(context, driver, extra.guest_address)
    driver.frontend.set_mem_table([main])
    driver.frontend.barrier()
    size = context.profile.writable()
    pattern = b"\x5a" * size
    driver.memory.write(extra.guest_address, pattern)
    with contextlib.suppress(Deviation, VhostUserError):  # failing the request is right
        _request_in(context, driver, extra.guest_address, poison=False)
    if driver.memory.read(extra.guest_address, size) != pattern:
        raise Deviation("a region that is no longer in the table is written")


@check(
    "C041-late-table", SHOULD, "Front-end message types: SET_VRING_ADDR",
    "Ring addresses are looked up in the table that holds when the ring is used.",
)  # fmt: skip
def late_table(context: CheckContext) -> None:
    """Ring addresses may arrive before the memory table."""
    driver = context.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    index = context.queue(driver).index
    driver.frontend.set_vring_num(index, driver.queue_size)
    try:
        driver.send_addresses(index)
    except VhostUserError as error:
        raise Deviation(f"SET_VRING_ADDR before SET_MEM_TABLE: {error}") from error
    driver.share_memory()
    for each in range(len(driver.queues)):
        driver.start_queue(each)
        driver.enable_queue(each)
    driver.set_status(DeviceStatus.DRIVER_OK)
    if context.profile.works:
        context.exchange(context.queue(driver))


@check(
    "C048-straddle", ROBUSTNESS, TABLE,
    "Two regions may be neighbours in the guest and lie anywhere in the files.",
)  # fmt: skip
def straddle(context: CheckContext) -> None:
    """A buffer across two neighbouring regions is filled rightly, or the request fails."""
    context.need_answer()
    low = DriverRegion(1 << 20, guest_address=GUEST)
    gap = DriverRegion(1 << 16, guest_address=0x50000000, user_address=USER + (1 << 20))
    high = DriverRegion(1 << 20, guest_address=GUEST + (1 << 20), user_address=0x7F4000000000)
    driver = context.driver(memory=DriverMemory([low, gap, high]))
    middle = GUEST + (1 << 20)
    size = context.profile.writable()
    gap_before = driver.memory.read(gap.guest_address, gap.size)
    readable = context.profile.readable()
    ring = context.queue(driver).ring
    header = driver.memory.allocate(max(len(readable), 1))
    driver.memory.write(header, readable)
    first = min(16, size - 1)
    rest = size - first
    ring.add([(header, len(readable))] if readable else [], [(middle - first, size)])
    ring.publish()
    ring.kick(force=True)
    if ring.wait(context.timeout):
        _, length = ring.poll() or (0, 0)
        data = driver.memory.read(middle - first, first) + driver.memory.read(middle, rest)
        if length == size and context.profile.name == "blk" and data[-1] == 0:
            context.profile.verify(data, length)
    if driver.memory.read(gap.guest_address, gap.size) != gap_before:
        raise Deviation("memory beside the buffer is written")
    context.still_answers(driver.frontend, "a buffer across two regions")
    context.drop(driver)
    context.alive("a buffer across two regions")


@check("H86-empty-file", ROBUSTNESS, TABLE, "A region lies within its file.", destructive=True)
def empty_file(context: CheckContext) -> None:
    """A region of an empty file does no harm."""
    frontend = context.session()
    attempt(
        frontend, REQUEST.SET_MEM_TABLE, Memory((MemoryRegion(GUEST, 4096, USER, 0),)), [context.fds.memfd(0)]
    )
    frontend.close()
    context.alive("a region of an empty file")


@check(
    "C046-guest-addresses", MUST, "GPA_ADDRESSES",
    "With GPA_ADDRESSES ring addresses are guest addresses, and 0 is one of them.",
)  # fmt: skip
def guest_addresses(context: CheckContext) -> None:
    """Rings can be given by guest address, also at address 0."""
    context.need(ProtocolFeature.GPA_ADDRESSES)
    context.need_io()
    wanted = ProtocolFeature.GPA_ADDRESSES | ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ
    memory = DriverMemory([DriverRegion(MEMORY, guest_address=0)])
    context.exchange(context.queue(context.driver(memory=memory, protocol_features=wanted)), 2)


def _request_in(context: CheckContext, driver: VirtioDriver, address: int, *, poison: bool = True) -> None:
    """One request whose buffers lie at ``address``."""
    profile = context.profile
    readable, size = profile.readable(), profile.writable()
    if poison:
        driver.memory.fill(address, size, 0xA5)
    driver.memory.write(address + size, readable)
    ring = context.queue(driver).ring
    ring.add([(address + size, len(readable))] if readable else [], [(address, size)])
    ring.publish()
    ring.kick(force=True)
    if not ring.wait(context.timeout):
        raise Deviation(f"a request in memory at {address:#x} is not completed within {context.timeout} s")
    done = ring.poll()
    if done is None:
        raise Deviation("the call was signalled, but nothing is used")
    profile.verify(driver.memory.read(address, size), done[1])
