"""The dirty log over a real socket, compared bit by bit with what the driver saw change: C077 to C087."""

from __future__ import annotations

import mmap
import os
import random
import select
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from vhost_user import Device, Request, RequestRefused
from vhost_user.engine.driver.memory import DEFAULT_GUEST_ADDRESS, DriverRegion
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, Log, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd

PAGE = 4096
LOG_RING_AT = 0x7000_0000
"""log_guest_addr of the ring: in no memory region (C079)."""


class Scatter(Device):
    """Writes as many bytes as the request says, after leaving as large a gap as it says."""

    def handle(self, request: Request) -> None:
        gap, length = request.unpack("<II")
        request.skip_writable(gap)
        request.write(b"\xaa" * length)


class LogFile:
    """The log, as the front-end maps it."""

    def __init__(self, pages: int, offset: int = 0) -> None:
        self.size = (pages + 7) // 8
        self.offset = offset
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, offset + self.size)
        self.map = mmap.mmap(self.fd, offset + self.size)

    def dirty(self) -> set[int]:
        bits = self.map[self.offset :]
        return {8 * byte + bit for byte, value in enumerate(bits) for bit in range(8) if value >> bit & 1}

    def clear(self) -> None:
        self.map[:] = bytes(len(self.map))

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[LogFile]:
    file = LogFile(1 << 20)
    yield file
    file.close()


def begin(front: FrontEnd, log: LogFile, *, ring: bool = True) -> None:
    """As QEMU does: log base, features with LOG_ALL, addresses with the log flag."""
    assert front.call(Ask.SET_LOG_BASE, Log(log.size, log.offset), [log.fd]) == U64(0)
    front.call(Ask.SET_FEATURES, U64(front.session.negotiation.acked_features | VirtioFeature.LOG_ALL))
    if ring:
        front.call(Ask.SET_VRING_ADDR, front.addresses(flags=1, log=LOG_RING_AT))


def ask(front: FrontEnd, address: int, gap: int, length: int, room: int) -> set[int]:
    """One request whose writable part is at ``address``; the pages it must dirty."""
    ring = front.rings[0]
    header = front.memory.allocate(8)
    front.memory.write(header, gap.to_bytes(4, "little") + length.to_bytes(4, "little"))
    before, slot = ring.used_index, ring.used_index
    ring.add([(header, 8)], [(address, room)])
    ring.publish()
    ring.kick()
    front.collect()
    front.memory.free(header)
    assert ring.used_index == before + 1
    pages = pages_of(address + gap, length)
    element = 4 + 8 * (slot % ring.size)
    pages |= pages_of(LOG_RING_AT + element, 8) | pages_of(LOG_RING_AT + 2, 2)
    if ring.event_idx:
        pages |= pages_of(LOG_RING_AT + 4 + 8 * ring.size, 2)
    else:
        pages |= pages_of(LOG_RING_AT, 2)
    return pages


def pages_of(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1)) if length else set()


def test_C077_C078_C079_bit_exact_against_an_oracle_with_regions_added_while_logging(
    stage: Stage, log: LogFile
) -> None:
    rng = random.Random(2)
    regions = [DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS)]
    _, front = stage.serve(Scatter(), regions=regions)
    front.negotiate()
    front.add_region(regions[0])
    front.start_ring(size=256)
    begin(front, log)
    expected: set[int] = set()
    starts = [DEFAULT_GUEST_ADDRESS + (1 << 19)]
    for round_ in range(4):
        for _ in range(40):
            start = rng.choice(starts) + rng.randrange(1 << 18)
            gap, length = rng.choice([0, 1, 5000]), rng.choice([0, 1, 2, 4095, 4096, 4097, 20000])
            expected |= ask(front, start, gap, length, gap + length + 10)
        assert log.dirty() == expected, f"round {round_}"
        added = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS + ((round_ + 2) << 24))
        front.memory.add_region(added)
        front.add_region(added)
        starts.append(added.guest_address)


def test_C077_nothing_is_logged_without_log_all(stage: Stage, log: LogFile) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    front.call(Ask.SET_LOG_BASE, Log(log.size), [log.fd])
    ask(front, DEFAULT_GUEST_ADDRESS + (1 << 19), 0, 100, 100)
    assert log.dirty() == set()


