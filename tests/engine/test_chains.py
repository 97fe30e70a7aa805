"""Descriptor chains, well formed and not: V003 to V012, V021, V022, V026, V030 to V032."""

from __future__ import annotations

import pytest

from tests.engine.pair import INDIRECT, NEXT, WRITE, D, MakePair
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import MemoryFault

BASE = 0x1000_0000


def data(pair_buffer: tuple[int, int], flags: int = 0) -> D:
    return D(pair_buffer[0], pair_buffer[1], flags)


@pytest.mark.parametrize("jump", [9, 1000, 0x7FFF, 0xFFFF])
def test_V003_H59_H66_an_available_index_that_jumps_breaks_the_ring(new_pair: MakePair, jump: int) -> None:
    pair = new_pair(False)
    pair.split.set_avail_index(jump)
    assert pair.refused() == "V003"


def test_V003_exactly_queue_size_pending_is_legal(new_pair: MakePair) -> None:
    pair = new_pair(False)
    for head in range(8):
        pair.split.write_descriptor(head, pair.buffer(1)[0], 1)
        pair.split.write_avail(head, head)
    pair.split.set_avail_index(8)
    assert [pair.take().head for _ in range(8)] == list(range(8))
    assert pair.vring.pop() is None


@pytest.mark.parametrize("head", [8, 9, 0x8000, 0xFFFF])
def test_V004_H79_a_head_outside_of_the_table_breaks_the_ring(new_pair: MakePair, head: int) -> None:
    pair = new_pair(False)
    pair.make_available(head)
    assert pair.refused() == "V004"


@pytest.mark.parametrize("following", [8, 0xFFFF])
def test_V004_next_outside_of_the_table_breaks_the_ring(new_pair: MakePair, following: int) -> None:
    pair = new_pair(False)
    pair.offer(D(*pair.buffer(4), NEXT, next=following))
    assert pair.refused() == "V004"


@pytest.mark.parametrize("size", [1, 2, 8, 256])
def test_V005_a_chain_of_exactly_queue_size_is_legal(make_pair: MakePair, size: int) -> None:
    pair = make_pair(size)
    pair.offer(*(data(pair.buffer(b"%03d" % index)) for index in range(size)))
    assert pair.take().read() == b"".join(b"%03d" % index for index in range(size))


@pytest.mark.parametrize("size", [1, 2, 8, 256])
def test_V005_an_indirect_chain_of_exactly_queue_size_is_legal(make_pair: MakePair, size: int) -> None:
    pair = make_pair(size)
    table = pair.table(*(data(pair.buffer(b"%03d" % index)) for index in range(size)))
    pair.offer(data(table, INDIRECT))
    assert pair.take().read() == b"".join(b"%03d" % index for index in range(size))


def test_V005_H11_H57_loops_end(new_pair: MakePair) -> None:
    for target in range(3):
        pair = new_pair(False)
        pair.offer(D(*pair.buffer(1), NEXT), D(*pair.buffer(1), NEXT), D(*pair.buffer(1), NEXT, next=target))
        assert pair.refused() == "V005"


