"""How much one chain may be: entries of a table, bytes, segments, and where the address space ends."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path

import pytest

from tests.engine.pair import INDIRECT, WRITE, D, MakePair, Pair
from vhost_user.engine.device.request import Request
from vhost_user.engine.errors import MemoryFault, RequestError
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion


def long_table(pair: Pair, entries: int, length: int = 1, flags: int = 0) -> D:
    """A descriptor of a table that names the same buffer again and again."""
    address, _ = pair.buffer(b"x" * length)
    table = pair.table(*(D(address, length, flags) for _ in range(entries)))
    return D(*table, INDIRECT)


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("entries", [65, 130, 515, 1024, 4096])
def test_V005_V031_an_indirect_table_may_be_longer_than_the_ring(
    make_pair: MakePair, size: int, entries: int
) -> None:
    pair = make_pair(size)
    pair.offer(long_table(pair, entries))
    request = pair.take()
    assert request.read() == b"x" * entries
    request.complete()


@pytest.mark.parametrize("size", [4, 16, 64])
def test_V005_a_table_of_exactly_the_limit_is_served_and_one_more_is_not(
    make_pair: MakePair, size: int
) -> None:
    pair = make_pair(size)
    limit = pair.vring.indirect_limit
    assert limit >= 1024
    pair.offer(long_table(pair, limit))
    assert pair.take().readable == limit
    other = make_pair(size)
    other.offer(long_table(other, limit + 1))
    assert other.refused() == "V005"


def test_V005_the_limit_can_be_set_also_while_the_ring_runs(make_pair: MakePair) -> None:
    pair = make_pair(4, regions=8 << 20)
    pair.vring.indirect_limit = 9000
    pair.offer(long_table(pair, 9000))
    assert pair.take().readable == 9000
    other = make_pair(4)
    other.vring.indirect_limit = 100
    other.offer(long_table(other, 101))
    assert other.refused() == "V005"
    for value in (0, -1, 65537):
        with pytest.raises(ValueError, match="65536"):
            pair.vring.indirect_limit = value


def test_V005_the_limit_is_the_rings_when_it_starts_again(make_pair: MakePair) -> None:
    pair = make_pair(4, start=False)
    pair.vring.indirect_limit = 100
    pair.start()
    pair.offer(long_table(pair, 101))
    assert pair.refused() == "V005"


def test_V008_direct_descriptors_of_a_whole_ring_and_a_table_are_one_chain(new_pair: MakePair) -> None:
    pair = new_pair(False, 16)
    direct = [D(*pair.buffer(b"d")) for _ in range(15)]
    pair.offer(*direct, long_table(pair, 4096))
    assert pair.take().read() == b"d" * 15 + b"x" * 4096


def test_V005_a_loop_in_a_long_table_ends(new_pair: MakePair) -> None:
    pair = new_pair(False, 4)
    address, _ = pair.buffer(1)
    entries = [D(address, 1) for _ in range(100)]
    entries[-1].flags = 1
    entries[-1].next = 0
    pair.offer(D(*pair.table(*entries), INDIRECT))
    assert pair.refused() == "V005"


@pytest.mark.parametrize("size", [4, 16, 64])
def test_V005_large_requests_in_tables_get_their_data_both_ways(make_pair: MakePair, size: int) -> None:
    """What a guest does with a large direct read and write: some hundred pages and a status."""
    pair = make_pair(size, regions=64 << 20)
    for turn in range(8):
        pages = [bytes((turn + page & 0xFF,)) * 512 for page in range(200)]
        pair.add([b"head", *pages], [512] * 200 + [1], indirect=True)
        request = pair.take()
        assert request.read() == b"head" + b"".join(pages)
        request.fill(turn & 0xFF, keep=1)
        request.write_last(b"\1")
        assert request.written == 512 * 200 + 1
        request.complete()
        assert [length for _, length in pair.queue.poll_many()] == [512 * 200 + 1]


def whole(length: int, pieces: int) -> list[int]:
    """That many bytes in so many descriptors."""
    part = length // pieces
    return [part] * (pieces - 1) + [length - part * (pieces - 1)]


@pytest.mark.parametrize("flags", [0, WRITE])
def test_V012_a_chain_of_exactly_4_gib_is_legal_and_one_byte_more_is_not(
    make_pair: MakePair, flags: int
) -> None:
    pair = make_pair()
    pair.offer(*(D(0x1000, length, flags) for length in whole(1 << 32, 4)))
    request = pair.take()
    assert request.readable_total + request.writable_total == 1 << 32
    request.complete()
    other = make_pair()
    other.offer(*(D(0x1000, length, flags) for length in whole((1 << 32) + 1, 4)))
    assert other.refused() == "V012"


@pytest.mark.parametrize("way", ["complete", "add_used", "process"])
def test_V014_used_len_of_4_gib_is_not_cut_off_to_nothing(make_pair: MakePair, way: str) -> None:
    """It does not fit its 32 bits; a driver must not be told that nothing was written."""
    pair = make_pair(8)
    address, _ = pair.buffer(1 << 20)
    pair.vring.indirect_limit = 4096
    pair.offer(D(*pair.table(*(D(address, 1 << 20, WRITE) for _ in range(4096))), INDIRECT))
    if way == "process":
        pair.vring.process(lambda request: request.advance_writable(1 << 32))
    else:
        request = pair.take()
        request.advance_writable(1 << 32)
        assert request.written == 1 << 32
        if way == "complete":
            request.complete()
        else:
            pair.vring.add_used(request)
    assert used_length(pair) == 0xFFFF_FFFF


def used_length(pair: Pair) -> int:
    """Of the first used entry, as it stands in memory."""
    if pair.packed:
        raw = pair.memory.read(pair.queue.descriptor_address + 8, 4)
    else:
        raw = pair.memory.read(pair.queue.device_address + 8, 4)
    return int.from_bytes(raw, "little")


def many_regions(count: int, size: int, first: int = 0) -> GuestMemory:
    """That many regions in a row, all of them the same pages."""
    fd = os.memfd_create("regions")
    try:
        os.ftruncate(fd, size)
        return GuestMemory(
            [MemoryRegion(fd, guest_address=first + index * size, size=size) for index in range(count)]
        )
    finally:
        os.close(fd)


def test_V012_buffers_in_very_many_regions_break_the_ring(make_pair: MakePair) -> None:
    """508 regions under a large ring: each buffer of each descriptor in 508 pieces was gigabytes."""
    base = 0x1_0000_0000
    pair = make_pair(64)
    pair.vring.stop()
    regions = list(pair.guest.regions) + list(many_regions(500, mmap.PAGESIZE, base).regions)
    memory = GuestMemory(regions)
    pair.vring.set_memory(memory)
    pair.start()
    pair.offer(*(D(base, 500 * mmap.PAGESIZE) for _ in range(64)))
    try:
        assert pair.refused() == "V012"
    finally:
        pair.vring.reset()
        memory.close()


def test_C048_a_buffer_across_as_many_regions_as_there_may_be_is_served(make_pair: MakePair) -> None:
    base = 0x1_0000_0000
    pair = make_pair(8)
    pair.vring.stop()
    memory = GuestMemory(list(pair.guest.regions) + list(many_regions(500, mmap.PAGESIZE, base).regions))
    pair.vring.set_memory(memory)
    pair.start()
    pair.offer(D(base + 1, 500 * mmap.PAGESIZE - 1))
    request = pair.take()
    assert len(request.segments()) == 500
    assert len(request.read()) == 500 * mmap.PAGESIZE - 1
    request.complete()
    pair.vring.reset()
    memory.close()


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def test_V012_what_a_huge_chain_needed_is_given_back(make_pair: MakePair) -> None:
    pair = make_pair(64, regions=16 << 20)
    pair.vring.indirect_limit = 65536
    table = long_table(pair, 65536)
    for head in range(64):
        pair.offer(D(table.address, table.length, INDIRECT), head=head)
    seen: list[int] = []
    before = resident()
    assert pair.vring.process_batch(lambda batch: seen.extend(r.readable for r in batch)) == 64
    assert seen == [65536] * 64
    # 64 of them have 100 MB of segments.
    assert resident() - before < 32 << 20


def test_V012_a_read_without_a_length_has_a_limit(make_pair: MakePair) -> None:
    pair = make_pair(8)
    address, _ = pair.buffer(1 << 20)
    limit = pair.vring.max_read
    pair.offer(*(D(address, 1 << 20) for _ in range(7)), D(address, 1))
    pair.vring.max_read = 7 << 20
    request = pair.take()
    with pytest.raises(RequestError, match="max_read") as caught:
        request.read()
    assert caught.value.rule == "V012"
    assert len(request.read(1 << 20)) == 1 << 20
    assert len(request.read()) == 6 << 20 | 1
    assert limit == 16 << 20
    for value in (-1, (1 << 32) + 1):
        with pytest.raises(ValueError, match="max_read"):
            pair.vring.max_read = value


def test_V012_a_request_too_long_for_a_batch_read_leaves_the_batch(make_pair: MakePair) -> None:
    pair = make_pair(8)
    pair.vring.max_read = 128 << 10
    address, _ = pair.buffer(1 << 20)
    pair.offer(D(address, 1 << 20), head=0)
    pair.offer(D(*pair.buffer(b"short")), head=1)
    answers: list[bytes] = []
    failed: list[BaseException] = []
    pair.vring.process_batch(
        lambda batch: answers.extend(batch.read()), lambda _request, error: failed.append(error)
    )
    assert answers == [b"short"]
    assert isinstance(failed[0], RequestError)


TOP = 1 << 64


def across_the_top(make_pair: MakePair) -> tuple[Pair, GuestMemory]:
    """A ring that runs in its pair's memory, the last page of the address space, and the first."""
    pair = make_pair()
    pair.vring.stop()
    last = many_regions(1, mmap.PAGESIZE, TOP - mmap.PAGESIZE)
    first = many_regions(1, mmap.PAGESIZE, 0)
    memory = GuestMemory([*first.regions, *pair.guest.regions, *last.regions])
    pair.vring.set_memory(memory)
    pair.start()
    return pair, memory