def test_C079_without_the_log_flag_the_ring_is_not_logged(stage: Stage, log: LogFile) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    begin(front, log, ring=False)
    address = DEFAULT_GUEST_ADDRESS + (1 << 19)
    ask(front, address, 0, 100, 100)
    assert log.dirty() == pages_of(address, 100)


def test_C081_the_log_may_be_replaced_and_lie_at_any_offset(stage: Stage, log: LogFile) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    begin(front, log, ring=False)
    other = LogFile(1 << 19, offset=4096 + 136)
    front.call(Ask.SET_LOG_BASE, Log(other.size, other.offset), [other.fd])
    address = DEFAULT_GUEST_ADDRESS + (1 << 19)
    ask(front, address, 0, 100, 100)
    assert (log.dirty(), other.dirty()) == (set(), pages_of(address, 100))
    other.close()


def test_C082_pages_beyond_the_log_are_ignored(stage: Stage) -> None:
    small = LogFile(DEFAULT_GUEST_ADDRESS // PAGE + 8)
    guard = LogFile(8)
    _, front = stage.serve(Scatter())
    front.bring_up()
    begin(front, small, ring=False)
    ask(front, DEFAULT_GUEST_ADDRESS + (1 << 19), 0, 9000, 9000)
    assert small.dirty() == set()
    assert front.request(readable=bytes(8), writable=8) == b""
    small.close()
    guard.close()


@pytest.mark.parametrize(("size", "offset"), [(1 << 30, 0), (4096, 1 << 40), (1 << 62, 1 << 62)])
def test_C082_a_log_that_its_file_does_not_hold_is_refused(
    stage: Stage, log: LogFile, size: int, offset: int
) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_LOG_BASE, Log(size, offset), [log.fd])
    assert front.request(readable=bytes(8), writable=8) == b""


def test_C083_the_log_fd_is_written_when_the_log_changes(stage: Stage, log: LogFile) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    event = os.eventfd(0, os.EFD_NONBLOCK)
    front.call(Ask.SET_LOG_FD, fds=[event])
    begin(front, log)
    ask(front, DEFAULT_GUEST_ADDRESS + (1 << 19), 0, 100, 100)
    assert select.select([event], [], [], 10)[0]
    os.close(event)


def test_C085_after_the_ring_stopped_nothing_is_logged(stage: Stage, log: LogFile) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    begin(front, log)
    ask(front, DEFAULT_GUEST_ADDRESS + (1 << 19), 0, 100, 100)
    front.call(Ask.GET_VRING_BASE, VringState(0))
    log.clear()
    front.rings[0].kick(force=True)
    assert not front.rings[0].wait(0.05)
    assert log.dirty() == set()


def test_C029_C086_C095_logging_is_in_force_when_the_ack_arrives_and_can_be_switched_off(
    stage: Stage, log: LogFile
) -> None:
    _, front = stage.serve(Scatter())
    front.bring_up()
    address = DEFAULT_GUEST_ADDRESS + (1 << 19)
    for _ in range(5):
        begin(front, log)
        expected = ask(front, address, 0, 100, 100)
        assert log.dirty() == expected
        without = front.session.negotiation.acked_features & ~int(VirtioFeature.LOG_ALL)
        front.call(Ask.SET_FEATURES, U64(without))
        front.call(Ask.SET_VRING_ADDR, front.addresses())
        log.clear()
        ask(front, address, 0, 100, 100)
        assert log.dirty() == set()


def test_C087_log_shmfd_is_offered(stage: Stage) -> None:
    _, front = stage.serve(Scatter())
    front.call(Ask.GET_FEATURES)
    assert front.call(Ask.GET_PROTOCOL_FEATURES).value >> 1 & 1


def test_C134_the_log_is_unmapped_at_the_end_though_somebody_keeps_the_memory(
    stage: Stage, log: LogFile
) -> None:
    daemon, front = stage.serve(Scatter())
    front.bring_up()
    begin(front, log)
    kept = daemon.memory.memory().bitmap
    assert kept is not None
    states = [(kept.mapped, kept.enabled)]
    front.close()
    assert daemon.wait(10)
    states.append((kept.mapped, kept.enabled))
    assert states == [(True, True), (False, False)]
