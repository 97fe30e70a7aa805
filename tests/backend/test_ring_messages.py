"""Messages about rings that run: C041, C069 to C075, C131, C132."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo, Resettable
from tests.support.front_end import quiet
from vhost_user import RequestRefused
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.protocol.errors import Disconnected
from vhost_user.spec.features import DeviceStatus, VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, Memory, VringAddress, VringFd, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

HIGH = 1 << 32


@pytest.mark.parametrize(
    "request_", [Ask.SET_VRING_NUM, Ask.SET_VRING_BASE, Ask.SET_VRING_ENABLE], ids=lambda ask: ask.name
)
@pytest.mark.parametrize("index", [1, 256, 0x10000, 0xFFFFFFFF])
def test_C069_H28_an_index_beyond_the_queues_is_refused(
    stage: Stage, request_: Ask, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(request_, VringState(index, 1))
    assert f"{request_.name} (queue {index}) refused: there are 1 queues [C069]" in caplog.text
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C069_an_index_beyond_the_queues_is_refused_for_addresses_and_fds(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_ADDR, VringAddress(0x10001, 0, 0, 0, 0))
    event = os.eventfd(0)
    for ask in (Ask.SET_VRING_KICK, Ask.SET_VRING_CALL, Ask.SET_VRING_ERR):
        with pytest.raises(RequestRefused):
            front.call(ask, VringFd.of(1), [event])
    os.close(event)
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


def test_C069_get_vring_base_of_no_queue_closes_the_connection(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    with pytest.raises(Disconnected):
        front.call(Ask.GET_VRING_BASE, VringState(7))


@pytest.mark.parametrize("size", [3, 100, 2048])
def test_C070_H42_a_size_that_is_no_power_of_two_or_too_large_is_refused(stage: Stage, size: int) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_NUM, VringState(0, size))
    front.call(Ask.SET_VRING_NUM, VringState(0, 256))


def test_C071_a_ring_must_lie_in_mapped_memory_with_its_whole_length(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    front.call(Ask.SET_VRING_NUM, VringState(0, 256))
    region = front.memory.regions[0]
    end = region.user_address + region.size
    start = region.user_address
    for descriptor, used, available in (
        (end - 16 * 255, start, start),
        (start, end - 256 * 8, start),
        (start, start, end - 2 * 256),
        (16, start, start),
    ):
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_VRING_ADDR, VringAddress(0, 0, descriptor, used, available))
    front.call(Ask.SET_VRING_ADDR, VringAddress(0, 0, end - 16 * 256, start, start + 8192))


def test_C072_size_and_base_of_a_running_ring_are_refused(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    for ask in (Ask.SET_VRING_NUM, Ask.SET_VRING_BASE):
        with pytest.raises(RequestRefused):
            front.call(ask, VringState(0, 16))
    assert caplog.text.count("[C072]") == 2
    assert "failed in the device" not in caplog.text
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C072_refused_addresses_leave_a_running_ring_as_it_was(stage: Stage) -> None:
    odd = DriverRegion(1 << 20, guest_address=HIGH + 8, user_address=HIGH)
    good = DriverRegion(1 << 20, guest_address=0x1000_0000)
    _, front = stage.serve(Echo(), regions=[good])
    front.negotiate()
    front.add_region(good)
    front.add_region(odd)
    front.start_ring()
    # Aligned as user addresses, not as guest addresses.
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_ADDR, VringAddress(0, 0, HIGH, HIGH + 4096, HIGH + 8192))
    assert front.request(readable=b"abc", writable=3) == b"cba"
    odd.close()


def test_C072_addresses_of_a_running_ring_may_be_sent_again(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    front.request(readable=b"abc", writable=3)
    front.call(Ask.SET_VRING_ADDR, front.addresses())
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C073_H67_a_start_without_size_addresses_or_memory_is_refused(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    front.make_ring()
    with pytest.raises(RequestRefused):
        front.kick()
    assert "SET_VRING_NUM" in caplog.text
    assert "SET_VRING_ADDR" in caplog.text
    assert "[C073]" in caplog.text
    assert not daemon.vrings[0].started
    front.share_memory()
    front.call(Ask.SET_VRING_NUM, VringState(0, 16))
    with pytest.raises(RequestRefused):
        front.kick()
    front.call(Ask.SET_VRING_ADDR, front.addresses())
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [front.rings[0].call_fd])
    front.kick()
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C041_addresses_may_come_before_the_memory(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.configure_ring()
    front.share_memory()
    front.kick()
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C041_user_addresses_are_translated_again_when_the_table_changes(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    front.request(readable=b"abc", writable=3)
    region = front.memory.regions[0]
    other = DriverRegion(region.size, guest_address=region.guest_address, user_address=region.user_address)
    # The ring goes on in the new file, where nothing more happens; the driver stays with the old one.
    memoryview(other)[:] = memoryview(region)
    front.call(Ask.SET_MEM_TABLE, Memory((front.region(other),)), [other.fd])
    before = front.rings[0].used_index
    front.post(readable=b"abc", writable=3)
    assert quiet(front), "the ring was served in memory that is no longer shared"
    assert front.rings[0].used_index == before
    other.close()


def test_C075_reset_device_disables_the_rings_and_keeps_the_negotiation(stage: Stage) -> None:
    device = Resettable()
    daemon, front = stage.serve(device)
    front.bring_up()
    front.stop_ring()
    front.call(Ask.RESET_DEVICE)
    assert device.resets == 1
    assert not daemon.vrings[0].enabled
    assert front.call(Ask.GET_QUEUE_NUM).value == 1
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [front.rings[0].call_fd])
    front.kick()
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C033_reset_owner_disables_the_rings_and_everything_survives(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    front.call(Ask.RESET_OWNER)
    assert not daemon.vrings[0].enabled
    assert daemon.memory.memory().regions
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C131_status_is_kept_and_zero_resets_the_device(stage: Stage) -> None:
    device = Resettable()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(Ask.SET_STATUS, U64(1 | 2 | 8))
    assert front.call(Ask.GET_STATUS).value == 1 | 2 | 8
    front.call(Ask.SET_STATUS, U64(0))
    assert device.resets == 1
    assert front.call(Ask.GET_STATUS).value == 0


def test_C131_features_ok_is_cleared_after_refused_features(stage: Stage) -> None:
    class Picky(Echo):
        def acked_features(self, features: int) -> None:
            if not features & VirtioFeature.VERSION_1:
                raise RequestRefused("legacy drivers are not served")

    _, front = stage.serve(Picky())
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_FEATURES, U64(VirtioFeature.PROTOCOL_FEATURES))
    front.call(Ask.SET_STATUS, U64(1 | 2 | 8))
    assert front.call(Ask.GET_STATUS).value == 1 | 2


def test_C132_features_ok_alone_holds_nothing_back(stage: Stage) -> None:
    """QEMU 7.2 says so for its generic devices, and nothing after it."""
    _, front = stage.serve(Echo())
    front.negotiate()
    front.call(Ask.SET_STATUS, U64(DeviceStatus.FEATURES_OK))
    front.share_memory()
    front.start_ring()
    assert front.request(readable=b"ab", writable=2) == b"ba"


def test_C132_nothing_is_consumed_before_driver_ok_once_status_is_used(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.call(Ask.SET_STATUS, U64(1 | 2 | 8))
    front.share_memory()
    front.start_ring()
    front.post(readable=b"abc", writable=3)
    assert quiet(front)
    front.call(Ask.SET_STATUS, U64(1 | 2 | 8 | 4))
    assert front.collect()[1] == 3


def test_C074_call_fd_log_and_memory_change_while_requests_flow(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    for turn in range(30):
        assert front.request(readable=b"abc", writable=3) == b"cba"
        if turn % 3 == 0:
            front.call(Ask.SET_VRING_CALL, VringFd.of(0), [front.rings[0].call_fd])
        elif turn % 3 == 1:
            front.share_memory()
        else:
            front.call(
                Ask.SET_FEATURES, U64(front.session.negotiation.acked_features ^ VirtioFeature.LOG_ALL)
            )


def test_V003_a_broken_ring_stops_and_the_others_go_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    device = Echo()
    device.queues = 2
    _, front = stage.serve(device)
    front.negotiate()
    front.share_memory()
    front.start_ring(0)
    front.start_ring(1)
    error = os.eventfd(0, os.EFD_NONBLOCK)
    front.call(Ask.SET_VRING_ERR, VringFd.of(0), [error])
    front.rings[0].set_avail_index(1000)
    front.rings[0].kick(force=True)
    assert select.select([error], [], [], 10)[0], "the err fd was not signalled"
    assert front.request(1, b"abc", 3) == b"cba"
    assert caplog.text.count("queue 0 is stopped") == 1
    assert "V003" in caplog.text
    os.close(error)
