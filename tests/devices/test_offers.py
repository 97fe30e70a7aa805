"""What the devices offer, and that what they offer works in every combination."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from vhost_user import Device, VhostUserBackend
from vhost_user.devices import Blk, MemoryStorage, Rng
from vhost_user.frontend import BlockDriver
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

Serve = Callable[[VhostUserBackend], socket.socket]


@pytest.fixture(params=["rng", "blk"])
def device(request: pytest.FixtureRequest) -> Device:
    return Rng() if request.param == "rng" else Blk(MemoryStorage(4096))


def test_V040_version_1_is_offered(device: Device) -> None:
    assert device.features() & VirtioFeature.VERSION_1


def test_V043_V044_V047_nothing_is_offered_that_has_no_code(device: Device) -> None:
    absent = (
        VirtioFeature.ACCESS_PLATFORM
        | VirtioFeature.NOTIFICATION_DATA
        | VirtioFeature.NOTIF_CONFIG_DATA
        | VirtioFeature.ADMIN_VQ
        | VirtioFeature.SR_IOV
        | VirtioFeature.SUSPEND
    )
    assert not device.features() & absent
    assert not device.protocol_features() & (ProtocolFeature.INBAND_NOTIFICATIONS | ProtocolFeature.XEN_MMAP)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event index"])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_V039_offered_ring_features_work_in_every_combination(
    serve_device: Serve, packed: bool, event_idx: bool, indirect: bool
) -> None:
    connection = serve_device(Blk(MemoryStorage(64 << 10)))
    with BlockDriver(
        connection, packed=packed, event_idx=event_idx, indirect=indirect, queue_size=16
    ) as disk:
        wanted = {
            VirtioFeature.RING_PACKED: packed,
            VirtioFeature.RING_EVENT_IDX: event_idx,
            VirtioFeature.RING_INDIRECT_DESC: indirect,
        }
        assert all(bool(disk.features & bit) == on for bit, on in wanted.items())
        for number in range(100):  # the ring turns over several times
            disk.write(number % 128, bytes([number]) * 512)
            assert disk.read(number % 128, 1) == bytes([number]) * 512


def test_V046_a_packed_ring_starts_from_the_base_it_is_given(serve_device: Serve) -> None:
    # avail and used at entry 5, the driver's wrap counter 0, the device's too: bits 15 and 31 clear
    base = 5 | 5 << 16
    connection = serve_device(Blk(MemoryStorage(64 << 10)))
    with BlockDriver(connection, packed=True, queue_size=16, indirect=False, start=base) as disk:
        for number in range(20):
            disk.write(number, bytes([number]) * 512)
        # 20 requests of 3 descriptors: entry 5 + 60 = 4 * 16 + 1, so an even number of turns and entry 1
        assert disk.tear_down() == [1 | 1 << 16]


def test_V042_order_platform_is_not_promised(device: Device) -> None:
    """Harmless either way: the engine has real barriers, but nothing needs the bit."""
    assert not device.features() & VirtioFeature.ORDER_PLATFORM
