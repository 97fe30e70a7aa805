"""Indices, wrap counters, the base of a ring, its set-up: V002, V024, V025, V029, V038, C056 to C073."""

from __future__ import annotations

import pytest

from tests.engine.pair import NEXT, WRITE, D, MakePair, Pair
from vhost_user.engine.device.vring import Vring


def packed_base(avail: int, avail_wrap: int, used: int, used_wrap: int) -> int:
    return avail | avail_wrap << 15 | used << 16 | used_wrap << 31


def round_trip(pair: Pair, count: int, batch: int) -> None:
    """Send ``count`` requests through a ring, ``batch`` at a time; each is answered with its own number."""
    address = pair.memory.allocate(4 * batch)
    numbers = iter(range(count))
    done = 0
    while done < count:
        tokens = {pair.queue.add([], [(address + 4 * index, 4)]) for index in range(min(batch, count - done))}
        pair.queue.publish()
        pair.vring.process(lambda request: request.pack("<I", next(numbers)))
        used = pair.queue.poll_many()
        assert {token for token, _ in used} == tokens
        assert all(length == 4 for _, length in used)
        for index in range(len(used)):
            assert pair.memory.read(address + 4 * index, 4) == (done + index).to_bytes(4, "little")
        done += len(used)


@pytest.mark.parametrize("size", [1, 2, 256, 32768])
def test_V002_indices_run_through_65535_to_0(new_pair: MakePair, size: int) -> None:
    pair = new_pair(False, size, first=0xFFFF - 70, regions=16 << 20, start=False)
    pair.split.set_used_index(0xFFFF - 70)
    pair.start()
    round_trip(pair, 200, min(size, 64))
    assert pair.vring.base() == (0xFFFF - 70 + 200) & 0xFFFF
    assert pair.split.used_index == pair.vring.base()


@pytest.mark.parametrize("first", [0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])
def test_V002_every_start_works_with_a_full_ring(new_pair: MakePair, first: int) -> None:
    pair = new_pair(False, 4, first=first, start=False)
    pair.split.set_used_index(first)
    pair.start()
    held = [pair.serve([b"x"]) for _ in range(4)]
    assert pair.vring.pop() is None
    for request in held:
        request.complete()
    assert len(pair.queue.poll_many()) == 4


@pytest.mark.parametrize("size", [2, 3, 5, 7, 8, 300])
@pytest.mark.parametrize("chain", [1, 2])
def test_V024_V025_wrap_counters_turn_with_any_size(new_pair: MakePair, size: int, chain: int) -> None:
    pair = new_pair(True, size)
    for number in range(3 * size + 2):
        pair.add([b"%04d" % number], [1] * (chain - 1))
        request = pair.take()
        assert request.read() == b"%04d" % number
        request.complete()
        assert pair.queue.poll() is not None
    position, wrap = pair.ring.used_position
    assert pair.vring.base() == packed_base(position, wrap, position, wrap)


def test_V024_a_packed_ring_of_one_descriptor(new_pair: MakePair) -> None:
    pair = new_pair(True, 1)
    for number in range(5):
        assert pair.serve([b"%d" % number]).read() == b"%d" % number
        assert pair.queue.poll() is not None


@pytest.mark.parametrize("size", [4, 7])
def test_V029_chains_wrap_at_every_offset(new_pair: MakePair, size: int) -> None:
    for start in range(size):
        for length in range(1, size + 1):
            pair = new_pair(True, size, first=packed_base(start, 1, start, 1))
            parts = [b"%02d" % index for index in range(length)]
            pair.offer(*(D(*pair.buffer(part)) for part in parts), head=9)
            request = pair.take()
            assert request.read() == b"".join(parts)
            request.complete()
            after = (start + length) % size
            wrap = 0 if start + length >= size else 1
            assert pair.vring.base() == packed_base(after, wrap, after, wrap)
            assert pair.ring.read_descriptor(start)[2:] == (9, 0x8080)


def test_V025_the_device_looks_at_the_next_descriptor_only(new_pair: MakePair) -> None:
    pair = new_pair(True, 4)
    pair.ring.write_descriptor(1, *pair.buffer(1), 0, 0x80)
    assert pair.vring.pop() is None
    pair.ring.write_descriptor(0, *pair.buffer(1), 1, 0x80)
    assert [pair.take().head, pair.take().head] == [1, 0]


@pytest.mark.parametrize("flags", [0, 0x8000, 0x8080])
def test_V036_a_descriptor_is_available_only_with_both_bits_right(new_pair: MakePair, flags: int) -> None:
    pair = new_pair(True, 4)
    pair.ring.write_descriptor(0, *pair.buffer(1), 0, flags)
    assert pair.vring.pop() is None


def test_V036_an_all_zero_ring_has_nothing_available_with_either_wrap(new_pair: MakePair) -> None:
    pair = new_pair(True, 4, first=packed_base(0, 0, 0, 0))
    assert pair.vring.pop() is None


