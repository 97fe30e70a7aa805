"""Guests that try to harm a sound device's program: H47, V005, V012, C054, C134."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.support.front_end import FrontEnd
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.spec.sound import (
    FRAME_RATES,
    PcmFeature,
    PcmHeader,
    PcmInfo,
    PcmSetParams,
    PcmTransfer,
    SampleFormat,
    SoundHeader,
    SoundQuery,
    SoundRequest,
    SoundStatus,
)

Arena = Callable[..., Any]
QUERY = SoundQuery(SoundRequest.PCM_INFO, 0, 1, PcmInfo.SIZE).pack()
COMMANDS = (
    SoundRequest.PCM_PREPARE,
    SoundRequest.PCM_RELEASE,
    SoundRequest.PCM_START,
    SoundRequest.PCM_STOP,
)
ANSWERS = {SoundHeader(status).pack() for status in SoundStatus}


def up(attack: Any, size: int = 64) -> FrontEnd:
    front: FrontEnd = attack.front_end(regions=[DriverRegion(64 << 20, guest_address=1 << 30)])
    front.bring_up(queues=4, size=size)
    return front


def say(front: FrontEnd, data: bytes) -> int:
    return SoundHeader.unpack(front.request(0, data, 4)).code


def parameters(stream: int = 0, **change: int) -> bytes:
    usual = {
        "buffer_bytes": 7680, "period_bytes": 1920, "features": 0, "channels": 2, "format": 5, "rate": 7
    }  # fmt: skip
    return PcmSetParams(SoundRequest.PCM_SET_PARAMS, stream, **{**usual, **change}).pack()


def run(front: FrontEnd, stream: int = 0, **change: int) -> None:
    assert say(front, parameters(stream, **change)) == SoundStatus.OK
    for code in (SoundRequest.PCM_PREPARE, SoundRequest.PCM_START):
        assert say(front, PcmHeader(code, stream).pack()) == SoundStatus.OK


def serves(front: FrontEnd) -> None:
    answer = front.request(0, QUERY, 4 + PcmInfo.SIZE)
    assert answer[:4] == SoundHeader(SoundStatus.OK).pack()


def test_requests_of_every_kind(arena: Arena) -> None:
    with arena("sound") as attack:
        front = up(attack)
        numbers = random.Random(25)
        extremes = (0, 1, 2, 24, 32, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
        for _ in range(3000):
            code = numbers.choice([*SoundRequest, 0, 0x106, 0x300, 0xFFFF_FFFF])
            rest = [numbers.choice(extremes) for _ in range(numbers.randrange(6))]
            data = b"".join(number.to_bytes(4, "little") for number in (code, *rest))
            assert front.request(0, data, numbers.choice((4, 36, 300)))[:4] in ANSWERS
        for _ in range(500):
            assert front.request(0, numbers.randbytes(numbers.randrange(1, 40)), 64)[:4] in ANSWERS
        serves(front)


def test_H47_informations_of_gigabytes_are_refused(arena: Arena) -> None:
    with arena("sound") as attack:
        front = attack.front_end(regions=[DriverRegion(64 << 20, guest_address=1 << 30)])
        front.negotiate()
        front.share_memory()
        ring = front.start_ring(0, size=1024)
        address = front.memory.allocate(16)
        for count, size in ((1, 0xFFFF_0000), (2, 0x7FFF_8000), (2, 1 << 26)):
            front.memory.write(address, SoundQuery(SoundRequest.PCM_INFO, 0, count, size).pack())
            ring.add([(address, 16)], [((1 << 30) + (4 << 20), 56 << 20)] * 70)
            ring.publish()
            ring.kick()
            assert front.collect(0)[1] == 4
        serves(front)


def test_H47_requests_and_buffers_that_leave_no_room_for_an_answer(arena: Arena) -> None:
    with arena("sound") as attack:
        front = up(attack)
        run(front)
        run(front, 1)
        for queue, data in ((0, QUERY), (2, PcmTransfer(0).pack() + bytes(64)), (3, PcmTransfer(1).pack())):
            for room in (0, 1, 3):
                token, _ = front.post(queue, data, room)
                assert front.collect(queue) == (token, 0 if queue == 3 else room)
        for size in (1, 7):
            front.post(1, writable=size)
        front.post(1, readable=b"not writable at all")
        serves(front)


def test_streams_of_the_smallest_buffers(arena: Arena) -> None:
    """A frame a buffer, as many as the ring holds, and events for each: they come at their pace."""
    with arena("sound") as attack:
        front = up(attack, size=256)
        tiny = {"period_bytes": 32, "buffer_bytes": 64, "channels": 8, "format": SampleFormat.S32}
        tiny["rate"] = FRAME_RATES.index(384000)
        features = PcmFeature.EVT_XRUNS | PcmFeature.EVT_SHMEM_PERIODS
        for stream in (0, 1):
            run(front, stream, **tiny, features=features)
        for _ in range(30):
            for queue, data, room in (
                (2, PcmTransfer(0).pack() + bytes(32), 8),
                (3, PcmTransfer(1).pack(), 40),
            ):
                tokens = {front.post(queue, data, room, kick=False)[0] for _ in range(120)}
                front.rings[queue].kick(force=True)
                for token in {front.collect(queue)[0] for _ in range(120)}:
                    tokens.remove(token)
                assert not tokens
        serves(front)


def test_nonsense_in_the_rings_without_end(arena: Arena) -> None:
    with arena("sound") as attack:
        front = up(attack, size=256)
        run(front)
        numbers = random.Random(7)
        for _ in range(60):
            for queue in (2, 3):
                for _ in range(40):
                    data = numbers.randbytes(numbers.choice((1, 3, 5, 9, 4097)))
                    front.post(queue, data, numbers.choice((8, 9, 300)), kick=False)
                front.rings[queue].kick(force=True)
                for _ in range(40):
                    front.collect(queue)
        serves(front)


def test_states_one_after_the_other_with_buffers_held(arena: Arena) -> None:
    with arena("sound") as attack:
        front = up(attack, size=256)
        numbers = random.Random(14)
        held = 0
        for _ in range(2000):
            if held < 40 and numbers.random() < 0.4:
                front.post(2, PcmTransfer(0).pack() + bytes(numbers.choice((4, 1920, 40000))), 8)
                held += 1
            elif numbers.random() < 0.2:
                say(front, parameters())
            else:
                say(front, PcmHeader(numbers.choice(COMMANDS), 0).pack())
            while front.rings[2].poll() is not None:
                held -= 1
        say(front, PcmHeader(SoundRequest.PCM_STOP, 0).pack())
        say(front, PcmHeader(SoundRequest.PCM_RELEASE, 0).pack())
        for _ in range(held):
            front.collect(2)
        serves(front)


def test_C054_stops_with_buffers_of_hours_held(arena: Arena) -> None:
    with arena("sound") as attack:
        front = attack.front_end(regions=[DriverRegion(64 << 20, guest_address=1 << 30)])
        front.negotiate()
        front.share_memory()
        for queue in range(4):
            front.start_ring(queue, size=1024)
        for stream in (0, 1):
            run(front, stream, format=SampleFormat.U8, channels=1, period_bytes=40, buffer_bytes=80)
        address = front.memory.allocate(64)
        huge = ((1 << 30) + (4 << 20), 56 << 20)
        for queue, stream in ((2, 0), (3, 1)):
            front.memory.write(address + 8 * stream, PcmTransfer(stream).pack())
            head = (address + 8 * stream, 4)
            for _ in range(3):
                parts = (
                    ([head, *[huge] * 60], [(address + 32, 8)]),
                    ([head], [*[huge] * 60, (address + 32, 8)]),
                )
                front.rings[queue].add(*parts[stream])
                front.rings[queue].publish()
            front.rings[queue].kick()
        for _ in range(20):
            for queue in (2, 3):
                base = front.stop_ring(queue)
                front.start_ring(queue, size=1024, base=base)
        for stream in (0, 1):
            for code in (SoundRequest.PCM_STOP, SoundRequest.PCM_RELEASE):
                assert say(front, PcmHeader(code, stream).pack()) == SoundStatus.OK
        for queue in (2, 3):
            for _ in range(3):
                front.collect(queue)
        serves(front)


def test_V012_C134_gigabytes_in_a_chain_end_with_their_session(arena: Arena) -> None:
    with arena("sound") as attack:
        attack.gigabytes(dict.fromkeys(range(4), "read"))


def test_V005_sound_that_lies_in_no_memory(arena: Arena) -> None:
    with arena("sound") as attack:
        front = up(attack)
        for stream in (0, 1):
            run(front, stream)
        address = front.memory.allocate(64)
        nowhere = (0xDEAD_0000_0000, 1920)
        for queue, stream in ((2, 0), (3, 1)):
            front.memory.write(address, PcmTransfer(stream).pack())
            head, status = (address, 4), (address + 32, 8)
            ring = front.rings[queue]
            for readable, writable in (
                ([head, nowhere], [status]) if not stream else ([head], [nowhere, status]),
                ([nowhere], [status]),
                ([head], [(0xDEAD_0000_0000, 8)]),
            ):
                ring.add(readable, writable)
                ring.publish()
                ring.kick()
                front.collect(queue)
        attack.wait_in_log("is not mapped")
        serves(front)
