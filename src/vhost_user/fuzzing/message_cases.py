"""Hostile messages: what a malicious or careless front-end sends."""

from __future__ import annotations

from vhost_user.fuzzing.case import case
from vhost_user.fuzzing.layout import kick
from vhost_user.fuzzing.sessions import CLOSE, CONNECT, REGION, SETTLE, Script
from vhost_user.fuzzing.steps import GUEST, USER, Step, repeat, send
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import (
    U64,
    Config,
    Header,
    Inflight,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    TransferState,
    VringAddress,
    VringState,
)

REQUEST = FrontendRequest
TOP = 1 << 64


@case("H02")
def vring_num_loop(script: Script) -> list[Step]:
    """SET_VRING_NUM a thousand times with all sizes (CVE-2019-14818)."""
    sizes = [script.message(REQUEST.SET_VRING_NUM, VringState(0, 1 << bit)) for bit in range(16)]
    return [*script.negotiation(), repeat(60, *sizes), *script.up()[1:]]


@case("H03")
def surplus_descriptors(script: Script) -> list[Step]:
    """Descriptors with every message that wants none, again and again (CVE-2019-14818)."""
    steps = []
    for row in FRONTEND_REQUESTS:
        payload = bytes(getattr(row.payload, "SIZE", 0))
        steps += [*script.negotiation(), script.message(row.id, payload, ["eventfd"] * 8), CLOSE]
    return steps


@case("H04")
def log_wraps(script: Script) -> list[Step]:
    """Dirty logs whose offset and size wrap (CVE-2020-10722)."""
    logs = [Log(TOP - 4096, 8192), Log(8192, TOP - 4096), Log(1 << 63, 1 << 63), Log(0, 0), Log(1 << 40, 0)]
    bad = [script.message(REQUEST.SET_LOG_BASE, log, ["memfd:4096"]) for log in logs]
    return [step for each in bad for step in (*script.up(log=True), each, *script.request(), CLOSE)]


@case("H05")
def wide_index(script: Script) -> list[Step]:
    """Ring indices with more than 16 bits, and beyond the last ring (CVE-2020-10723, H28)."""
    steps = script.up()
    for index in (script.facts.num_queues, 0x101, 0x10001, 0xFFFFFFFF):
        for request in (
            REQUEST.SET_VRING_NUM, REQUEST.SET_VRING_BASE, REQUEST.GET_VRING_BASE, REQUEST.SET_VRING_ENABLE,
        ):  # fmt: skip
            steps += [*script.negotiation(), script.message(request, VringState(index, 1)), CLOSE]
        steps += [
            *script.negotiation(),
            script.message(REQUEST.SET_VRING_ADDR, VringAddress(index, 0, 0, 0, 0)),
            CLOSE,
        ]
        for request in (REQUEST.SET_VRING_KICK, REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_ERR):
            steps += [*script.negotiation(), script.message(request, U64(index & ~0x100), ["eventfd"]), CLOSE]
    return steps


@case("H08")
def inflight_loop(script: Script) -> list[Step]:
    """GET_INFLIGHT_FD without end (CVE-2020-10726), and with too many queues (H12, H29)."""
    asks = [
        send(encode(REQUEST.GET_INFLIGHT_FD, 1, Inflight(0, 0, count, 64).pack()))
        for count in (1, 8, 0xFFFF, 0)
    ]
    gives = [
        script.message(REQUEST.SET_INFLIGHT_FD, area, ["memfd:4096"])
        for area in (
            Inflight(4096, 0, 0xFFFF, 0xFFFF),
            Inflight(1 << 40, 0, 1, 64),
            Inflight(64, 1 << 40, 1, 2),
        )
    ]
    return [*script.negotiation(), repeat(50, *asks), *gives]


@case("H13")
def inflight_descriptors(script: Script) -> list[Step]:
    """Descriptors with GET_INFLIGHT_FD, several with SET_INFLIGHT_FD (CVE-2022-0669)."""
    area = Inflight(4096, 0, 1, 64)
    return [
        *script.negotiation(),
        repeat(20, script.message(REQUEST.GET_INFLIGHT_FD, area, ["memfd:4096"] * 3)),
        CONNECT,
        *script.negotiation(),
        repeat(20, script.message(REQUEST.SET_INFLIGHT_FD, area, ["memfd:4096"] * 4)),
    ]