@pytest.mark.parametrize(
    "base",
    [packed_base(a, w, u, v) for a, w, u, v in [(0, 1, 0, 1), (6, 0, 5, 1), (0, 0, 6, 1), (6, 1, 6, 1)]],
)
def test_V038_C057_a_packed_base_comes_back_as_it_went_in(new_pair: MakePair, base: int) -> None:
    pair = new_pair(True, 7, first=base, start=False)
    pair.vring.set_base(base)
    assert pair.vring.base() == base  # C058: without a start
    pair.start()
    assert pair.vring.base() == base
    pair.vring.stop()
    assert pair.vring.base() == base
    pair.vring.start()
    assert pair.vring.base() == base


def test_V038_C057_a_packed_base_carries_avail_and_used_positions(new_pair: MakePair) -> None:
    pair = new_pair(True, 5)
    held = [pair.serve([b"x"], [1]) for _ in range(2)]
    assert pair.vring.base() == packed_base(4, 1, 0, 1)
    held[1].complete()
    assert pair.vring.base() == packed_base(4, 1, 2, 1)
    held[0].complete()
    assert pair.vring.base() == packed_base(4, 1, 4, 1)
    assert len(pair.queue.poll_many()) == 2
    pair.serve([b"x"], [1]).complete()
    assert pair.vring.base() == packed_base(1, 0, 1, 0)


