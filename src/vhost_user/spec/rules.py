"""Rules that one payload alone can break, and how error replies look. Rows of the request table name them.

Whatever needs to know more - how many queues there are, whether a ring runs, which ring layout was negotiated
- is the business of the layers above.
"""

from itertools import combinations
from typing import Final

from vhost_user.spec.inflight import region_size
from vhost_user.spec.structs import (
    MAX_CONFIG_END,
    MAX_REGIONS,
    NO_FD_BIT,
    U64,
    Config,
    ConfigFlag,
    CryptoSession,
    Empty,
    Inflight,
    Iotlb,
    IotlbType,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    ShmemConfig,
    ShmemMap,
    ShmemMapFlag,
    TransferDirection,
    TransferPhase,
    TransferReply,
    TransferState,
    VringAddress,
    VringAddressFlag,
    VringArea,
    VringFd,
    VringState,
)
from vhost_user.spec.table import ErrorReply, ReplyRule, Rule

ADDRESS_END: Final = 1 << 64
MAX_QUEUE_SIZE: Final = 32768
MAX_QUEUES: Final = 65535
MINIMUM_PAGE: Final = 4096


def _wraps(start: int, size: int, what: str) -> str | None:
    """Say that ``start`` + ``size`` is above 2^64; ending exactly there is legal."""
    if start + size > ADDRESS_END:
        return f"{what} {start:#x} plus size {size:#x} wraps around 2^64"
    return None


def _region(region: MemoryRegion) -> str | None:
    if not region.size:
        return f"the region at {region.guest_phys_addr:#x} has size 0"
    return (
        _wraps(region.guest_phys_addr, region.size, "guest address")
        or _wraps(region.user_addr, region.size, "user address")
        or _wraps(region.mmap_offset, region.size, "mmap offset")
    )


def overlap(one: MemoryRegion, two: MemoryRegion) -> str | None:
    """Say in which address space two regions overlap (C037), or None."""
    for what, first, second in (
        ("guest", one.guest_phys_addr, two.guest_phys_addr),
        ("user", one.user_addr, two.user_addr),
    ):
        if first < second + two.size and second < first + one.size:
            return (
                f"the regions at {what} address {first:#x} (size {one.size:#x}) and {second:#x} "
                f"(size {two.size:#x}) overlap"
            )
    return None


def _memory_count(memory: Memory) -> str | None:
    if 1 <= len(memory.regions) <= MAX_REGIONS:
        return None
    return f"nregions is {len(memory.regions)}, it must be 1 to {MAX_REGIONS}"


def _memory_regions(memory: Memory) -> str | None:
    return next(filter(None, map(_region, memory.regions)), None)


def _memory_overlap(memory: Memory) -> str | None:
    return next(filter(None, (overlap(*pair) for pair in combinations(memory.regions, 2))), None)


def _slot_region(slot: MemorySlot) -> str | None:
    return _region(slot.region)


def _log(log: Log) -> str | None:
    if not log.mmap_size:
        return "the size of the log is 0"
    return _wraps(log.mmap_offset, log.mmap_size, "log offset")


def _queue_size(state: VringState) -> str | None:
    if 1 <= state.num <= MAX_QUEUE_SIZE:
        return None
    return f"the ring size is {state.num}, it must be 1 to {MAX_QUEUE_SIZE}"


def _ring_addresses(address: VringAddress) -> str | None:
    if address.flags & ~int(VringAddressFlag.LOG):
        return f"unknown flags {address.flags:#x}"
    for what, value, alignment in (
        ("descriptor", address.descriptor, 16),
        ("available", address.available, 2),
        ("used", address.used, 4),
    ):
        if value % alignment:
            return f"the {what} address {value:#x} is not aligned to {alignment} bytes"
    return None


def _index_bits(payload: VringFd | VringArea) -> str | None:
    if payload.value >> 9:
        return f"the vring index {payload.value & ~NO_FD_BIT:#x} is above 255"
    return None


def _zero_or_one(state: VringState) -> str | None:
    return None if state.num in (0, 1) else f"num is {state.num}, it must be 0 or 1"