@case("H21")
def truncated_control_data(script: Script) -> list[Step]:
    """More descriptors than anybody has room for."""
    big = send(encode(REQUEST.SET_VRING_CALL, 1, U64(0).pack()), ["eventfd"] * 250)
    return [*script.negotiation(), big, CONNECT, *script.negotiation(), big, big]


@case("H23")
def disconnect_while_running(script: Script) -> list[Step]:
    """Disconnect at the moment when requests run, many times."""
    return [repeat(5, *script.up(), *script.request(), kick(0), CLOSE)]


@case("H24")
def short_payloads(script: Script) -> list[Step]:
    """Every message with a payload that is too short, and with none."""
    steps = []
    for row in FRONTEND_REQUESTS:
        size = getattr(row.payload, "SIZE", 0)
        for short in {0, max(size - 1, 0), 4}:
            steps += [*script.negotiation(), script.message(row.id, bytes(short)), CLOSE]
    return steps


@case("H30")
def region_count(script: Script) -> list[Step]:
    """SET_MEM_TABLE with other counts of regions than of descriptors, up to 2^32 - 1."""
    steps = []
    for count, fds in ((0, 0), (2, 1), (1, 2), (8, 1), (9, 8), (0xFFFFFFFF, 8), (8, 0)):
        regions = b"".join(
            MemoryRegion(GUEST + i * 4096, 4096, USER + i * 4096, 0).pack() for i in range(min(count, 9))
        )
        payload = count.to_bytes(4, "little") + bytes(4) + regions
        steps += [
            *script.negotiation(),
            script.message(REQUEST.SET_MEM_TABLE, payload, ["memory"] * fds),
            CLOSE,
        ]
    return steps


@case("H31")
def split_everywhere(script: Script) -> list[Step]:
    """A message split at every byte."""
    message = encode(REQUEST.GET_VRING_BASE, 1, VringState(0, 0).pack())
    cuts = [
        step for cut in range(1, len(message)) for step in (send(message[:cut]), SETTLE, send(message[cut:]))
    ]
    return [*script.negotiation(), *cuts]


@case("H32")
def sudden_end(script: Script) -> list[Step]:
    """The connection ends before, inside and after messages."""
    message = encode(REQUEST.SET_VRING_NUM, 1, VringState(0, 16).pack())
    ends = [step for cut in range(len(message)) for step in (CONNECT, send(message[:cut]), CLOSE)]
    return [CONNECT, CLOSE, *ends, *script.negotiation(), send(message[:13]), CLOSE]


@case("H34")
def log_too_short(script: Script) -> list[Step]:
    """A dirty log that is too short for the memory, written to by requests."""
    return [
        *script.up(log=True),
        script.message(REQUEST.SET_LOG_BASE, Log(64, 0), ["memfd:64"]),
        *script.request(),
    ]


@case("H35")
def odd_sizes(script: Script) -> list[Step]:
    """Ring sizes of 0, 3, 32769 and 2^32 - 1, then a start (CVE-2026-50626)."""
    steps = []
    for size in (0, 1, 3, 0x8000, 0x8001, 0x10000, 0xFFFFFFFF):
        steps += [*script.negotiation(), *script.memory(), *script.ring(0, size=size)]
        steps += [
            script.message(REQUEST.SET_VRING_ENABLE, VringState(0, 1)),
            *script.request(),
            SETTLE,
            CLOSE,
        ]
    return steps


