"""What goes back to the driver: lengths, order, positions: V013 to V015, V023, V027, V028, V036, V041."""

from __future__ import annotations

import random
import threading

import pytest

from tests.engine.pair import WRITE, D, MakePair, Pair
from vhost_user.engine.device.request import Request


def used_length(pair: Pair) -> int:
    used = pair.queue.poll()
    assert used is not None, pair.queue.describe()
    return used[1]


def test_V014_used_length_is_what_was_written(make_pair: MakePair) -> None:
    pair = make_pair()
    for length in (0, 1, 5, 9, 10):
        request = pair.serve([b"x"], [4, 6])
        request.write(b"y" * length)
        assert request.written == length
        request.complete()
        assert used_length(pair) == length


def test_V014_a_gap_ends_what_counts(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([], [10])
    request.write(b"abc")
    request.skip_writable(2)
    request.write(b"fghij")
    assert request.written == 3
    request.complete()
    assert used_length(pair) == 3


def test_V014_a_gap_of_nothing_is_none(make_pair: MakePair) -> None:
    request = make_pair().serve([], [4])
    request.skip_writable(0)
    request.write(b"abcd")
    assert request.written == 4


def test_V014_the_last_bytes_count_when_everything_before_them_was_written(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([], [8, 1])
    request.write_last(b"\x00")
    assert request.written == 0
    request.write(b"12345678")
    assert request.written == 9
    request.complete()
    assert used_length(pair) == 9


def test_V014_the_last_bytes_alone_count_nothing_unless_they_are_all(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([], [8, 1])
    request.write(b"1234")
    request.write_last(b"\x00")
    request.complete()
    assert used_length(pair) == 4
    request = pair.serve([], [1])
    request.write_last(b"\x00")
    request.complete()
    assert used_length(pair) == 1


def test_V014_last_bytes_that_overlap_the_written_ones(make_pair: MakePair) -> None:
    pair = make_pair()
    request = pair.serve([], [8])
    request.write(b"123456")
    request.write_last(b"abcd")
    assert request.written == 8
    request.complete()
    assert used_length(pair) == 8


def test_V014_an_explicit_length_is_taken_but_never_more_than_is_writable(make_pair: MakePair) -> None:
    pair = make_pair()
    for given, expected in ((0, 0), (3, 3), (4, 4), (5, 4), (1 << 40, 4), (-1, 2), (-7, 2)):
        request = pair.serve([b"x"], [4])
        request.write(b"ab")
        request.complete(given)
        assert used_length(pair) == expected


def test_V014_a_request_without_writable_part_has_length_0(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.serve([b"x"]).complete(7)
    assert used_length(pair) == 0


def test_V013_V056_only_writable_bytes_are_written(make_pair: MakePair) -> None:
    pair = make_pair()
    readable, first, second = pair.buffer(b"r" * 64), pair.buffer(32), pair.buffer(32)
    before = pair.memory.read(pair.memory.regions[0].guest_address, 1 << 20)
    pair.queue.add([readable], [first, second])
    pair.queue.publish()
    areas = [(pair.queue.descriptor_address, 16 * pair.size)] if not pair.packed else []
    driver_area = (pair.queue.driver_address, 4 if pair.packed else 4 + 2 * pair.size)
    frozen = [(place, pair.memory.read(*place)) for place in [*areas, driver_area, readable]]
    request = pair.take()
    request.write(b"w" * 40)
    request.complete()
    for place, content in frozen:
        assert pair.memory.read(*place) == content
    assert pair.memory.read(*first) == b"w" * 32
    assert pair.memory.read(*second) == b"w" * 8 + b"\xee" * 24
    after = bytearray(pair.memory.read(pair.memory.regions[0].guest_address, 1 << 20))
    base = pair.memory.regions[0].guest_address
    changed = {base + index for index in range(1 << 20) if after[index] != before[index]}
    allowed = set(range(first[0], first[0] + 32)) | set(range(second[0], second[0] + 8))
    for start, length in (
        (pair.queue.descriptor_address, 16 * pair.size),
        driver_area,
        (pair.queue.device_address, 6 + 8 * pair.size),
    ):
        allowed |= set(range(start, start + length))
    assert changed <= allowed


def test_V015_nothing_is_visible_before_the_index_says_so(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.add([b"1"], [1])
    pair.add([b"2"], [1])
    seen = []

    def handler(requests: list[Request]) -> None:
        for request in requests:
            request.complete()
            seen.append(pair.split.used_index)

    pair.vring.process_batch(handler)
    assert seen == [0, 0]
    assert pair.split.used_index == 2


def test_V015_V014_the_length_stands_in_the_element(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.offer(D(*pair.buffer(4), WRITE), head=5)
    request = pair.take()
    request.write(b"abc")
    request.complete()
    assert pair.split.read_used(0) == (5, 3)


def test_V023_completions_may_come_in_any_order(make_pair: MakePair) -> None:
    pair = make_pair(64)
    order = list(range(64))
    random.Random(1).shuffle(order)
    for _ in range(3):
        requests = []
        tokens = [pair.add([b"%02d" % index]) for index in range(64)]
        requests = [pair.take() for _ in range(64)]
        for index in order:
            requests[index].complete()
        assert [token for token, _ in pair.queue.poll_many()] == [tokens[index] for index in order]
        del requests


def test_V027_a_used_descriptor_stands_at_the_next_used_position_and_skips_the_chain(
    new_pair: MakePair,
) -> None:
    pair = new_pair(True, 8)
    pair.offer(D(*pair.buffer(1)), D(*pair.buffer(1)), D(*pair.buffer(3), WRITE), head=10)
    pair.offer(D(*pair.buffer(1)), D(*pair.buffer(2), WRITE), head=11)
    pair.offer(D(*pair.buffer(1)), head=12)
    first, second, third = pair.take(), pair.take(), pair.take()
    second.write(b"ab")
    second.complete()
    assert pair.ring.read_descriptor(0)[1:] == (2, 11, 0x8082)
    third.complete()
    assert pair.ring.read_descriptor(2)[1:] == (0, 12, 0x8080)
    first.complete()
    assert pair.ring.read_descriptor(3)[1:] == (0, 10, 0x8080)
    assert pair.vring.base() >> 16 == 6 | 0x8000


def test_V027_an_indirect_chain_takes_one_place(new_pair: MakePair) -> None:
    pair = new_pair(True, 8)
    pair.add([b"a", b"b", b"c"], [1], indirect=True)
    pair.take().complete()
    assert pair.vring.base() >> 16 == 1 | 0x8000


def test_V027_the_write_flag_is_set_only_when_something_was_written(new_pair: MakePair) -> None:
    pair = new_pair(True, 8)
    for place, length in enumerate((0, 1)):
        request = pair.serve([], [4])
        request.complete(length)
        assert pair.ring.read_descriptor(place)[3] == 0x8080 | (WRITE if length else 0)


def test_V028_the_first_used_descriptor_of_a_batch_becomes_visible_last(new_pair: MakePair) -> None:
    pair = new_pair(True, 8)
    for index in range(3):
        pair.offer(D(*pair.buffer(1)), head=index)
    flags: list[list[int]] = []

    def handler(requests: list[Request]) -> None:
        for request in requests:
            request.complete()
            flags.append([pair.ring.read_descriptor(place)[3] & 0x8080 for place in range(3)])

    pair.vring.process_batch(handler)
    # While the batch runs, those after the first may look used already, the first never.
    assert flags == [[0x80, 0x80, 0x80], [0x80, 0x8080, 0x80], [0x80, 0x8080, 0x8080]]
    assert [pair.ring.read_descriptor(place)[3] for place in range(3)] == [0x8080] * 3


def test_V028_a_batch_that_wraps(new_pair: MakePair) -> None:
    pair = new_pair(True, 5)
    for number in range(17):
        count = number % 4 + 1
        for _ in range(count):
            pair.add([b"x"], [])
        pair.vring.process(lambda request: request.complete())
        assert len(pair.queue.poll_many()) == count


def test_V036_a_descriptor_that_was_marked_used_is_not_touched_again(new_pair: MakePair) -> None:
    pair = new_pair(True, 8)
    pair.offer(D(*pair.buffer(1)), head=1)
    request = pair.take()
    request.complete()
    pair.ring.write_descriptor(0, 1, 2, 3, 0)
    assert pair.vring.pop() is None
    assert pair.vring.process(lambda _request: None) == 0
    assert pair.ring.read_descriptor(0) == (1, 2, 3, 0)


def test_V041_in_order_returns_in_the_order_of_the_driver(make_pair: MakePair) -> None:
    pair = make_pair(16, in_order=True)
    for _ in range(5):
        tokens = [pair.add([b"x"], [4]) for _ in range(5)]
        requests = [pair.take() for _ in range(5)]
        for index in (3, 1, 4):
            requests[index].write(b"a" * index)
            requests[index].complete()
        assert pair.queue.poll() is None
        assert pair.vring.in_flight == 2
        requests[0].complete()
        assert pair.queue.poll_many() == [(tokens[0], 0), (tokens[1], 1)]
        requests[2].complete()
        assert pair.queue.poll_many() == [(tokens[2], 0), (tokens[3], 3), (tokens[4], 4)]


@pytest.mark.parametrize("in_order", [False, True])
def test_V041_V023_completions_from_several_threads_each_come_back_once(
    make_pair: MakePair, in_order: bool
) -> None:
    pair = make_pair(64, in_order=in_order)
    rounds, width = 30, 32
    for number in range(rounds):
        tokens = [pair.add([b"x"], [4]) for _ in range(width)]
        requests = [pair.take() for _ in range(width)]
        for request in requests:
            request.hold()
        random.Random(number).shuffle(requests)
        barrier = threading.Barrier(4)

        def complete(mine: list[Request], barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            for request in mine:
                request.write(b"abcd")
                request.complete()

        threads = [threading.Thread(target=complete, args=(requests[index::4],)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used = pair.queue.poll_many()
        assert all(length == 4 for _, length in used)
        returned = [token for token, _ in used]
        assert (returned if in_order else sorted(returned)) == (tokens if in_order else sorted(tokens))
        assert pair.vring.in_flight == 0


def test_V041_what_was_dropped_keeps_its_place(make_pair: MakePair) -> None:
    pair = make_pair(8, in_order=True)
    tokens = [pair.add([b"x"]) for _ in range(3)]
    requests = [pair.take() for _ in range(3)]
    requests[2].complete()
    requests[0].complete()
    del requests[1]  # nobody completed it
    assert [token for token, _ in pair.queue.poll_many()] == tokens
    assert pair.vring.statistics()["dropped"] == 1


def test_V041_H43_a_full_ring_in_order_many_times_round(make_pair: MakePair) -> None:
    pair = make_pair(4, in_order=True)
    for _ in range(20):
        tokens = [pair.add([b"x"]) for _ in range(4)]
        requests = [pair.take() for _ in range(4)]
        for request in reversed(requests):
            request.complete()
        assert [token for token, _ in pair.queue.poll_many()] == tokens