def test_C057_the_base_answered_after_a_stop_counts_what_completed_meanwhile(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([b"x"], [1])
    pair.vring.stop()
    request.complete()
    assert pair.vring.drain(0)
    base = pair.vring.base()
    assert base == (packed_base(2, 1, 2, 1) if pair.packed else 1)
    assert pair.queue.poll() is not None
    pair.vring.start()
    pair.serve([b"again"]).complete()
    assert pair.queue.poll() is not None


def test_C057_a_base_set_after_a_stop_wins(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.serve([b"x"]).complete()
    pair.vring.stop()
    value = packed_base(3, 0, 3, 0) if pair.packed else 77
    pair.vring.set_base(value)
    assert pair.vring.base() == value
    pair.vring.start()
    assert pair.vring.base() == value


def test_V024_the_base_of_a_packed_ring_before_any_is_set() -> None:
    vring = Vring(0, 256)
    vring.set_features(packed=True, event_idx=False, in_order=False)
    assert vring.base() == packed_base(0, 1, 0, 1)
    vring.set_features(packed=False, event_idx=False, in_order=False)
    assert vring.base() == 0


@pytest.mark.parametrize(
    "base", [packed_base(8, 1, 0, 1), packed_base(0, 1, 8, 1), packed_base(0x7FFF, 0, 0x7FFF, 0)]
)
def test_C057_a_packed_base_outside_of_the_ring_does_not_start(new_pair: MakePair, base: int) -> None:
    pair = new_pair(True, 8, start=False)
    pair.vring.set_base(base)
    with pytest.raises(RuntimeError, match="C057"):
        pair.vring.start()
    assert not pair.vring.started


@pytest.mark.parametrize("base", [0x10000, 1 << 31, -1, 1 << 32])
def test_C056_a_split_base_has_16_bits(new_pair: MakePair, base: int) -> None:
    pair = new_pair(False, start=False)
    with pytest.raises(ValueError, match="C056"):
        pair.vring.set_base(base)


@pytest.mark.parametrize("base", [-1, 1 << 32])
def test_C057_a_packed_base_has_32_bits(new_pair: MakePair, base: int) -> None:
    pair = new_pair(True, start=False)
    with pytest.raises(ValueError, match="C057"):
        pair.vring.set_base(base)


def test_C059_the_split_used_index_is_read_from_the_ring_at_start(new_pair: MakePair) -> None:
    pair = new_pair(False, start=False)
    pair.vring.set_base(0)
    pair.split.set_used_index(41)
    pair.start()
    pair.offer(D(*pair.buffer(1), WRITE), head=2)
    pair.take().complete()
    assert pair.split.used_index == 42
    assert pair.split.read_used(41) == (2, 0)


@pytest.mark.parametrize("size", [0, -1, 3, 6, 32769, 1 << 16])
def test_C070_sizes_a_split_ring_cannot_have(new_pair: MakePair, size: int) -> None:
    with pytest.raises(ValueError, match="C070"):
        new_pair(False, start=False).vring.set_size(size)


@pytest.mark.parametrize("size", [0, -1, 32769])
def test_C070_sizes_a_packed_ring_cannot_have(new_pair: MakePair, size: int) -> None:
    with pytest.raises(ValueError, match="C070"):
        new_pair(True, start=False).vring.set_size(size)


def test_C070_a_size_that_became_wrong_by_the_format_does_not_start(new_pair: MakePair) -> None:
    pair = new_pair(True, 7, start=False)
    pair.vring.set_features(packed=False, event_idx=False, in_order=False)
    with pytest.raises(RuntimeError, match="C070"):
        pair.vring.start()


@pytest.mark.parametrize(("area", "offset"), [("descriptor", 8), ("driver", 1), ("device", 2)])
def test_C071_areas_must_be_aligned(make_pair: MakePair, area: str, offset: int) -> None:
    pair = make_pair(start=False)
    areas = {"descriptor": 0x1000, "driver": 0x2000, "device": 0x3000}
    areas[area] += offset
    with pytest.raises(ValueError, match="C071"):
        pair.vring.set_addresses(**areas)


def test_C071_numbers_that_are_no_addresses_are_refused_and_harm_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    for address in (1 << 64, -16):
        with pytest.raises(OverflowError):
            pair.vring.set_addresses(descriptor=address, driver=0, device=0)
        with pytest.raises(OverflowError):
            pair.vring.set_addresses(descriptor=0, driver=0, device=0, log_address=address)
    pair.serve([b"x"]).complete()
    assert pair.queue.poll() is not None


def test_C072_size_base_and_format_are_fixed_while_started(make_pair: MakePair) -> None:
    pair = make_pair()
    with pytest.raises(RuntimeError, match="C072"):
        pair.vring.set_size(4)
    with pytest.raises(RuntimeError, match="C072"):
        pair.vring.set_base(0)
    with pytest.raises(RuntimeError, match="C072"):
        pair.vring.set_features(packed=not pair.packed, event_idx=False, in_order=False)


def test_C073_a_start_names_what_is_missing(make_pair: MakePair) -> None:
    vring = Vring(3, 256)
    with pytest.raises(RuntimeError, match=r"queue 3: .*SET_VRING_NUM.*SET_VRING_ADDR.*MEM.*C073"):
        vring.start()
    pair = make_pair(start=False)
    pair.vring.set_memory(None)
    with pytest.raises(RuntimeError, match="SET_MEM_TABLE"):
        pair.vring.start()
    pair.vring.set_memory(pair.guest)
    pair.vring.set_addresses(descriptor=0, driver=0, device=0)
    with pytest.raises(RuntimeError, match="C071"):
        pair.vring.start()
    assert not pair.vring.started


def test_C071_an_area_that_crosses_the_end_of_its_region_does_not_start(make_pair: MakePair) -> None:
    pair = make_pair(start=False)
    end = 0x1000_0000 + (4 << 20)
    areas = {
        "descriptor": pair.queue.descriptor_address,
        "driver": pair.queue.driver_address,
        "device": pair.queue.device_address,
    }
    for name in areas:
        # Of a packed ring's event structures, only the end of the region itself is too far.
        place = end - 16 if name == "descriptor" else end - 4 if not pair.packed else end
        pair.vring.set_addresses(**(areas | {name: place}))
        with pytest.raises(RuntimeError, match="C071"):
            pair.vring.start()


def test_V045_a_ring_reset_may_change_everything(make_pair: MakePair) -> None:
    pair = make_pair(8)
    pair.serve([b"x"], [1]).complete()
    pair.vring.set_enabled(False)
    pair.vring.stop()
    other = make_pair(4, start=False)
    pair.vring.set_memory(other.guest)
    pair.vring.set_size(4)
    pair.vring.set_addresses(
        descriptor=other.queue.descriptor_address,
        driver=other.queue.driver_address,
        device=other.queue.device_address,
    )
    pair.vring.set_base(other.queue.base)
    pair.vring.start()
    pair.vring.set_enabled(True)
    token = other.add([b"new"], [3])
    request = pair.take()
    assert request.read() == b"new"
    request.complete(3)
    assert other.queue.poll() == (token, 3)


def test_V052_the_index_is_read_once_a_decision(new_pair: MakePair) -> None:
    """What the driver adds while a batch is taken comes with the next look, and nothing is taken twice."""
    pair = new_pair(False, 8)
    seen: list[int] = []

    def handler(request: object) -> None:
        seen.append(getattr(request, "head"))  # noqa: B009 (the handler's argument is untyped on purpose)
        if len(seen) < 4:
            pair.offer(D(*pair.buffer(1)), head=len(seen))

    pair.offer(D(*pair.buffer(1)), head=0)
    assert pair.vring.process(handler) == 4
    assert seen == [0, 1, 2, 3]


def test_V051_H10_changing_descriptors_after_they_were_taken_changes_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    table = pair.table(D(*pair.buffer(b"in")), D(*pair.buffer(2), WRITE))
    pair.offer(D(*pair.buffer(b"direct")), head=0)
    pair.offer(D(*table, 4), head=1)
    first, second = pair.take(), pair.take()
    for place in range(pair.size):
        if pair.packed:
            pair.ring.write_descriptor(place, 0xBAD, 0xFFFF, 5, NEXT)
        else:
            pair.split.write_descriptor(place, 0xBAD, 0xFFFF, NEXT, place)
    pair.memory.fill(*table, 0xFF)
    assert first.read() == b"direct"
    assert (second.read(), second.writable) == (b"in", 2)
    first.complete()
    second.complete()
    assert pair.vring.in_flight == 0