def test_V011_H78_a_buffer_across_the_end_of_the_address_space_does_not_go_on_at_0(
    make_pair: MakePair,
) -> None:
    pair, memory = across_the_top(make_pair)
    pair.offer(D(TOP - 4, 8))
    request = pair.take()
    with pytest.raises(MemoryFault):
        request.read()
    assert len(request.read(4)) == 4
    assert not memory.is_mapped(TOP - 4, 8)
    with pytest.raises(MemoryFault):
        memory.read(TOP - 4, 8)
    request.complete()
    pair.vring.reset()
    memory.close()


def test_V011_H78_an_indirect_table_across_the_end_of_the_address_space_breaks_the_ring(
    make_pair: MakePair,
) -> None:
    pair, memory = across_the_top(make_pair)
    pair.offer(D(TOP - 16, 32, INDIRECT))
    assert pair.refused() == "V011"
    pair.vring.reset()
    memory.close()


def test_V041_positions_of_an_in_order_ring_of_any_size_go_round(make_pair: MakePair) -> None:
    """Rings of a packed format have any size; positions stay below it, however often they go round."""
    packed = make_pair(1).packed
    pair = make_pair(7 if packed else 8, in_order=True)
    held: list[Request] = []
    for turn in range(100):
        pair.add([b"%d" % turn])
        held.append(pair.take())
        if len(held) == 5:
            for request in reversed(held):
                request.complete()
            held.clear()
            assert len(pair.queue.poll_many()) == 5


def test_an_owner_is_made_once(make_pair: MakePair) -> None:
    pair = make_pair()
    with pytest.raises(RuntimeError, match="made once"):
        pair.vring.__init__(1, 8)
    assert pair.vring.index == 0
