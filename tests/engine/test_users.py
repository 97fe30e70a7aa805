"""Which addresses behind an IOMMU the requests in flight use, and no others: C090, C091."""

from __future__ import annotations

import pytest

from tests.engine.pair import MakePair, Pair
from vhost_user.engine.memory.iotlb import Iotlb

BOTH = 3
PAGE = 4096


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    """A ring behind an IOMMU that maps each address to itself."""
    pair = make_pair(start=False)
    table = Iotlb(pair.guest)
    for region in pair.memory.regions:
        table.update(region.guest_address, region.size, region.user_address, BOTH)
    pair.vring.set_memory(pair.guest, table)
    pair.start()
    return pair


def page_of_its_own(pair: Pair) -> int:
    """A request with a page as its buffer; the address."""
    address = pair.memory.allocate(2 * PAGE)
    address += -address % PAGE
    pair.queue.add([(address, 16)])
    pair.queue.publish()
    return address


def waits(pair: Pair) -> bool:
    """A function, because a type checker takes a property for something that stays."""
    return pair.vring.translation.waiting


def test_C091_only_what_is_in_flight_uses_anything(pair: Pair) -> None:
    """Completed, put back, given back: each time one stays, so that there is something to look for."""
    pages = [page_of_its_own(pair) for _ in range(3)]
    requests = [pair.take() for _ in pages]

    def users() -> list[int]:
        return [pair.vring.translation.users(page, PAGE) for page in pages]

    assert users() == [1, 1, 1]
    assert pair.vring.translation.users(0, 0) == 3
    pair.vring.put_back(requests[2])
    assert users() == [1, 1, 0]
    requests[0].complete()
    assert users() == [0, 1, 0]
    assert pair.vring.translation.drain_range(pages[0], PAGE, 0)
    assert not pair.vring.translation.drain_range(pages[1], PAGE, 0)
    requests[0] = pair.take()
    assert users() == [0, 1, 1]
    # Under a head below those that stay.
    pair.queue.poll_many()
    pages.append(page_of_its_own(pair))
    last = pair.take()
    assert last.head < requests[1].head
    pair.vring.put_back(last)
    assert users() == [0, 1, 1, 0]
    last = pair.take()
    assert users() == [0, 1, 1, 1]
    pair.vring.stop()
    pair.vring.give_back()
    assert users() == [0, 0, 0, 0]


def test_C091_after_a_reset_of_the_driver_nothing_of_before_is_used(pair: Pair) -> None:
    """The ring goes on; what was in flight is gone, with its addresses."""
    before = page_of_its_own(pair)
    kept = pair.take()
    pair.vring.abandon()
    after = page_of_its_own(pair)
    request = pair.take()
    assert pair.vring.translation.users(before, PAGE) == 0
    assert pair.vring.translation.users(after, PAGE) == 1
    del kept
    request.complete()
    assert pair.vring.translation.users(after, PAGE) == 0


def test_C088_a_ring_that_waits_looks_again_with_other_memory_and_after_a_start(pair: Pair) -> None:
    """Whatever it waited for belongs to what was there before."""
    pair.queue.add([(0x7_0000_0000, 16)])
    pair.queue.publish()
    table = Iotlb(pair.guest)
    for region in pair.memory.regions:
        table.update(region.guest_address, region.size, region.user_address, BOTH)
    translation = pair.vring.translation
    for starts_anew in (False, True):
        assert pair.vring.pop() is None
        assert waits(pair)
        assert translation.misses() == [(0x7_0000_0000, 1)]
        if starts_anew:
            pair.vring.stop()
            pair.vring.start()
        else:
            pair.vring.set_memory(pair.guest, table)
        assert not waits(pair)
        assert pair.runs()


def test_C088_what_a_ring_lacks_of_its_own_is_told_for_each_table(make_pair: MakePair) -> None:
    pair = make_pair(start=False)
    for _ in range(2):
        pair.vring.set_memory(pair.guest, Iotlb(pair.guest))
        pair.vring.start()
        assert len(pair.vring.translation.misses()) == 3
        assert pair.vring.translation.misses() == []
