"""The ``virtio`` fixture saves and loads the state of a device; ours go on where they were."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vhost_user import Device, Request
from vhost_user.backend import device_state
from vhost_user.devices.blk import Blk
from vhost_user.devices.rng import Rng
from vhost_user.devices.storage import MemoryStorage
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.blk import BlkConfig, BlkFeature
from vhost_user.testing.virtio import Virtio


class Adder(Device, type="rng"):
    total = 0

    def handle(self, request: Request) -> None:
        self.total += request.readable
        request.write(self.total.to_bytes(4, "little"))

    def save_state(self) -> object:
        return self.total

    def load_state(self, state: Any, version: int) -> None:
        assert version == 1
        self.total = int(state)


def test_C124_a_state_goes_from_one_device_to_another(virtio: Virtio) -> None:
    one, other = virtio.attach(Adder()), virtio.attach(Adder())
    one.request(b"x" * 5, 4)
    one.driver.stop_queue(0)
    other.load_state(one.save_state())
    assert other.request(b"x", 4) == (6).to_bytes(4, "little")


def test_C127_a_foreign_state_is_refused(virtio: Virtio) -> None:
    rng, adder = virtio.attach(Rng()), virtio.attach(Adder())
    with pytest.raises(RequestRefused):
        adder.load_state(rng.save_state())
    virtio.errors.clear()
    assert adder.request(b"", 4)


def test_a_generator_with_a_seed_goes_on_where_it_was(virtio: Virtio) -> None:
    one, other = (virtio.attach(Rng(random.Random(seed).randbytes)) for seed in (7, 8))
    numbers = random.Random(7)
    assert one.request(writable=10) == numbers.randbytes(10)
    one.driver.stop_queue(0)
    other.load_state(one.save_state())
    assert other.request(writable=10) == numbers.randbytes(10)


@pytest.mark.parametrize("state", [(3, (1, 2), None), "text", [3, [-1] * 625, None]])
def test_C127_a_generator_takes_no_state_that_is_none(state: object, virtio: Virtio) -> None:
    class Liar(Rng):
        state_name = "Rng"

        def save_state(self) -> object:
            return state

    liar = virtio.attach(Liar(random.Random(1).randbytes))
    rng = virtio.attach(Rng(random.Random(7).randbytes))
    with pytest.raises(RequestRefused):
        rng.load_state(liar.save_state())
    virtio.errors.clear()
    assert rng.request(writable=10) == random.Random(7).randbytes(10)


def disk(**options: Any) -> Blk:
    return Blk(MemoryStorage(1 << 20), **options)


def test_a_disk_knows_the_cache_mode_that_its_driver_chose(virtio: Virtio) -> None:
    features = int(BlkFeature.FLUSH | BlkFeature.CONFIG_WCE)
    one, other = disk(), disk()
    source = virtio.attach(one, features=features)
    source.driver.write_config(BlkConfig.WRITEBACK_OFFSET, b"\0")
    source.driver.stop_queue(0)
    destination = virtio.attach(other, features=features)
    destination.load_state(source.save_state())
    assert other._cache.knowledge()["_believed"] == 0
    destination.block(features=features).write(0, bytes(512))
    assert other._cache.write_through


def test_what_is_not_known_of_a_cache_mode_is_not_known_afterwards(virtio: Virtio) -> None:
    """Else the configuration, which the framework carries along, would count as the driver's choice."""
    one, other = disk(), disk()
    one._cache._deaf = True
    virtio.attach(other)
    device_state.load(other, device_state.save(one))
    assert other._cache.knowledge() == one._cache.knowledge()


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"cache": {}, "began": []},
        {"cache": {"_chosen": 2}, "began": []},
        {"cache": None, "began": [9]},
    ],
)
def test_C127_a_disk_takes_no_state_that_is_none(state: object, virtio: Virtio) -> None:
    class Liar(Blk):
        state_name = "Blk"

        def save_state(self) -> Any:
            return state

    liar, other = virtio.attach(Liar(MemoryStorage(1 << 20))), virtio.attach(disk())
    with pytest.raises(RequestRefused):
        other.load_state(liar.save_state())
    virtio.errors.clear()
    assert other.block().read(0, 1) == bytes(512)