def _zero(state: VringState) -> str | None:
    return f"num is {state.num}, it must be 0" if state.num else None


def _mtu(mtu: U64) -> str | None:
    return None if 68 <= mtu.value <= 65535 else f"the MTU is {mtu.value}, it must be 68 to 65535"


def _iotlb(allowed: tuple[IotlbType, ...]) -> Rule:
    def check(iotlb: Iotlb) -> str | None:
        if iotlb.type not in allowed:
            return f"type {iotlb.type} is not one of {', '.join(f'{kind.name} ({kind})' for kind in allowed)}"
        if iotlb.perm > 3:
            return f"permission {iotlb.perm} is above 3"
        return _wraps(iotlb.iova, iotlb.size, "IOVA") or _wraps(iotlb.uaddr, iotlb.size, "user address")

    return Rule("C089", check)


def _config(config: Config) -> str | None:
    if not config.size:
        return "the size of the access is 0"
    if config.offset + config.size > MAX_CONFIG_END:
        return f"offset {config.offset} plus size {config.size} is above {MAX_CONFIG_END}"
    if config.flags not in tuple(ConfigFlag):
        return f"unknown flags {config.flags:#x}"
    return None


def _inflight_numbers(inflight: Inflight) -> str | None:
    if not inflight.num_queues:
        return "num_queues is 0"
    if not 1 <= inflight.queue_size <= MAX_QUEUE_SIZE:
        return f"queue_size is {inflight.queue_size}, it must be 1 to {MAX_QUEUE_SIZE}"
    return None


def _inflight_area(inflight: Inflight) -> str | None:
    """Check against the smaller, split layout; a packed ring's owner checks again with its own."""
    least = inflight.num_queues * region_size(inflight.queue_size, packed=False)
    if inflight.mmap_size < least:
        return f"mmap_size {inflight.mmap_size} is less than the {least} bytes of the queues"
    return _wraps(inflight.mmap_offset, inflight.mmap_size, "mmap offset")


def _transfer(state: TransferState) -> str | None:
    if state.direction not in tuple(TransferDirection):
        return f"direction {state.direction} is neither 0 (save) nor 1 (load)"
    if state.phase != TransferPhase.STOPPED:
        return f"phase {state.phase} is not 0 (stopped)"
    return None


def _status(status: U64) -> str | None:
    return f"the status {status.value:#x} is above 0xff" if status.value > 0xFF else None


def _notifier_area(area: VringArea) -> str | None:
    if not area.no_fd and not area.size:
        return "the size of the doorbell is 0"
    return _wraps(area.offset, area.size, "offset")


def _shmem_map(request: ShmemMap) -> str | None:
    if not request.length:
        return "the length is 0"
    if request.flags & ~int(ShmemMapFlag.WRITABLE):
        return f"unknown flags {request.flags:#x}"
    return _wraps(request.fd_offset, request.length, "file offset") or _wraps(
        request.shm_offset, request.length, "offset in the region"
    )


MEMORY = (Rule("C035", _memory_count), Rule("C038", _memory_regions), Rule("C037", _memory_overlap))
MEMORY_SLOT = (Rule("C038", _slot_region),)
LOG = (Rule("C082", _log),)
QUEUE_SIZE = (Rule("C070", _queue_size),)
RING_ADDRESSES = (Rule("C071", _ring_addresses),)
INDEX_BITS = (Rule("H05", _index_bits),)
ENABLE = (Rule("C063", _zero_or_one),)
ENDIAN = (Rule("SET_VRING_ENDIAN", _zero_or_one),)
IN_BAND = (Rule("C133", _zero),)
MTU = (Rule("NET_SET_MTU", _mtu),)
IOTLB_TO_BACKEND = (_iotlb((IotlbType.UPDATE, IotlbType.INVALIDATE)),)
IOTLB_TO_FRONTEND = (_iotlb((IotlbType.MISS, IotlbType.ACCESS_FAIL)),)
GET_CONFIG = (Rule("C128", _config),)
SET_CONFIG = (Rule("C129", _config),)
GET_INFLIGHT = (Rule("C106", _inflight_numbers),)
SET_INFLIGHT = (Rule("C107", _inflight_numbers), Rule("C107", _inflight_area))
TRANSFER = (Rule("C122", _transfer),)
STATUS = (Rule("C131", _status),)
NOTIFIER = (*INDEX_BITS, Rule("H108", _notifier_area))
SHMEM_MAP = (Rule("C104", _shmem_map),)