def test_V005_a_loop_of_empty_descriptors_ends(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.offer(D(0, 0, NEXT, next=0))
    assert pair.refused() == "V005"


def test_V005_a_loop_in_an_indirect_table_ends(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.offer(data(pair.table(D(*pair.buffer(1), NEXT, next=1), D(*pair.buffer(1), NEXT, next=0)), INDIRECT))
    assert pair.refused() == "V005"


def test_V006_readable_after_writable_breaks_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(data(pair.buffer(1)), data(pair.buffer(1), WRITE), data(pair.buffer(1)))
    assert pair.refused() == "V006"


def test_V006_readable_after_writable_in_an_indirect_table_breaks_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(data(pair.table(data(pair.buffer(1), WRITE), data(pair.buffer(1))), INDIRECT))
    assert pair.refused() == "V006"


def test_V007_an_indirect_table_that_was_not_negotiated_is_served(make_pair: MakePair) -> None:
    pair = make_pair(indirect=False)
    pair.offer(data(pair.table(data(pair.buffer(b"abc")), data(pair.buffer(2), WRITE)), INDIRECT))
    request = pair.take()
    assert (request.read(), request.writable) == (b"abc", 2)
    request.complete()


def test_V007_indirect_and_next_together_break_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(data(pair.table(data(pair.buffer(1))), INDIRECT | NEXT), data(pair.buffer(1)))
    assert pair.refused() == ("V030" if pair.packed else "V007")


def test_V007_nested_indirect_breaks_a_split_ring(new_pair: MakePair) -> None:
    pair = new_pair(False)
    inner = pair.table(data(pair.buffer(1)))
    pair.offer(data(pair.table(data(inner, INDIRECT)), INDIRECT))
    assert pair.refused() == "V007"


def test_V030_only_the_write_flag_means_anything_in_a_packed_indirect_table(new_pair: MakePair) -> None:
    pair = new_pair(True)
    table = pair.table(
        D(*pair.buffer(b"ab"), NEXT | INDIRECT, next=77), D(*pair.buffer(3), WRITE | NEXT, next=99)
    )
    pair.offer(data(table, INDIRECT | WRITE), head=5)
    request = pair.take()
    assert (request.read(), request.writable, request.head) == (b"ab", 3, 5)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 31])
def test_V007_V030_H41_length_of_an_indirect_table_that_is_no_multiple_of_16_breaks_the_ring(
    make_pair: MakePair, length: int
) -> None:
    pair = make_pair()
    address, _ = pair.table(data(pair.buffer(1)), data(pair.buffer(1)))
    pair.offer(D(address, length, INDIRECT))
    assert pair.refused() == ("V030" if pair.packed else "V007")


@pytest.mark.parametrize("entry", [2, 3, 0xFFFF])
def test_V007_next_outside_of_an_indirect_table_breaks_the_ring(new_pair: MakePair, entry: int) -> None:
    pair = new_pair(False)
    table = pair.table(D(*pair.buffer(1), NEXT, next=entry), data(pair.buffer(1)))
    pair.offer(data(table, INDIRECT))
    assert pair.refused() == "V007"


def test_V007_an_indirect_table_need_not_be_in_order(new_pair: MakePair) -> None:
    pair = new_pair(False)
    table = pair.table(
        D(*pair.buffer(b"a"), NEXT, next=2),
        D(*pair.buffer(b"c")),
        D(*pair.buffer(b"b"), NEXT, next=1),
        link=False,
    )
    pair.offer(data(table, INDIRECT))
    assert pair.take().read() == b"abc"


def test_V007_H25_an_indirect_table_across_regions_is_read_whole(new_pair: MakePair, packed: bool) -> None:
    low = DriverRegion(0x10000, guest_address=BASE)
    high = DriverRegion(0x10000, guest_address=BASE + 0x10000, file_offset=0x3000)
    pair = new_pair(packed, regions=[low, high])
    parts = [pair.buffer(b"%02d" % index) for index in range(4)]
    raw = b"".join(
        pair.entry(D(*part, flags=NEXT if index < 3 and not packed else 0), index + 1)
        for index, part in enumerate(parts)
    )
    # Entries straddle the border at every offset, also in the middle of one.
    for lead in (16, 24, 40, 63):
        address = BASE + 0x10000 - lead
        memoryview(low)[0x10000 - lead :] = raw[:lead]
        memoryview(high)[: 64 - lead] = raw[lead:]
        pair.offer(D(address, 64, INDIRECT), head=lead % 8)
        request = pair.take()
        assert request.read() == b"00010203"
        request.complete()


def test_V011_an_unmapped_indirect_table_breaks_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(D(0xDEAD0000, 16, INDIRECT))
    assert pair.refused() == "V011"


def test_V011_an_indirect_table_mapped_in_part_breaks_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    end = BASE + (4 << 20)
    pair.memory.write(end - 16, pair.entry(D(*pair.buffer(1), NEXT), 1))
    pair.offer(D(end - 16, 32, INDIRECT))
    assert pair.refused() == "V011"


