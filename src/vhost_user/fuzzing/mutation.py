"""Structure-aware mutation: valid sessions with fields, descriptors, order and rings changed, by a seed."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from typing import Any

from vhost_user.fuzzing.layout import BUFFERS, INFLIGHT, SIZE, Area, guest, kick, user, write
from vhost_user.fuzzing.sessions import CLOSE, CONNECT, SETTLE, Script
from vhost_user.fuzzing.state_cases import moved, random_edits
from vhost_user.fuzzing.steps import GUEST, MEMORY_SIZE, USER, Step, note, send
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.ring import DescriptorFlag
from vhost_user.spec.structs import Header, VringAddress

ODD_DESCRIPTORS = (
    "memory", "kick:0", "call:0", "eventfd", "full-eventfd", "memfd:0", "memfd:4096", "memfd:65536",
    "directory", "null", "pipe-read", "pipe-write", "full-pipe", "socket", "full-socket", "path", "terminal",
    "kick-socket:0", "call-socket:0", "self", "read-only",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 7, 8, 15, 16, 17, 0x7F, 0x80, 0xFF, 0x100, 0x101, 0x1FF, 0x3FF, 0x400, 0xFFF, 0x1000, 0x1001,
    0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x10001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF, 1 << 32,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 16, (1 << 64) - 1, GUEST, GUEST + MEMORY_SIZE,
    GUEST + MEMORY_SIZE - 1, GUEST + BUFFERS, USER, USER + MEMORY_SIZE - 8,
)  # fmt: skip
WAYS_UP: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"sockets": True}, {"enable_first": True}, {"base": 0}, {"base": 0x8000},
    {"inflight": b""},
)  # fmt: skip
"""How rings get to run, as ``Script.up`` takes it."""
RING_FLAGS = (0, 1, 2, 3, 4, 5, 6, 7, 0x80, 0x81, 0x82, 0x84, 0x8000, 0x8080, 0x8082, 0xFFFF)


class Mutator:
    """Makes one hostile session of each number; the same number gives the same session."""

    def __init__(self, scripts: tuple[Script, ...], seed: int) -> None:
        self.scripts = scripts
        self.seed = seed

    def session(self, number: int) -> list[Step]:
        """The steps of session ``number``."""
        chance = random.Random(f"{self.seed}:{number}")  # noqa: S311  # for variety, not for secrets
        script = self.scripts[number % len(self.scripts)]
        if chance.random() < 0.1:
            return self._area_storm(script, chance)
        if chance.random() < 0.45:
            return self._ring_storm(script, chance)
        if script.offers(ProtocolFeature.DEVICE_STATE) and chance.random() < 0.2:
            return moved(script, *random_edits(chance))
        seeds = script.seeds()
        steps = copy.deepcopy(chance.choice((seeds[0], chance.choice(seeds))))
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
            chance.choice(MUTATIONS)(steps, script, chance)
        return steps

    def _area_storm(self, script: Script, chance: random.Random) -> list[Step]:
        """Rings that start with an in-flight area in which much is in flight, or anything."""
        steps: list[Step] = []
        queue = min(script.profile.queue, script.queues - 1)
        for _ in range(chance.choice((1, 2, 3))):
            steps += script.up(inflight=in_flight_area(script, chance))
            for _ in range(chance.choice((0, 1, 4))):
                at = INFLIGHT + chance.choice((chance.randrange(64), chance.randrange(0x400)))
                steps.append(write(at, chance.randbytes(chance.choice((1, 2, 8))), "in-flight area"))
                steps += [*script.request(at=0), kick(queue)]
            steps += [SETTLE, *(script.down() if chance.random() < 0.5 else [CLOSE])]
        return steps

    def _ring_storm(self, script: Script, chance: random.Random) -> list[Step]:
        """A session that is valid up to its rings, which are then written at random."""
        steps = script.up(**chance.choice(WAYS_UP))
        queue = min(script.profile.queue, script.queues - 1)
        steps += script.request(cut=chance.choice((1, 1, 2, 4)))
        for _ in range(chance.choice((1, 2, 4, 8, 16))):
            steps += [_ring_write(script, chance, queue) for _ in range(chance.choice((1, 2, 3, 6)))]
            if not script.packed and chance.random() < 0.8:
                index = chance.choice((1, 1, 2, 3, SIZE, SIZE + 1, chance.randrange(65536)))
                steps.append(write(Area(queue).available + 2, struct.pack("<H", index), "available index"))
            steps.append(kick(queue, chance.choice((1, 1, 1, 5)), by=chance.choice(("eventfd", "socket"))))
            if chance.random() < 0.3:
                steps.append(SETTLE)
            if chance.random() < 0.1:
                steps.append(chance.choice(script.extras()))
        return [*steps, *(script.down() if chance.random() < 0.7 else [CLOSE])]


def in_flight_area(script: Script, chance: random.Random) -> bytes:
    """An area that is right in some of its parts."""
    some = (0, 0, 1, 1, 2, 3, SIZE - 1, SIZE, SIZE + 1, 0x7FFF, 0x8000, 0xFFFF)
    pick = chance.choice
    area = b""
    for _ in range(script.queues):
        version, count = pick((1, 1, 1, 0, 2)), pick((SIZE, SIZE, SIZE, *some))
        if script.packed:
            head = struct.pack(
                "=QHH4H2B10x", 0, version, count, *(pick(some) for _ in range(4)), pick(some) & 1, 1
            )
            states = b"".join(
                struct.pack(
                    "=BxHHHQHHIQ", pick((0, 1, 1, 255)), pick((at + 1, pick(some))), pick((at, pick(some))),
                    pick((1, 1, 2, pick(some))), chance.randrange(9), at, pick(RING_FLAGS), _length(chance),
                    _address(chance),
                )
                for at in range(SIZE)
            )  # fmt: skip
        else:
            head = struct.pack("=QHHHH", 0, version, count, pick(some), pick(some))
            states = b"".join(
                struct.pack("=B5xHQ", pick((0, 1, 1, 255)), pick(some), chance.randrange(9))
                for _ in range(SIZE)
            )
        region = head + states
        area += region.ljust(-(-len(region) // 64) * 64, b"\0")
    return area


def _address(chance: random.Random) -> int:
    return chance.choice(
        (
            guest(BUFFERS + chance.randrange(0x8000)),
            guest(BUFFERS + 0x1000),
            guest(BUFFERS + 0x1000),
            guest(MEMORY_SIZE - chance.randrange(1, 64)),
            guest(chance.randrange(0x5000)),
            chance.choice(NUMBERS),
            chance.getrandbits(64),
        )
    )


def _length(chance: random.Random) -> int:
    return chance.choice((1, 16, 513, 64, chance.choice(NUMBERS), chance.randrange(0x2000))) & 0xFFFFFFFF


def _ring_write(script: Script, chance: random.Random, queue: int) -> Step:
    """One write into the ring: mostly a descriptor, else its other parts or a request header."""
    area = Area(queue)
    kind = chance.random()
    if kind < 0.6:
        flags = chance.choice(RING_FLAGS)
        if script.packed and chance.random() < 0.7:
            flags |= DescriptorFlag.AVAILABLE
        last = chance.choice((chance.randrange(SIZE), chance.choice(NUMBERS) & 0xFFFF))
        fields = (last, flags) if script.packed else (flags, last)
        data = struct.pack("<QIHH", _address(chance), _length(chance), *(field & 0xFFFF for field in fields))
        at = area.descriptors + 16 * chance.randrange(SIZE)
        if chance.random() < 0.2:
            at = BUFFERS + 16 * chance.randrange(4)  # an indirect table
        return write(at, data, "descriptor")
    if kind < 0.75:
        slot = chance.randrange(SIZE)
        return write(
            area.available + 4 + 2 * slot,
            struct.pack("<H", chance.choice((0, 1, 2, slot, SIZE, 0xFFFF))),
            "head",
        )
    if kind < 0.85:
        return write(
            area.available, struct.pack("<HH", *(chance.choice(NUMBERS) & 0xFFFF for _ in range(2))), "avail"
        )
    if kind < 0.92:
        return write(
            area.used + 2 * chance.randrange(70), struct.pack("<H", chance.choice(NUMBERS) & 0xFFFF), "used"
        )
    return write(
        BUFFERS + 4 * chance.randrange(4), struct.pack("<I", chance.choice(NUMBERS) & 0xFFFFFFFF), "header"
    )


# Each changes a list of steps in place.


def _sends(steps: list[Step]) -> list[int]:
    return [number for number, step in enumerate(steps) if step["op"] == "send"]


def _change(steps: list[Step], at: int, data: bytes, fds: list[str] | None = None) -> None:
    step = steps[at]
    fds = step["fds"] if fds is None else fds
    steps[at] = {**step, "data": data.hex(), "fds": fds, "note": note(data, len(fds))}


def _pick(steps: list[Step], chance: random.Random) -> tuple[int, bytes]:
    at = chance.choice(_sends(steps))
    return at, bytes.fromhex(steps[at]["data"])


def _field(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Another number in one field of a payload."""
    candidates = [at for at in _sends(steps) if len(steps[at]["data"]) > 2 * Header.SIZE]
    if not candidates:
        return
    at = chance.choice(candidates)
    data = bytearray.fromhex(steps[at]["data"])
    width = chance.choice((1, 2, 4, 8, 8))
    offset = chance.randrange(Header.SIZE, len(data), min(width, 4))
    value = chance.choice((*NUMBERS, chance.getrandbits(64)))
    if chance.random() < 0.3:
        value = int.from_bytes(data[offset : offset + width], "little") ^ 1 << chance.randrange(8 * width)
    data[offset : offset + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")[
        : len(data) - offset
    ]
    _change(steps, at, bytes(data))


