"""Post-copy as the destination: pages come when a ring or a device wants them; C053, C119, C121."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from tests.support.post_copy import CONTENT, Echo, Served, answered, ask, started_without_pages
from vhost_user import Batch, Device, Request, VhostUserBackend
from vhost_user.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.devices import Blk, MemoryStorage
from vhost_user.frontend import BlockDriver
from vhost_user.frontend.postcopy import PAGE, PostCopy
from vhost_user.spec.features import VirtioFeature


class Together(Device, type="rng"):
    def handle_batch(self, requests: Batch) -> None:
        for request in requests:
            request.write(request.read()[::-1])


class Coroutine(Device, type="rng"):
    async def handle(self, request: Request) -> None:
        request.write(request.read()[::-1])


class ByHand(VhostUserBackend):
    """Empties its ring with ``pop``, as devices of the trait do."""

    def num_queues(self) -> int:
        return 1

    def max_queue_size(self) -> int:
        return 256

    def features(self) -> int:
        return int(DEFAULT_FEATURES | VirtioFeature.RING_PACKED)

    def protocol_features(self) -> int:
        return DEFAULT_PROTOCOL_FEATURES

    def handle_event(self, device_event: int, event_set: int, vrings: Sequence[Any], thread_id: int) -> None:
        del event_set, thread_id
        vring = vrings[device_event]
        while (request := vring.pop()) is not None:
            request.write(request.read()[::-1])
            request.complete()


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("kind", [Echo, Together, Coroutine, ByHand])
def test_C121_buffers_come_when_the_device_wants_them(
    served: Served, kind: type[VhostUserBackend], indirect: bool
) -> None:
    driver = served.serve(kind())
    for _ in range(3):
        source, target = ask(driver, served.pages, indirect=indirect)
        assert answered(driver) == PAGE
        assert {source, target, target + PAGE} <= set(served.pages.asked)
        assert driver.memory.read(target, PAGE) == CONTENT[::-1]
        assert driver.memory.read(target + PAGE, PAGE)[:7] == (b"old" * 2000)[PAGE : PAGE + 7]
    assert served.pages.strays == []


def test_C121_the_pages_of_an_indirect_table_come_as_the_walk_gets_there(served: Served) -> None:
    driver = served.serve(Echo())
    memory, ring = driver.memory, driver.queues[0].ring
    source = memory.allocate(PAGE, PAGE)
    memory.write(source, CONTENT)
    target = memory.allocate(3 * PAGE, PAGE)
    parts = [(target + 16 * index, 16) for index in range(600)]
    ring.add([(source, PAGE)], parts, indirect=True)
    table = int.from_bytes(memory.read(ring.descriptor_address, 8), "little")
    inside = -(-table // PAGE) * PAGE
    assert inside + PAGE <= table + 16 * 601
    served.pages.withhold(inside, PAGE)
    ring.publish()
    ring.kick()
    assert answered(driver) == PAGE
    assert inside in served.pages.asked
    assert memory.read(target, PAGE) == CONTENT[::-1]


def test_C121_a_ring_starts_when_its_pages_have_come_and_messages_are_answered_meanwhile(
    served: Served,
) -> None:
    driver = started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    for _ in range(10):
        driver.frontend.get_features()
    assert not served.daemon.vrings[0].started
    served.pages.silent = False
    served.pages.bring_all()
    assert answered(driver) == PAGE
    assert served.daemon.vrings[0].started


def test_C053_a_ring_that_waits_for_its_pages_can_be_stopped(served: Served) -> None:
    driver = started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    base = driver.frontend.get_vring_base(0)
    assert base & 0x7FFF == 0
    served.pages.silent = False
    served.pages.bring_all()
    driver.frontend.barrier()
    time.sleep(0.05)
    assert not served.daemon.vrings[0].started
    driver.start_queue(0, base=base)
    assert answered(driver) == PAGE


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "python"])
def test_C121_a_disk_reads_and_writes_missing_pages(served: Served, fast_path: bool) -> None:
    disk = Blk(MemoryStorage(1 << 20), fast_path=fast_path)
    driver = served.serve(disk, BlockDriver)
    check_disk(driver, served.pages)


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "python"])
def test_C121_a_disk_in_a_file_too(served: Served, fast_path: bool, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    driver = served.serve(Blk(image, fast_path=fast_path), BlockDriver)
    check_disk(driver, served.pages)


def check_disk(driver: BlockDriver, pages: PostCopy) -> None:
    """Write a megabyte from pages that are missing, and read it into others."""
    memory, ring = driver.memory, driver.queues[0].ring
    content = os.urandom(256 << 10)
    for kind in (1, 0):
        header, data, status = memory.allocate(16), memory.allocate(len(content), PAGE), memory.allocate(1)
        memory.write(header, kind.to_bytes(8, "little") + bytes(8))
        memory.write(data, content if kind else bytes(len(content)))
        memory.write(status, b"\xff")
        out, back = [(header, 16)], [(status, 1)]
        if kind:
            out.append((data, len(content)))
        else:
            back.insert(0, (data, len(content)))
        ring.add(out, back)
        pages.withhold(data, len(content))
        ring.publish()
        ring.kick()
        answered(driver)
        assert memory.read(status, 1) == b"\0"
        assert memory.read(data, len(content)) == content


def test_C121_memory_that_a_device_reads_and_writes_by_itself_is_waited_for(served: Served) -> None:
    driver = served.serve(Echo())
    memory = served.daemon.memory.memory()
    place = driver.memory.allocate(8 * PAGE, PAGE)
    driver.memory.write(place, CONTENT * 8)
    served.pages.withhold(place, 8 * PAGE)
    assert memory.read(place + 100, PAGE) == (CONTENT * 2)[100 : 100 + PAGE]
    memory.write(place + 2 * PAGE + 1, b"new")
    assert memory.load(place + 3 * PAGE, 4) == 0x03020100
    memory.store(place + 4 * PAGE, 7, 8)
    with memory.view(place + 5 * PAGE, 4) as view:
        assert bytes(view) == CONTENT[:4]
    (part,) = memory.get_slices(place + 6 * PAGE, 4)
    assert bytes(part) == CONTENT[:4]
    part.release()
    assert set(served.pages.asked) >= {place + page * PAGE for page in range(7)}
    served.pages.bring_all()
    expected = bytearray(CONTENT * 8)
    expected[2 * PAGE + 1 : 2 * PAGE + 4] = b"new"
    expected[4 * PAGE : 4 * PAGE + 8] = (7).to_bytes(8, "little")
    assert driver.memory.read(place, 8 * PAGE) == expected


def test_C119_a_table_on_a_running_ring_has_it_go_on_when_its_pages_came(served: Served) -> None:
    driver = served.serve(Echo())
    ask(driver, served.pages, indirect=False)
    answered(driver)
    served.pages.share(driver.memory.regions)
    driver.frontend.barrier()
    ask(driver, served.pages, indirect=False)
    assert answered(driver) == PAGE