def test_V008_write_on_the_indirect_descriptor_is_ignored(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(data(pair.table(data(pair.buffer(b"in")), data(pair.buffer(3), WRITE)), INDIRECT | WRITE))
    request = pair.take()
    assert (request.readable_total, request.writable_total) == (2, 3)


@pytest.mark.parametrize("direct", [1, 2, 7])
def test_V008_direct_descriptors_before_an_indirect_one_are_one_chain(
    new_pair: MakePair, direct: int
) -> None:
    pair = new_pair(False)
    first = [data(pair.buffer(b"%d" % index)) for index in range(direct)]
    table = pair.table(data(pair.buffer(b"x")))
    pair.offer(*first, data(table, INDIRECT))
    assert pair.take().read() == b"".join(b"%d" % index for index in range(direct)) + b"x"


def test_V030_direct_and_indirect_in_one_packed_list_break_the_ring(new_pair: MakePair) -> None:
    pair = new_pair(True)
    pair.offer(data(pair.buffer(1)), data(pair.table(data(pair.buffer(1))), INDIRECT))
    assert pair.refused() == "V030"


def test_V009_a_request_in_descriptors_of_one_byte(make_pair: MakePair) -> None:
    pair = make_pair(64)
    request = pair.serve([bytes([index]) for index in range(32)], [1] * 32)
    assert request.unpack("<QQQQ") == (
        0x0706050403020100,
        0x0F0E0D0C0B0A0908,
        0x1716151413121110,
        0x1F1E1D1C1B1A1918,
    )
    assert request.write(bytes(range(31))) == 31
    request.write_last(b"\x00")
    request.complete()
    used = pair.queue.poll()
    assert used is not None
    assert used[1] == 32


def test_V010_descriptors_of_length_zero_carry_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(
        D(*pair.buffer(b"a")),
        D(0xFFFF_FFFF_FFFF_FFFF, 0),
        D(*pair.buffer(b"b")),
        D(0, 0, WRITE),
        D(*pair.buffer(2), WRITE),
    )
    request = pair.take()
    assert (request.read(), request.writable) == (b"ab", 2)
    request.complete()


def test_V010_a_chain_of_nothing_but_length_zero_is_an_empty_request(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(D(0, 0), D(0, 0, WRITE))
    request = pair.take()
    assert (request.readable_total, request.writable_total, request.read()) == (0, 0, b"")
    request.complete()
    assert pair.vring.in_flight == 0


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0xFFFF_FFFF_FFFF_FF00, 512),  # H78: the sum wraps
        (0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFF0),
        (BASE + (4 << 20) - 1, 2),  # the last byte and one more
        (BASE - 1, 2),
        (0, 1),
    ],
)
def test_V011_H62_H64_H78_a_range_that_is_not_mapped_fails_the_request_alone(
    make_pair: MakePair, address: int, length: int
) -> None:
    pair = make_pair()
    pair.offer(D(*pair.buffer(b"ok")), D(address, length), head=1)
    request = pair.take()
    assert request.read(2) == b"ok"
    with pytest.raises(MemoryFault) as caught:
        request.read(2)
    assert (caught.value.rule, caught.value.queue, caught.value.head) == ("V011", 0, 1)
    request.complete()
    pair.offer(D(*pair.buffer(b"ok")), D(address, length, WRITE), head=3)
    request = pair.take()
    for write in (lambda: request.fill(0, 1 if address < BASE else length), request.writable_views):
        with pytest.raises(MemoryFault):
            write()
    assert request.written == 0
    request.complete()
    assert pair.vring.broken is None
    assert pair.vring.in_flight == 0


def test_V011_a_fault_after_mapped_bytes_writes_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    good = pair.buffer(4)
    pair.offer(D(*good, WRITE), D(0xDEAD0000, 4, WRITE))
    request = pair.take()
    with pytest.raises(MemoryFault):
        request.write(b"12345678")
    assert pair.memory.read(*good) == b"\xee" * 4
    assert request.write(b"1234") == 4


