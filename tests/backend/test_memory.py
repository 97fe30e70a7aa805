"""Guest memory as the front-end shares it: C035 to C048, H85."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from vhost_user import Device, Request, RequestRefused
from vhost_user.backend.backend import DEFAULT_PROTOCOL_FEATURES
from vhost_user.engine.driver.memory import DEFAULT_GUEST_ADDRESS, DriverRegion
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.protocol.errors import Disconnected
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Memory, MemoryRegion, MemorySlot, VringAddress

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd

HIGH = 1 << 32


def addresses(daemon: object) -> list[int]:
    return [region.guest_address for region in daemon.memory.memory().regions]  # type: ignore[attr-defined]  # a daemon


def ask_table(front: FrontEnd, *regions: MemoryRegion) -> None:
    """SET_MEM_TABLE with a file for each region."""
    fds = []
    try:
        for region in regions:
            fds.append(os.memfd_create("guest"))
            os.ftruncate(fds[-1], min(region.mmap_offset + region.size, 1 << 30))
        front.call(Ask.SET_MEM_TABLE, Memory(regions), fds)
    finally:
        for fd in fds:
            os.close(fd)


def test_C035_a_new_table_replaces_everything(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    ask_table(front, MemoryRegion(0, 4096, 0x10000), MemoryRegion(HIGH, 4096, 0x20000))
    assert addresses(daemon) == [0, HIGH]
    ask_table(front, MemoryRegion(0x5000, 4096, 0x10000))
    assert addresses(daemon) == [0x5000]
    assert live_mappings() == 1


def test_C035_regions_may_arrive_in_any_order(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    ask_table(front, MemoryRegion(HIGH, 4096, 0x20000), MemoryRegion(0, 4096, 0x10000))
    assert addresses(daemon) == [0, HIGH]


def test_C035_the_old_table_stays_when_the_new_one_cannot_be_mapped(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.bring_up()
    before = live_mappings()
    read_only = os.open("/dev/zero", os.O_RDONLY)
    good = os.memfd_create("guest")
    os.ftruncate(good, 4096)
    table = Memory((MemoryRegion(0, 4096, 0), MemoryRegion(HIGH, 4096, HIGH)))
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_MEM_TABLE, table, [good, read_only])
    os.close(good)
    os.close(read_only)
    assert addresses(daemon) == [DEFAULT_GUEST_ADDRESS]
    assert live_mappings() == before
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C036_an_unaligned_mmap_offset_is_mapped_where_it_says(stage: Stage) -> None:
    region = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS, file_offset=4096 + 123 * 8)
    _, front = stage.serve(Echo(), regions=[region])
    front.bring_up()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C036_memory_that_is_not_shared_is_named(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    read_only = os.open("/proc/self/exe", os.O_RDONLY)
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_MEM_TABLE, Memory((MemoryRegion(0, 4096, 0),)), [read_only])
    os.close(read_only)
    assert "SET_MEM_TABLE refused: memory region at 0x0" in caplog.text
    assert "share=on" in caplog.text


@pytest.mark.parametrize(("gpa", "user"), [(0x1000, 0x100000), (0x100000, 0x1000)], ids=["guest", "user"])
def test_C037_regions_that_overlap_are_refused_when_added(stage: Stage, gpa: int, user: int) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    ask_table(front, MemoryRegion(0, 0x2000, 0))
    with DriverRegion(0x1000, guest_address=gpa, user_address=user) as region, pytest.raises(RequestRefused):
        front.add_region(region)
    assert addresses(daemon) == [0]


def test_C038_a_region_up_to_the_very_end_of_the_address_space_is_legal(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    top = (1 << 64) - 4096
    ask_table(front, MemoryRegion(top, 4096, top))
    assert addresses(daemon) == [top]


def test_C039_a_region_beyond_the_end_of_its_file_is_refused(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    short = os.memfd_create("guest")
    os.ftruncate(short, 4096)
    for size, offset in ((8192, 0), (4096, 1), (1 << 62, 0)):
        with pytest.raises(RequestRefused):
            front.call(Ask.SET_MEM_TABLE, Memory((MemoryRegion(0, size, 0, offset),)), [short])
    os.close(short)
    assert addresses(daemon) == []


def test_C039_H85_truncated_memory_ends_its_session_and_no_other(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    region = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS, seal=False)
    daemon, careless = stage.serve(Echo(), regions=[region])
    other_daemon, careful = stage.serve(Echo())
    careless.bring_up()
    careful.bring_up()
    assert careless.request(readable=b"abc", writable=3) == b"cba"
    region.truncate(0)
    careless.rings[0].kick(force=True)
    with pytest.raises(Disconnected):
        careless.receive()
    assert daemon.wait(10)
    assert caplog.text.count("took its memory away") == 1
    assert other_daemon.connected
    assert careful.request(readable=b"abc", writable=3) == b"cba"


def test_C039_H85_memory_truncated_under_a_request_in_python(stage: Stage) -> None:
    region = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS, seal=False)

    class Cutter(Device):
        def handle(self, request: Request) -> None:
            region.truncate(0)
            view = request.readable_views()[0]
            request.write(bytes(view)[: request.writable])

    daemon, front = stage.serve(Cutter(), regions=[region])
    front.bring_up()
    front.post(readable=b"abc", writable=3)
    with pytest.raises(Disconnected):
        front.receive()
    assert daemon.wait(10)


def test_C040_C044_H98_a_ring_pauses_while_its_memory_is_away(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    region = front.memory.regions[0]
    front.add_region(region)
    front.start_ring()
    assert front.request(readable=b"abc", writable=3) == b"cba"
    front.call(Ask.REM_MEM_REG, MemorySlot(front.region(region)))
    front.post(readable=b"abc", writable=3)
    assert not front.rings[0].wait(0.05)
    assert front.rings[0].used_index == 1
    front.add_region(region)
    assert front.collect()[1] == 3


def test_C042_remove_is_matched_by_addresses_and_size_and_ignores_the_offset(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    with DriverRegion(8192, guest_address=0x4000, user_address=0x9000) as region:
        front.add_region(region)
        right = front.region(region)
        for wrong in (
            MemoryRegion(0x5000, 8192, 0x9000),
            MemoryRegion(0x4000, 8192, 0xA000),
            MemoryRegion(0x4000, 4096, 0x9000),
        ):
            with pytest.raises(RequestRefused):
                front.call(Ask.REM_MEM_REG, MemorySlot(wrong))
        assert addresses(daemon) == [0x4000]
        other_offset = MemoryRegion(right.guest_phys_addr, right.size, right.user_addr, 77)
        front.call(Ask.REM_MEM_REG, MemorySlot(other_offset))
    assert addresses(daemon) == []
    assert live_mappings() == 0


def test_C043_509_slots_are_promised_and_kept(stage: Stage) -> None:
    daemon, front = stage.serve(Echo())
    front.negotiate()
    assert front.call(Ask.GET_MAX_MEM_SLOTS).value == 509
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4096)
    for number in range(509):
        front.call(Ask.ADD_MEM_REG, MemorySlot(MemoryRegion(number << 12, 4096, number << 12)), [fd])
    with pytest.raises(RequestRefused):
        front.call(Ask.ADD_MEM_REG, MemorySlot(MemoryRegion(509 << 12, 4096, 509 << 12)), [fd])
    os.close(fd)
    assert len(addresses(daemon)) == 509


def test_C045_ring_addresses_are_user_addresses(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    front.share_memory()
    ring = front.make_ring()
    guest = VringAddress(0, 0, ring.descriptor_address, ring.device_address, ring.driver_address)
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_VRING_ADDR, guest)


class GuestAddresses(Echo):
    extra_protocol_features = ProtocolFeature.GPA_ADDRESSES


def test_C046_with_gpa_addresses_ring_addresses_are_guest_addresses_and_zero_is_one(stage: Stage) -> None:
    region = DriverRegion(1 << 20, guest_address=0, user_address=0)
    _, front = stage.serve(GuestAddresses(), regions=[region])
    front.bring_up()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C046_with_gpa_addresses_both_addresses_of_a_region_must_be_equal(stage: Stage) -> None:
    daemon, front = stage.serve(GuestAddresses())
    front.negotiate()
    with pytest.raises(RequestRefused):
        ask_table(front, MemoryRegion(0, 4096, 0x1000))
    assert addresses(daemon) == []


def test_C047_xen_mappings_and_in_band_notifications_are_never_offered() -> None:
    assert not DEFAULT_PROTOCOL_FEATURES & (ProtocolFeature.XEN_MMAP | ProtocolFeature.INBAND_NOTIFICATIONS)


def test_C048_a_buffer_may_cross_regions_that_only_meet_in_guest_addresses(stage: Stage) -> None:
    low = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS)
    high = DriverRegion(1 << 20, guest_address=DEFAULT_GUEST_ADDRESS + (1 << 20))
    _, front = stage.serve(Echo(), regions=[low, high])
    front.bring_up()
    border = DEFAULT_GUEST_ADDRESS + (1 << 20)
    memoryview(low)[-2:] = b"ab"
    memoryview(high)[:2] = b"cd"
    ring = front.rings[0]
    ring.add([(border - 2, 4)], [(border + 100, 4)])
    ring.publish()
    ring.kick()
    assert front.collect()[1] == 4
    assert front.memory.read(border + 100, 4) == b"dcba"


def test_C134_the_memory_of_a_session_is_closed_with_it(stage: Stage) -> None:
    device = Echo()
    daemon = stage.daemon(device)
    ours, theirs = socket.socketpair()
    daemon.start_connection(theirs)
    front = stage.front_end(ours)
    front.bring_up()
    memory = daemon.memory.memory()
    view = memory.view(DEFAULT_GUEST_ADDRESS, 16)
    front.close()
    assert daemon.wait(10)
    assert memory.closed
    assert bytes(view) == bytes(16) or len(view) == 16  # a view keeps its mapping alive
    assert live_mappings() >= 1
    view.release()
    del memory