def _same_index(request: VringState, reply: VringState) -> str | None:
    return (
        None
        if reply.index == request.index
        else f"asked about vring {request.index}, told about {reply.index}"
    )


def _same_config(request: Config, reply: Config) -> str | None:
    if (reply.offset, reply.size, reply.flags) == (request.offset, request.size, request.flags):
        return None
    return (
        f"asked for {request.size} bytes at {request.offset} (flags {request.flags}), "
        f"got {reply.size} at {reply.offset} (flags {reply.flags})"
    )


def _queue_count(_request: Empty, reply: U64) -> str | None:
    return None if 1 <= reply.value <= MAX_QUEUES else f"{reply.value} queues; 1 to {MAX_QUEUES} make sense"


def _slot_count(_request: Empty, reply: U64) -> str | None:
    return None if reply.value else "no memory slot at all"


def _inflight_reply(request: Inflight, reply: Inflight) -> str | None:
    if (reply.num_queues, reply.queue_size) != (request.num_queues, request.queue_size):
        return (
            f"asked for {request.num_queues} queues of {request.queue_size}, "
            f"got {reply.num_queues} of {reply.queue_size}"
        )
    return _inflight_area(reply)


def _transfer_reply(_request: TransferState, reply: TransferReply) -> str | None:
    return f"unknown bits in {reply.value:#x}" if reply.value >> 9 else None


def _shmem_config(_request: Empty, reply: ShmemConfig) -> str | None:
    filled = sum(1 for size in reply.sizes if size)
    if reply.nregions != filled:
        return f"nregions is {reply.nregions}, but {filled} sizes are not zero"
    if any(size % MINIMUM_PAGE for size in reply.sizes):
        return f"a size is not a multiple of {MINIMUM_PAGE}"
    return None


def _status_reply(_request: Empty, reply: U64) -> str | None:
    return _status(reply)


SAME_INDEX = (ReplyRule("H101", _same_index),)
SAME_CONFIG = (ReplyRule("H102", _same_config),)
QUEUE_COUNT = (ReplyRule("H104", _queue_count),)
SLOT_COUNT = (ReplyRule("H105", _slot_count),)
INFLIGHT_REPLY = (ReplyRule("H103", _inflight_reply),)
TRANSFER_REPLY = (ReplyRule("C123", _transfer_reply),)
SHMEM_CONFIG = (ReplyRule("C105", _shmem_config),)
STATUS_REPLY = (ReplyRule("C131", _status_reply),)


def _failed_session(request: CryptoSession | Empty) -> CryptoSession:
    if isinstance(request, CryptoSession):
        return CryptoSession(request.op_code, request.body, -1)
    return CryptoSession(0, b"", -1)


STATUS_ERROR = ErrorReply("1", lambda _: U64(1), lambda reply, _fds: reply.value != 0)
CONFIG_ERROR = ErrorReply(
    "size 0", lambda _: Empty(), lambda reply, _fds: isinstance(reply, Empty) or not reply.size
)
INFLIGHT_ERROR = ErrorReply(
    "mmap_size 0, no fd", lambda _: Inflight(), lambda reply, _fds: not reply.mmap_size
)
NO_FD_ERROR = ErrorReply("no fd", lambda _: Empty(), lambda _reply, fds: fds == 0)
TRANSFER_ERROR = ErrorReply("0x101, no fd", lambda _: TransferReply(0x101), lambda reply, _fds: reply.failed)
SESSION_ERROR = ErrorReply("session_id -1", _failed_session, lambda reply, _fds: reply.session_id < 0)