def test_C048_H01_a_buffer_across_two_regions_is_split_not_assumed_contiguous(
    new_pair: MakePair, packed: bool
) -> None:
    low = DriverRegion(0x10000, guest_address=BASE)
    high = DriverRegion(0x10000, guest_address=BASE + 0x10000)
    pair = new_pair(packed, regions=[low, high])
    memoryview(low)[-4:] = b"low-"
    memoryview(high)[:4] = b"high"
    pair.offer(D(BASE + 0x10000 - 4, 8), D(BASE + 0x10000 - 2, 4, WRITE))
    request = pair.take()
    assert request.read() == b"low-high"
    assert len(request.writable_views()) == 2
    request.write(b"WXYZ")
    assert bytes(memoryview(low)[-4:]) + bytes(memoryview(high)[:4]) == b"loWXYZgh"
    request.complete()


def test_V021_H71_a_head_made_available_again_while_in_flight_breaks_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(D(*pair.buffer(1)), head=3)
    held = pair.take()
    pair.offer(D(*pair.buffer(1)), head=3)
    assert pair.refused() == "V021"
    held.complete()


def test_V021_the_head_may_come_again_once_it_was_used(make_pair: MakePair) -> None:
    pair = make_pair()
    for _ in range(20):
        pair.offer(D(*pair.buffer(1)), head=3)
        pair.take().complete()


def test_V022_H44_more_descriptors_in_flight_than_the_ring_has_break_it(make_pair: MakePair) -> None:
    pair = make_pair(4)
    held = []
    for head in range(4):
        pair.offer(D(*pair.buffer(1)), head=head)
        held.append(pair.take())
    # Split: a head that is not in flight; packed: an id that is not, over descriptors that were never used.
    pair.offer(D(*pair.buffer(1)), head=0 if not pair.packed else 4)
    assert pair.refused() == ("V022" if pair.packed else "V021")


@pytest.mark.parametrize("identity", [0, 8, 300, 0x7FFF, 0xFFFF])
def test_V031_H58_a_buffer_id_may_be_any_16_bits(new_pair: MakePair, identity: int) -> None:
    pair = new_pair(True)
    pair.offer(D(*pair.buffer(4), WRITE), head=identity)
    request = pair.take()
    assert request.head == identity
    request.write(b"abcd")
    request.complete()
    assert pair.ring.read_descriptor(0)[1:] == (4, identity, 0x8082)


def test_V031_a_packed_chain_longer_than_the_ring_breaks_it(new_pair: MakePair) -> None:
    pair = new_pair(True, 4)
    for place in range(4):
        pair.ring.write_descriptor(place, *pair.buffer(1), 0, 0x80 | NEXT)
    assert pair.refused() == "V031"


def test_V026_the_buffer_id_is_that_of_the_last_descriptor(new_pair: MakePair) -> None:
    pair = new_pair(True)
    pair.offer(D(*pair.buffer(1), id=100), D(*pair.buffer(1), id=200), D(*pair.buffer(1), id=7))
    assert pair.take().head == 7


def test_V032_an_id_in_flight_twice_breaks_the_ring(new_pair: MakePair) -> None:
    pair = new_pair(True)
    pair.offer(D(*pair.buffer(1)), head=0xFFFF)
    held = pair.take()
    pair.offer(D(*pair.buffer(1)), head=0xFFFF)
    assert pair.refused() == "V021"
    held.complete()


def test_V037_H40_a_broken_ring_looks_empty_and_others_go_on(make_pair: MakePair) -> None:
    broken, fine = make_pair(), make_pair()
    broken.offer(D(*broken.buffer(1), WRITE), D(*broken.buffer(1)))
    assert broken.refused() == "V006"
    assert broken.vring.process(lambda _request: None) == 0
    assert not broken.vring.enable_notification()
    assert [error.rule for error in broken.errors] == ["V006"]
    fine.serve([b"x"], [1]).complete()
    assert fine.queue.poll() is not None


def test_V037_a_new_start_mends_the_ring(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.offer(D(*pair.buffer(1), WRITE), D(*pair.buffer(1)))
    pair.refused()
    pair.vring.stop()
    pair.vring.set_base(pair.queue.base)
    pair.queue.reset()
    pair.vring.start()
    assert pair.vring.broken is None
    pair.serve([b"x"]).complete()
    assert pair.queue.poll() is not None
