"""Front-ends that come one after the other to the same back-end, each unlike the last (C032, C134)."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhost_user import Listener, VhostUserDaemon
from vhost_user.devices import Blk
from vhost_user.frontend import BlockDriver
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

SECTORS = 2048
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"num_queues": 1, "queue_size": 8, "event_idx": False, "indirect": False},
    "packed": {"num_queues": 4, "queue_size": 200, "packed": True, "memory_size": 16 << 20},
    "large": {"num_queues": 2, "queue_size": 1024, "memory_size": 256 << 20},
    "in slots": {"num_queues": 3, "queue_size": 64, "memory_slots": True, "use_indirect": True},
    "table": {"num_queues": 4, "queue_size": 256, "memory_slots": False, "start": 65000},
    "polled": {"num_queues": 1, "queue_size": 4, "polled_calls": True, "packed": True},
    "bare": {
        "num_queues": 1,
        "queue_size": 16,
        "protocol_features": int(ProtocolFeature.CONFIG | ProtocolFeature.MQ),
        "back_channel": False,
        "status": False,
        "inject_kick": False,
    },
}
CHANGES = list(itertools.permutations(KINDS, 2))


@pytest.fixture(params=[True, False], ids=["fast path", "Python"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, VhostUserDaemon]]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SECTORS * 512))
    device = Blk(str(image), num_queues=4, fast_path=request.param)
    with VhostUserDaemon("disk", device) as daemon, Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        yield tmp_path / "s", daemon


def leave(driver: BlockDriver, how: str) -> None:
    """As a VMM that shuts down, that is killed, or that is killed with requests in flight."""
    if how == "in order":
        driver.close()
        return
    if how == "under load":
        for sector in range(0, 64, 8):
            # Reads: who is killed does not know what became of its writes.
            if driver.queues[0].ring.free_slots >= 3:
                driver.queues[0].submit(bytes(8) + sector.to_bytes(8, "little"), (4096, 1))
    driver.frontend.close()
    driver.close()


@pytest.mark.parametrize("how", ["in order", "killed", "under load"])
def test_C032_each_finds_a_device_as_new_and_the_data_of_all_before(
    disk: tuple[Path, VhostUserDaemon], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, daemon = disk
    dice = random.Random(7)
    expected = bytearray(SECTORS * 512)
    kinds = [kind for change in CHANGES for kind in change]
    for number, kind in enumerate(kinds):
        with BlockDriver(str(path), **KINDS[kind]) as driver:
            assert driver.packed == bool(KINDS[kind].get("packed")), kind
            queues = KINDS[kind]["num_queues"]
            for queue in range(queues):
                sector, data = dice.randrange(SECTORS - 8), dice.randbytes(512 * dice.randrange(1, 9))
                driver.write(sector, data, queue=queue)
                expected[sector * 512 : sector * 512 + len(data)] = data
            assert driver.read(0, SECTORS, queue=dice.randrange(queues)) == expected, f"{number}: {kind}"
            leave(driver, how)
    assert daemon.sessions == len(kinds)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_C032_a_feature_of_the_one_before_is_not_in_force(disk: tuple[Path, VhostUserDaemon]) -> None:
    path, daemon = disk
    for kind, packed in (("packed", True), ("plain", False), ("packed", True), ("bare", False)):
        with BlockDriver(str(path), **KINDS[kind]) as driver:
            driver.read(0, 1)
            assert all(vring.packed == packed for vring in daemon.vrings)
            session = daemon.session
            assert session is not None
            assert session.negotiation.has_feature(VirtioFeature.RING_PACKED) == packed
            assert daemon.vrings[0].size == KINDS[kind]["queue_size"]
            started = sum(vring.started for vring in daemon.vrings)
            assert started == KINDS[kind]["num_queues"]
            assert len(daemon.memory.memory().regions) == 1
