"""What a back-end refuses behind an IOMMU, and when it offers one: C034, C089, C091, V043."""

from __future__ import annotations

import logging
import socket

import pytest

from tests.support.devices import Echo
from tests.support.iommu import DriveIommu, ask
from vhost_user import VhostUserDaemon
from vhost_user.backend.handover import UpgradeError, bring_to_rest
from vhost_user.frontend import RequestRefused, VirtioDriver
from vhost_user.frontend.iommu import PAGE, Iommu
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.structs import Iotlb, IotlbType

TOP = 1 << 64


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Iotlb(0, PAGE, 0, 3, IotlbType.UPDATE), id="C091 outside of memory"),
        pytest.param(Iotlb(0, 1 << 62, 0, 3, IotlbType.UPDATE), id="C091 gigantic"),
        pytest.param(Iotlb(0, 0, 0, 3, IotlbType.UPDATE), id="C091 empty"),
        pytest.param(Iotlb(TOP - PAGE, 2 * PAGE, 0, 3, IotlbType.INVALIDATE), id="C089 wraps"),
        pytest.param(Iotlb(0, PAGE, 0, 0, IotlbType.MISS), id="C089 a miss"),
        pytest.param(Iotlb(0, PAGE, 0, 0, 77), id="C089 unknown"),
    ],
)
def test_C089_what_cannot_be_done_is_refused_and_the_device_lives(
    behind_iommu: DriveIommu, message: Iotlb, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    with pytest.raises(RequestRefused):
        iommu.send(message)
    assert ask(driver) == b"cba"


def test_C089_invalidate_means_its_range_alone(behind_iommu: DriveIommu) -> None:
    """QEMU leaves the permission and the user address of INVALIDATE as they were in its memory."""
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    iommu.send(Iotlb(0, PAGE, TOP - 1, 178, IotlbType.INVALIDATE))
    assert ask(driver) == b"cba"


def test_entries_without_end_take_bounded_memory(behind_iommu: DriveIommu) -> None:
    iommu = Iommu()
    driver = behind_iommu(Echo(), iommu)
    region = driver.memory.regions[0]
    for number in range(20_000):
        iommu.send(Iotlb((1 << 50) + number * 2, 1, region.user_address + number, 3, IotlbType.UPDATE))
    assert ask(driver) == b"cba"


def test_C034_bit_33_needs_the_back_channel() -> None:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("test", Echo(), iommu=True) as daemon:
        daemon.start_connection(theirs)
        without = ~(ProtocolFeature.BACKEND_REQ | ProtocolFeature.REPLY_ACK)
        driver = VirtioDriver(ours, iommu=Iommu(), protocol_features=int(without) & 0xFFFF)
        try:
            with pytest.raises(RequestRefused) as refused:
                driver.bring_up()
            assert refused.value.rule == "C034"
        finally:
            driver.close()


def test_V043_it_is_offered_only_when_asked_for() -> None:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("test", Echo()) as daemon:
        daemon.start_connection(theirs)
        driver = VirtioDriver(ours)
        try:
            driver.bring_up()
            assert not driver.frontend.backend_features & VirtioFeature.ACCESS_PLATFORM
            with pytest.raises(RequestRefused):
                driver.frontend.iotlb_msg(Iotlb(0, PAGE, 0, 3, IotlbType.UPDATE))
        finally:
            driver.close()


def test_an_upgrade_is_refused_in_words_and_the_rings_go_on(behind_iommu: DriveIommu) -> None:
    device = Echo()
    driver = behind_iommu(device, Iommu())
    assert ask(driver) == b"cba"
    assert device._daemon is not None
    state = device._daemon.session  # type: ignore[attr-defined]
    with pytest.raises(UpgradeError, match="ACCESS_PLATFORM"):
        bring_to_rest(state, 1.0)
    assert ask(driver) == b"cba"
