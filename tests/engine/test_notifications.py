"""Who is told, and who is not: V016 to V020, V033 to V035, V039."""

from __future__ import annotations

import pytest

from tests.engine.pair import MakePair, Pair
from tests.engine.serving import complete_one

ENABLE, DISABLE, DESC = 0, 1, 2


def quiet_start(pair: Pair) -> None:
    """Past the first signal, which always comes."""
    assert complete_one(pair) == 1


# ---------------------------------------------------------------------- without the event index
def test_V016_the_device_signals_unless_told_not_to(new_pair: MakePair) -> None:
    pair = new_pair(False)
    assert [complete_one(pair) for _ in range(3)] == [1, 1, 1]
    pair.split.set_avail_flags(1)
    assert [complete_one(pair) for _ in range(3)] == [0, 0, 0]
    pair.split.set_avail_flags(0)
    assert complete_one(pair) == 1


def test_V016_other_flag_bits_and_used_event_mean_nothing(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.split.set_avail_flags(0xFFFE)
    pair.split.set_used_event(0x1234)
    assert [complete_one(pair) for _ in range(3)] == [1, 1, 1]


def test_V016_a_batch_is_signalled_once(make_pair: MakePair) -> None:
    pair = make_pair(64)
    for _ in range(20):
        pair.add([b"x"])
    pair.vring.process_batch(lambda _requests: None)
    assert pair.queue.call_count() == 1
    assert pair.vring.statistics()["calls"] == 1


def test_V020_notify_on_empty_signals_when_the_ring_drains(new_pair: MakePair) -> None:
    pair = new_pair(False, notify_on_empty=True)
    pair.split.set_avail_flags(1)
    pair.add([b"1"])
    pair.add([b"2"])
    first, second = pair.take(), pair.take()
    first.complete()
    assert pair.queue.call_count() == 0
    second.complete()
    assert pair.queue.call_count() == 1


# ---------------------------------------------------------------------- with it, split
@pytest.mark.parametrize("event", [0, 1, 0x1234, 0xFFFF])
def test_V017_the_first_signal_after_a_start_always_comes(new_pair: MakePair, event: int) -> None:
    pair = new_pair(False, event_idx=True)
    pair.split.set_used_event(event)
    assert complete_one(pair) == 1
    pair.vring.stop()
    pair.vring.start()
    pair.split.set_used_event(event)
    assert complete_one(pair) == 1


def test_V017_signals_only_when_used_event_is_passed(new_pair: MakePair) -> None:
    pair = new_pair(False, event_idx=True)
    quiet_start(pair)
    for wanted in (2, 5, 6, 9):
        while (at := pair.split.used_index) <= wanted:
            pair.split.set_used_event(wanted)
            assert complete_one(pair) == (1 if at == wanted else 0), (at, wanted)


def test_V017_the_no_interrupt_flag_is_ignored(new_pair: MakePair) -> None:
    pair = new_pair(False, event_idx=True)
    quiet_start(pair)
    pair.split.set_avail_flags(1)
    pair.split.set_used_event(1)
    assert complete_one(pair) == 1


def test_V017_a_batch_that_passes_used_event_signals(new_pair: MakePair) -> None:
    pair = new_pair(False, 16, event_idx=True)
    quiet_start(pair)
    for offset, expected in ((0, 1), (4, 1), (9, 1), (10, 0), (-1, 0)):
        pair.split.set_used_event((pair.split.used_index + offset) & 0xFFFF)
        for _ in range(10):
            pair.add([b"x"])
        # The driver's own wait would move used_event; these are the raw numbers.
        pair.vring.process_batch(lambda _requests: None)
        assert pair.queue.call_count() == expected, offset
        pair.queue.poll_many()


def test_V017_used_event_is_compared_across_the_end_of_16_bits(new_pair: MakePair) -> None:
    pair = new_pair(False, event_idx=True, first=0xFFFD, start=False)
    pair.split.set_used_index(0xFFFD)
    pair.start()
    quiet_start(pair)
    for at, event, expected in ((0xFFFE, 0, 0), (0xFFFF, 0, 0), (0, 0, 1), (1, 0, 0)):
        assert pair.split.used_index == at
        pair.split.set_used_event(event)
        assert complete_one(pair) == expected


# ---------------------------------------------------------------------- packed
@pytest.mark.parametrize("event_idx", [False, True])
def test_V033_enable_disable_and_the_reserved_value(new_pair: MakePair, event_idx: bool) -> None:
    pair = new_pair(True, 5, event_idx=event_idx)
    for flags, expected in ((ENABLE, 1), (DISABLE, 0), (3, 1), (DISABLE, 0), (ENABLE, 1)):
        for _ in range(6):
            pair.ring.set_driver_event(0, flags)
            assert complete_one(pair) == expected, flags


def test_V033_a_position_without_the_event_index_is_no_position(new_pair: MakePair) -> None:
    pair = new_pair(True, 5)
    for _ in range(6):
        pair.ring.set_driver_event(4, DESC)
        assert complete_one(pair) == 1


@pytest.mark.parametrize("size", [4, 5])
def test_V033_the_first_position_after_a_start_signals(new_pair: MakePair, size: int) -> None:
    pair = new_pair(True, size, event_idx=True)
    pair.ring.set_driver_event(size - 1, DESC)
    assert complete_one(pair) == 1


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_V033_positions_against_counted_descriptors(new_pair: MakePair, size: int, batch: int) -> None:
    """Every position relative to the used one, on every lap: a signal iff the position was passed."""
    batch = min(batch, size)
    for start in range(size):
        for ahead in range(size):
            base = start | 0x8000
            pair = new_pair(True, size, event_idx=True, first=base | base << 16)
            quiet_start(pair)
            position, wrap = pair.ring.used_position
            event = position + ahead
            turn = wrap
            if event >= size:
                event, turn = event - size, wrap ^ 1
            pair.ring.set_driver_event(event | turn << 15, DESC)
            for _ in range(batch):
                pair.queue.add([pair.buffer(1)])
            pair.queue.publish()
            pair.ring.set_driver_event(event | turn << 15, DESC)
            pair.vring.process_batch(lambda _requests: None)
            assert pair.queue.call_count() == (1 if ahead < batch else 0), (start, ahead)
            pair.close()


def test_V033_more_than_a_round_without_a_decision_signals(new_pair: MakePair) -> None:
    pair = new_pair(True, 4, event_idx=True)
    quiet_start(pair)
    for number in range(6):
        pair.add([b"x"])
        request = pair.take()
        pair.vring.add_used(request)
        if number < 2:
            assert pair.queue.poll() is not None
    # Armed at the third of six: that lies a round back by now.
    pair.ring.set_driver_event(3 | 0x8000, DESC)
    assert pair.vring.signal_used_queue()


# ---------------------------------------------------------------------- the device's own wishes
def test_V018_V034_kicks_are_wanted_when_enabled_and_not_when_disabled(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.disable_notification()
    pair.add([b"1"])
    assert not pair.queue.needs_kick()
    assert pair.vring.enable_notification()  # something came meanwhile
    assert pair.vring.pop() is not None
    pair.add([b"2"])
    assert pair.queue.needs_kick()


@pytest.mark.parametrize("event_idx", [False, True])
def test_V018_V035_enabling_looks_again(make_pair: MakePair, event_idx: bool) -> None:
    pair = make_pair(event_idx=event_idx)
    assert not pair.vring.enable_notification()
    pair.vring.disable_notification()
    pair.add([b"1"])
    assert pair.vring.enable_notification()
    pair.take().complete()
    assert not pair.vring.enable_notification()


def test_V018_with_the_event_index_the_wish_is_an_index(new_pair: MakePair) -> None:
    pair = new_pair(False, event_idx=True)
    for expected in range(3):
        pair.vring.enable_notification()
        assert pair.split.avail_event == expected
        assert pair.split.used_flags == 0
        pair.serve([b"x"]).complete()


def test_V018_without_the_event_index_it_is_a_flag(new_pair: MakePair) -> None:
    pair = new_pair(False)
    pair.split.set_avail_event(0x7777)
    pair.vring.disable_notification()
    assert pair.split.used_flags == 1
    pair.vring.enable_notification()
    assert pair.split.used_flags == 0
    assert pair.split.avail_event == 0x7777  # V001: not ours to write


def test_V034_the_device_event_structure(new_pair: MakePair) -> None:
    pair = new_pair(True, 3, event_idx=True)
    for position, wrap in ((0, 1), (1, 1), (2, 1), (0, 0), (1, 0), (2, 0), (0, 1)):
        pair.vring.enable_notification()
        assert pair.ring.device_event == (position | wrap << 15, DESC)
        pair.vring.disable_notification()
        assert pair.ring.device_event[1] == DISABLE
        pair.serve([b"x"]).complete()
        assert pair.queue.poll() is not None
    plain = new_pair(True, 3)
    plain.vring.disable_notification()
    assert plain.ring.device_event[1] == DISABLE
    plain.vring.enable_notification()
    assert plain.ring.device_event[1] == ENABLE


@pytest.mark.parametrize("event_idx", [False, True])
def test_V018_a_device_that_pops_until_there_is_nothing_gets_a_kick_for_the_next(
    make_pair: MakePair, event_idx: bool
) -> None:
    pair = make_pair(event_idx=event_idx)
    for _ in range(20):
        pair.add([b"x"])
        assert pair.queue.kick()
        while (request := pair.vring.pop()) is not None:
            request.complete()
        assert pair.queue.poll() is not None


def test_V018_a_device_that_disabled_kicks_is_not_given_any_by_popping(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.vring.disable_notification()
    assert pair.vring.pop() is None
    pair.add([b"x"])
    assert not pair.queue.needs_kick()


def test_V019_looking_at_an_empty_ring_is_harmless(make_pair: MakePair) -> None:
    pair = make_pair()
    for _ in range(5):
        assert pair.vring.pop() is None
        assert pair.vring.process(lambda _request: None) == 0
    assert pair.queue.call_count() == 0


@pytest.mark.parametrize("event_idx", [False, True])
def test_V016_V017_needs_notification_then_signal(make_pair: MakePair, event_idx: bool) -> None:
    """The way of devices written for the model crate: ask, then signal."""
    pair = make_pair(event_idx=event_idx)
    for _ in range(5):
        pair.queue.enable_notifications()
        pair.vring.add_used(pair.serve([b"x"]))
        assert pair.queue.call_count() == 0
        assert pair.vring.needs_notification()
        assert pair.vring.needs_notification()  # asking twice loses nothing
        assert pair.vring.signal_used_queue()
        assert not pair.vring.needs_notification()
        assert not pair.vring.signal_used_queue()
        assert pair.queue.call_count() == 1
        assert pair.queue.poll() is not None


def test_V016_signalling_nothing_new_signals_nothing(make_pair: MakePair) -> None:
    pair = make_pair(event_idx=True)
    assert complete_one(pair) == 1
    assert not pair.vring.needs_notification()
    assert not pair.vring.signal_used_queue()
    assert pair.queue.call_count() == 0
