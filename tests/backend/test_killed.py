"""A back-end that is killed in the middle of requests, again and again (C111, C113, C138, C139)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.killed_store import BLOCK, KilledStore, kill_and_reconnect, write
from vhost_user.frontend import VirtioDriver
from vhost_user.frontend.iommu import Iommu

KILLS = 5


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C139_no_request_is_lost_or_answered_twice(packed: bool, tmp_path: Path) -> None:
    assert kill_and_reconnect(tmp_path, range(KILLS), random.Random(1), packed=packed) == 25 * KILLS


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C088_C139_nor_behind_an_iommu(packed: bool, tmp_path: Path) -> None:
    """A new process knows no translations: what was in flight is taken up when they have come."""
    iommu = Iommu()
    chance = random.Random(3)
    assert kill_and_reconnect(tmp_path, range(KILLS), chance, packed=packed, iommu=iommu) == 25 * KILLS
    assert iommu.misses


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_what_may_not_be_done_twice_is_asked_about(packed: bool, tmp_path: Path) -> None:
    chance = random.Random(2)
    with (
        KilledStore(tmp_path, "meter") as served,
        VirtioDriver(served.socket, queue_size=256, packed=packed, inflight=True, timeout=60) as driver,
    ):
        requests = [write(driver, chance, BLOCK * number) for number in range(21)]
        # The last one was taken after all others, and those at odd places are not going to end.
        requests[20][2].wait(60)
        before = {position for position, _, pending in requests if pending.done}
        served.kill()
        served.start()
        driver.reconnect(retry_seconds=60)
        later = write(driver, chance, 22 * BLOCK)
        answers = {position: pending.wait(60) for position, _, pending in (*requests, later)}
    assert answers.pop(later[0]) == later[0].to_bytes(8, "little")
    refused = {position for position, answer in answers.items() if answer == b"refused!"}
    assert refused >= {BLOCK * number for number in range(1, 20, 2)}
    assert not refused & before
    for position, answer in answers.items():
        assert answer in {b"refused!", position.to_bytes(8, "little")}
