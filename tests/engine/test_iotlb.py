"""Translations of I/O virtual addresses: entering, forgetting, finding, and their bounds (C088 to C092)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.iotlb import Iotlb
from vhost_user.engine.memory.region import MemoryRegion

PAGE = 4096
USER = 0x7000_0000_0000
GUEST = 0x4000_0000
READ, WRITE, BOTH = 1, 2, 3
TOP = 1 << 64


def region(number: int, pages: int) -> MemoryRegion:
    """Regions follow each other in user addresses, and lie apart in guest addresses."""
    fd = os.memfd_create("iotlb")
    try:
        os.ftruncate(fd, pages * PAGE)
        return MemoryRegion(
            fd,
            guest_address=GUEST + number * 0x1000_0000,
            size=pages * PAGE,
            user_address=USER + number * 16 * PAGE,
        )
    finally:
        os.close(fd)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    snapshot = GuestMemory([region(0, 16), region(1, 16)])
    yield snapshot
    snapshot.close()


def test_C088_an_address_is_found_where_it_was_mapped(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(0x10000, 2 * PAGE, USER + 4 * PAGE, BOTH)
    assert table.find(0x10000, 1, READ) == (GUEST + 4 * PAGE, 1)
    assert table.find(0x11FFF, 100, WRITE) == (GUEST + 6 * PAGE - 1, 1)
    assert table.find(0xFFFF, 1, READ) is None
    assert table.find(0x12000, 1, READ) is None


def test_C088_neighbours_are_one_piece_only_where_memory_is(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(0, PAGE, USER, BOTH)
    table.update(PAGE, PAGE, USER + PAGE, BOTH)
    table.update(2 * PAGE, PAGE, USER + 9 * PAGE, BOTH)
    assert table.find(0, 3 * PAGE, READ) == (GUEST, 2 * PAGE)


def test_C092_permissions_are_kept_apart(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(0, PAGE, USER, READ)
    table.update(PAGE, PAGE, USER + PAGE, WRITE)
    assert table.find(0, 1, WRITE) is None
    assert table.find(PAGE, 1, READ) is None
    assert table.find(0, 2 * PAGE, READ) == (GUEST, PAGE)


def test_C091_an_entry_across_regions_is_cut(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(0, 4 * PAGE, USER + 14 * PAGE, BOTH)
    assert table.find(0, 4 * PAGE, READ) == (GUEST + 14 * PAGE, 2 * PAGE)
    assert table.find(2 * PAGE, 2 * PAGE, READ) == (GUEST + 0x1000_0000, 2 * PAGE)


@pytest.mark.parametrize(
    ("iova", "size", "user"),
    [
        pytest.param(0, PAGE, USER - PAGE, id="before the regions"),
        pytest.param(0, 2 * PAGE, USER + 31 * PAGE, id="past their end"),
        pytest.param(0, TOP - PAGE, USER, id="gigantic"),
        pytest.param(TOP - PAGE, 2 * PAGE, USER, id="IOVA wraps"),
        pytest.param(0, 2 * PAGE, TOP - PAGE, id="user address wraps"),
        pytest.param(0, 0, USER, id="empty"),
    ],
)
def test_C091_what_lies_in_no_region_is_refused_and_changes_nothing(
    memory: GuestMemory, iova: int, size: int, user: int
) -> None:
    table = Iotlb(memory)
    table.update(0, PAGE, USER, BOTH)
    with pytest.raises(MemoryTableError) as refused:
        table.update(iova, size, user, BOTH)
    assert refused.value.rule == "C091"
    assert table.known() == [(0, PAGE, USER, BOTH)]


def test_C091_an_update_replaces_what_it_overlaps_and_says_when_that_led_elsewhere(
    memory: GuestMemory,
) -> None:
    table = Iotlb(memory)
    assert not table.update(0, 4 * PAGE, USER, BOTH)
    assert not table.update(PAGE, PAGE, USER + PAGE, BOTH)
    assert table.known() == [(PAGE, PAGE, USER + PAGE, BOTH)]
    assert table.update(PAGE, PAGE, USER + 7 * PAGE, BOTH)
    assert table.update(PAGE, PAGE, USER + 7 * PAGE, READ)


def test_C091_invalidate_takes_whatever_has_a_part_in_the_range(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    for page in range(8):
        table.update(page * PAGE, PAGE, USER + (8 - page) * PAGE, BOTH)
    assert table.invalidate(2 * PAGE + 100, PAGE) == 2
    assert [iova // PAGE for iova, *_ in table.known()] == [0, 1, 4, 5, 6, 7]
    assert table.invalidate(5 * PAGE, 0) == 3
    assert table.invalidate(0, TOP - 1) == 3
    assert len(table) == 0
    with pytest.raises(MemoryTableError):
        table.invalidate(TOP - 1, 2)


def test_the_last_address_can_be_mapped(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(TOP - PAGE, PAGE, USER, BOTH)
    assert table.find(TOP - 1, 10, READ) == (GUEST + PAGE - 1, 1)
    assert table.find(TOP - PAGE, PAGE, READ) == (GUEST, PAGE)


def test_there_are_never_more_entries_than_the_limit(memory: GuestMemory) -> None:
    table = Iotlb(memory, 50)
    for number in range(5000):
        table.update(number * 2 * PAGE, PAGE, USER + number % 32 * PAGE, BOTH)
        assert table.find(number * 2 * PAGE, 1, READ) is not None
    assert len(table) == 50
    assert len(table.known()) == 50


def test_what_was_denied_is_forgotten_with_an_update(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.deny(0x5123, READ)
    assert table.find(0x5123, 1, READ) is None
    table.update(0x5000, PAGE, USER, BOTH)
    assert table.find(0x5123, 1, READ) == (GUEST + 0x123, 1)


def test_translations_move_to_another_table(memory: GuestMemory) -> None:
    table = Iotlb(memory)
    table.update(0, PAGE, USER + PAGE, BOTH)
    table.update(PAGE, PAGE, USER + 20 * PAGE, READ)
    (first, _) = memory.regions
    other = GuestMemory([first])
    assert table.moved(other).known() == [(0, PAGE, USER + PAGE, BOTH)]


def test_random_updates_and_invalidations_agree_with_a_table_by_page(memory: GuestMemory) -> None:
    chance = random.Random(20)
    table = Iotlb(memory)
    model: dict[int, tuple[int, int]] = {}
    groups: dict[int, set[int]] = {}
    for _ in range(3000):
        page, count = chance.randrange(64), chance.randrange(1, 5)
        gone = {other for mine in range(page, page + count) for other in groups.get(mine, {mine})}
        for other in gone:
            model.pop(other, None)
            groups.pop(other, None)
        if chance.random() < 0.3:
            table.invalidate(page * PAGE, count * PAGE)
        else:
            target = chance.randrange(12)  # within one region: an update is one entry
            permission = chance.choice((READ, WRITE, BOTH))
            table.update(page * PAGE, count * PAGE, USER + target * PAGE, permission)
            for step in range(count):
                model[page + step] = (target + step, permission)
                groups[page + step] = set(range(page, page + count))
        for probe in range(70):
            wanted = chance.choice((READ, WRITE))
            found = table.find(probe * PAGE + 5, 1, wanted)
            mapped = model.get(probe)
            allowed = mapped is not None and mapped[1] & wanted
            assert found == ((GUEST + mapped[0] * PAGE + 5, 1) if mapped is not None and allowed else None)