def _header(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Another id, other flags or another size."""
    at, data = _pick(steps, chance)
    if len(data) < Header.SIZE:
        return
    fields = list(struct.unpack("=III", data[:12]))
    which = chance.randrange(3)
    flipped = fields[which] ^ 1 << chance.randrange(32)
    fields[which] = chance.choice((flipped, chance.randrange(64), chance.choice(NUMBERS) & 0xFFFFFFFF))
    _change(steps, at, struct.pack("=III", *fields) + data[12:])


def _resize(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """A payload that is longer or shorter, header in step or not."""
    at, data = _pick(steps, chance)
    size = chance.choice((0, 4, len(data), len(data) + 8, 4096, chance.randrange(128)))
    payload = (data[Header.SIZE :] + bytes(8192))[:size]
    if chance.random() < 0.7 and len(data) >= Header.SIZE:
        data = data[:8] + struct.pack("=I", size)
    _change(steps, at, data[: Header.SIZE] + payload)


def _descriptors(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Other descriptors: fewer, more, or of another kind."""
    at, data = _pick(steps, chance)
    fds = list(steps[at]["fds"])
    kind = chance.randrange(4)
    if kind == 0 and fds:
        fds.pop()
    elif kind == 1 and fds:
        fds[chance.randrange(len(fds))] = chance.choice(ODD_DESCRIPTORS)
    elif kind == 2:
        fds += [chance.choice(ODD_DESCRIPTORS)] * chance.choice((1, 1, 2, 7, 8, 9, 100))
    else:
        fds = [chance.choice(ODD_DESCRIPTORS)]
    _change(steps, at, data, fds)


def _repeat(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """A step, or a few, many times."""
    first = chance.randrange(1, len(steps))
    some = steps[first : first + chance.choice((1, 1, 2, 4))]
    if any(step["op"] in ("connect", "repeat") for step in some):
        return
    steps.insert(first, {"op": "repeat", "count": chance.choice((2, 2, 5, 20, 60)), "steps": some})


def _drop(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """A step less."""
    del steps[chance.randrange(1, len(steps))]


def _swap(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Two steps exchanged."""
    one, two = chance.randrange(1, len(steps)), chance.randrange(1, len(steps))
    steps[one], steps[two] = steps[two], steps[one]


def _insert(steps: list[Step], script: Script, chance: random.Random) -> None:
    """A message of the table with a random payload of the right size."""
    row = chance.choice(FRONTEND_REQUESTS.rows)
    size = getattr(row.payload, "SIZE", 0) + chance.choice((0, 0, 0, 32))
    words = b"".join(struct.pack("=Q", chance.choice(NUMBERS)) for _ in range(size // 8 + 1))
    fds = [chance.choice(ODD_DESCRIPTORS) for _ in range(chance.choice((0, 0, 1, 1, 2)))]
    steps.insert(chance.randrange(1, len(steps)), script.message(row.id, words[:size], fds))


def _cut(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """A message that ends in the middle; half the time the connection does, too."""
    at, data = _pick(steps, chance)
    _change(steps, at, data[: chance.randrange(len(data) + 1)])
    if chance.random() < 0.5:
        steps.insert(at + 1, CLOSE)


def _again(steps: list[Step], script: Script, chance: random.Random) -> None:
    """Another connection in the middle of everything."""
    steps[chance.randrange(1, len(steps)) : 0] = [CLOSE, CONNECT, *script.extras()[:3]]


def _noise(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Bytes that are not a message."""
    steps.insert(chance.randrange(1, len(steps)), send(chance.randbytes(chance.choice((1, 11, 12, 13, 300)))))


def _shrink(steps: list[Step], _script: Script, chance: random.Random) -> None:
    """Guest memory cut off, and perhaps there again."""
    at = chance.randrange(1, len(steps))
    steps.insert(at, {"op": "truncate", "size": chance.choice((0, 4096, MEMORY_SIZE // 2))})
    steps.append({"op": "truncate", "size": MEMORY_SIZE})


def _moved_ring(steps: list[Step], script: Script, chance: random.Random) -> None:
    """Ring addresses anywhere."""
    table, used, available = (user(chance.randrange(0, MEMORY_SIZE + 64, 16)) for _ in range(3))
    flags, log = chance.choice((0, 0, 1)), chance.choice(NUMBERS)
    address = VringAddress(0, flags, table, used, available, log)
    steps.insert(chance.randrange(1, len(steps)), script.message(FrontendRequest.SET_VRING_ADDR, address))


MUTATIONS: tuple[Callable[[list[Step], Script, random.Random], None], ...] = (
    _field, _field, _field, _field, _header, _resize, _descriptors, _descriptors, _repeat, _drop, _swap,
    _insert,    _insert, _cut, _again, _noise, _shrink, _moved_ring,
)  # fmt: skip