@case("H36")
def region_ranges(script: Script) -> list[Step]:
    """Regions that wrap, overlap, or lie outside of their file (H86, H95, H96)."""
    bad = [
        MemoryRegion(TOP - 4096, 8192, USER, 0), MemoryRegion(GUEST, 8192, TOP - 4096, 0),
        MemoryRegion(GUEST, 8192, USER, TOP - 4096), MemoryRegion(GUEST, 0, USER, 0),
        MemoryRegion(GUEST, 1 << 63, USER, 0), MemoryRegion(GUEST, 4096, USER, 1 << 40),
        MemoryRegion(TOP - 4096, 4096, TOP - 4096, 0), MemoryRegion(0, (1 << 64) - 1, 0, 0),
    ]  # fmt: skip
    steps = []
    for region in bad:
        steps += [
            *script.negotiation(),
            script.message(REQUEST.SET_MEM_TABLE, Memory((region,)), ["memfd:4096"]),
        ]
        steps += [
            *script.ring(0),
            *script.request(),
            script.message(REQUEST.ADD_MEM_REG, MemorySlot(region), ["memfd:0"]),
        ]
        steps += [script.message(REQUEST.REM_MEM_REG, MemorySlot(region)), CLOSE]
    return steps


@case("H37")
def config_ranges(script: Script) -> list[Step]:
    """Configuration accesses with sizes and offsets that do not fit."""
    steps = []
    for offset, size, data in (
        (0, 0xFFFFFFFF, 0),
        (0xFFFFFFF0, 64, 64),
        (0, 4096, 256),
        (4000, 200, 200),
        (0, 0, 0),
    ):
        payload = Config(offset, b"").pack()[:4] + size.to_bytes(4, "little") + bytes(4 + data)
        for request in (REQUEST.GET_CONFIG, REQUEST.SET_CONFIG):
            steps += [*script.negotiation(), script.message(request, payload), CLOSE]
    return steps


@case("H42")
def size_while_running(script: Script) -> list[Step]:
    """A larger size, another base and other addresses for a ring that runs."""
    end = USER + 0xFFFF0
    return [
        *script.up(), *script.request(),
        script.message(REQUEST.SET_VRING_NUM, VringState(0, 0x8000)),
        script.message(REQUEST.SET_VRING_BASE, VringState(0, 0xFFFF)),
        script.message(REQUEST.SET_VRING_ADDR, VringAddress(0, 0, end, end, end)),
        kick(0), SETTLE,
    ]  # fmt: skip


@case("H61")
def rings_set_up_twice(script: Script) -> list[Step]:
    """Rings set up again without being stopped."""
    again = [step for queue in range(script.queues) for step in script.ring(queue)]
    return [*script.up(), *script.request(), repeat(20, *again, kick(0)), *script.request()]


@case("H68")
def unknown_requests(script: Script) -> list[Step]:
    """Requests that do not exist, and numbers of the back channel."""
    steps = []
    for number in (0, 45, 99, 1002, 1 << 31, 0xFFFFFFFF):
        steps += [*script.negotiation(), send(encode(number, 9, bytes(16)), ["eventfd"]), CLOSE]
    return steps


@case("H83")
def many_descriptors(script: Script) -> list[Step]:
    """Nine to 250 descriptors with messages that take one or none."""
    steps = []
    for count in (9, 16, 64, 250):
        steps += [*script.negotiation(), script.message(REQUEST.SET_OWNER, b"", ["eventfd"] * count), CLOSE]
        steps += [
            *script.negotiation(),
            script.message(REQUEST.SET_VRING_KICK, U64(0), ["eventfd"] * count),
            CLOSE,
        ]
    return steps


@case("H84")
def odd_descriptors(script: Script) -> list[Step]:
    """Descriptors of every kind as memory, kick, call, error, log and back channel."""
    steps = []
    for kind in (
        "directory",
        "null",
        "socket",
        "pipe-read",
        "pipe-write",
        "self",
        "read-only",
        "memfd:0",
        "eventfd",
    ):
        steps += [*script.up(), *script.request()]
        for request in (REQUEST.SET_VRING_ERR, REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_KICK):
            steps.append(script.message(request, U64(0), [kind]))
        steps += [
            kick(0),
            script.message(REQUEST.SET_LOG_FD, b"", [kind]),
            script.message(REQUEST.SET_LOG_BASE, Log(4096, 0), [kind]),
            script.message(REQUEST.SET_BACKEND_REQ_FD, b"", [kind]),
            script.message(REQUEST.SET_MEM_TABLE, Memory((REGION,)), [kind]),
            script.message(REQUEST.SET_DEVICE_STATE_FD, TransferState(0, 0), [kind]),
            SETTLE,
            CLOSE,
        ]
    return steps


@case("H87")
def full_call(script: Script) -> list[Step]:
    """A blocking call descriptor that takes no more signals."""
    full = script.message(REQUEST.SET_VRING_CALL, U64(script.queues - 1), ["full-eventfd"])
    return [*script.up(), full, *script.request(), SETTLE, *script.extras()]


@case("H88")
def readable_kick(script: Script) -> list[Step]:
    """Kick descriptors that are always readable, or have no other end."""
    steps = []
    for kind in ("full-eventfd", "null", "pipe-read"):
        steps += [
            *script.up(),
            script.message(REQUEST.SET_VRING_KICK, U64(0), [kind]),
            *script.extras(),
            SETTLE,
            CLOSE,
        ]
    return steps


@case("H90")
def unread_replies(script: Script) -> list[Step]:
    """Thousands of questions in one piece, then the end."""
    flood = send(encode(REQUEST.GET_FEATURES, 1) * 3000)
    return [*script.negotiation(), flood, CLOSE]


@case("H91")
def call_flood(script: Script) -> list[Step]:
    """Another call descriptor a thousand times while requests run."""
    call = send(encode(REQUEST.SET_VRING_CALL, 1, U64(0).pack()), ["eventfd"])
    return [*script.up(), *script.request(), repeat(1000, call), *script.request()]


@case("H94")
def table_between(script: Script) -> list[Step]:
    """Another memory table between the kick and the processing, again and again."""
    elsewhere = Memory((MemoryRegion(0x40000000, 0x10000, 0x7F5000000000, 0),))
    swap = [
        kick(0), script.message(REQUEST.SET_MEM_TABLE, elsewhere, ["memfd:65536"]), kick(0), *script.memory(),
    ]  # fmt: skip
    return [*script.up(), *script.request(), repeat(20, *swap), *script.request()]


@case("H97")
def slow_message(script: Script) -> list[Step]:
    """A message of which only the beginning comes, and then others' patience ends."""
    return [*script.up(), send(encode(REQUEST.SET_FEATURES, 1, bytes(8))[:13]), SETTLE, kick(0), CLOSE]


@case("H98")
def ring_memory_removed(script: Script) -> list[Step]:
    """The memory under a running ring removed and added again."""
    if not script.offers(ProtocolFeature.CONFIGURE_MEM_SLOTS):
        return []
    slot = MemorySlot(REGION)
    away = [
        script.message(REQUEST.REM_MEM_REG, slot), kick(0),
        script.message(REQUEST.ADD_MEM_REG, slot, ["memory"]),
        kick(0),
    ]  # fmt: skip
    return [*script.up(), *script.request(), repeat(20, *away)]


@case("H85")
def memory_cut_off(script: Script) -> list[Step]:
    """Memory cut off while rings run (SIGBUS)."""
    return [
        *script.up(), *script.request(), SETTLE, {"op": "truncate", "size": 0},
        kick(0), kick(script.queues - 1),
        SETTLE, *script.extras(), SETTLE,
    ]  # fmt: skip


@case("H99")
def noise(script: Script) -> list[Step]:
    """Headers that announce everything and nothing."""
    steps = []
    for size in (0, 1, 4095, 4096, 4097, 1 << 20, 0xFFFFFFFF):
        for request in (1, 5, 12, 24, 255):
            steps += [CONNECT, send(Header(request, 1, size).pack() + bytes(20)), SETTLE, CLOSE]
    return [*steps, *script.negotiation()]


@case("H38")
def state_descriptors(script: Script) -> list[Step]:
    """Device state transfers in both directions, without end and over odd descriptors (H45, H110)."""
    steps = []
    for direction in (0, 1, 2):
        for kind in ("pipe-read", "pipe-write", "null", "directory", "socket", "memfd:65536"):
            steps += [
                *script.negotiation(),
                script.message(REQUEST.SET_DEVICE_STATE_FD, TransferState(direction, 0), [kind]),
                script.message(REQUEST.CHECK_DEVICE_STATE), CLOSE,
            ]  # fmt: skip
    return steps
