"""The in-process driver brings back-ends up and down as QEMU does."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.devices import Repeater
from tests.support.front_end import until
from vhost_user import Device
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.frontend import FrontendError, RngDriver, VirtioDriver
from vhost_user.protocol.errors import RequestRefused, SocketError
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Memory, VringState

if TYPE_CHECKING:
    from tests.frontend.conftest import ScriptedBackend

Make = Callable[..., "ScriptedBackend"]
Serve = Callable[[Device], socket.socket]
FEATURES = VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.RING_EVENT_IDX


def test_the_messages_come_in_the_order_of_QEMU(make_backend: Make) -> None:
    """Protocol.md 1.6: init, start, stop."""
    backend = make_backend(
        features=FEATURES,
        protocol_features=ProtocolFeature.MQ
        | ProtocolFeature.REPLY_ACK
        | ProtocolFeature.BACKEND_REQ
        | ProtocolFeature.CONFIGURE_MEM_SLOTS
        | ProtocolFeature.INFLIGHT_SHMFD
        | ProtocolFeature.STATUS,
    )
    with VirtioDriver(backend.socket, num_queues=2, inflight=True) as driver:
        up = backend.names()
        assert driver.tear_down() == [7, 7]
    ring = ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK", "SET_VRING_CALL"]
    assert up == [
        *(
            "GET_FEATURES",
            "GET_PROTOCOL_FEATURES",
            "SET_PROTOCOL_FEATURES",
            "GET_QUEUE_NUM",
            "GET_MAX_MEM_SLOTS",
        ),
        *("SET_BACKEND_REQ_FD", "SET_OWNER", "GET_FEATURES"),
        *("SET_VRING_CALL", "SET_VRING_ERR") * 2,
        *("GET_STATUS", "SET_STATUS", "SET_FEATURES", "GET_STATUS", "SET_STATUS", "GET_STATUS"),
        *("GET_INFLIGHT_FD", "SET_INFLIGHT_FD", "SET_MEM_TABLE"),
        *ring * 2,
        *("SET_VRING_ENABLE", "SET_VRING_ENABLE", "GET_STATUS", "SET_STATUS"),
    ]
    down = backend.names()[len(up) :]
    assert down == ["SET_VRING_ENABLE"] * 2 + ["GET_VRING_BASE"] * 2 + ["SET_STATUS"]
    assert backend.last("SET_STATUS") == U64(0)
    assert backend.last("SET_VRING_ENABLE") == VringState(1, 0)


def test_C093_without_acks_a_question_is_the_barrier(make_backend: Make) -> None:
    backend = make_backend(features=FEATURES, protocol_features=0)
    with VirtioDriver(backend.socket):
        names = backend.names()
        for message in ("SET_MEM_TABLE", "SET_VRING_ENABLE"):
            assert names[names.index(message) + 1] == "GET_FEATURES"


def test_C062_without_bit_30_nothing_is_enabled_by_hand(make_backend: Make) -> None:
    backend = make_backend(features=VirtioFeature.VERSION_1)
    with VirtioDriver(backend.socket) as driver:
        assert driver.features == VirtioFeature.VERSION_1
        assert "SET_VRING_ENABLE" not in backend.names()
        assert "GET_PROTOCOL_FEATURES" not in backend.names()


def test_C031_more_queues_than_there_are_is_an_error(make_backend: Make) -> None:
    with pytest.raises(FrontendError, match=r"5 queues wanted, the back-end has 4 \[C031\]"):
        VirtioDriver(make_backend().socket, num_queues=5).bring_up()
    with VirtioDriver(make_backend().socket, num_queues=None) as driver:
        assert len(driver.queues) == 4


def test_features_that_are_required_must_be_offered(make_backend: Make) -> None:
    with pytest.raises(FrontendError, match="RING_PACKED"):
        VirtioDriver(make_backend(features=FEATURES).socket, packed=True).bring_up()
    with VirtioDriver(make_backend(features=FEATURES).socket, packed=None) as driver:
        assert not driver.packed


def test_C131_a_device_that_clears_FEATURES_OK_is_refused(make_backend: Make) -> None:
    backend = make_backend()
    backend.script[FrontendRequest.GET_STATUS] = lambda _: U64(3)
    with pytest.raises(FrontendError, match="C131"):
        VirtioDriver(backend.socket).bring_up()


def test_a_failing_bring_up_leaves_nothing_behind(make_backend: Make) -> None:
    backend = make_backend()
    backend.script[FrontendRequest.SET_VRING_KICK] = lambda _: RequestRefused("no", rule="C073")
    with pytest.raises(RequestRefused, match="SET_VRING_KICK"):
        VirtioDriver(backend.socket, num_queues=2, inflight=True).bring_up()
    with pytest.raises(SocketError):
        VirtioDriver("/nonexistent/directory/socket")


def test_C043_nine_regions_go_slot_by_slot_or_not_at_all(make_backend: Make) -> None:
    def regions(count: int) -> DriverMemory:
        return DriverMemory([DriverRegion(1 << 16, guest_address=i << 20) for i in range(count)])

    with regions(9) as memory, VirtioDriver(make_backend(features=FEATURES).socket, memory=memory):
        pass
    with regions(33) as memory, pytest.raises(FrontendError, match="C043"):
        VirtioDriver(make_backend().socket, memory=memory).bring_up()
    backend = make_backend(features=FEATURES, protocol_features=ProtocolFeature.REPLY_ACK)
    with regions(9) as memory, pytest.raises(FrontendError, match="the back-end takes 8"):
        VirtioDriver(backend.socket, memory=memory).bring_up()
    backend = make_backend(features=FEATURES)
    with regions(3) as memory, VirtioDriver(backend.socket, memory=memory, memory_slots=True):
        assert backend.names().count("ADD_MEM_REG") == 3
    backend = make_backend(features=FEATURES)
    with regions(3) as memory, VirtioDriver(backend.socket, memory=memory):
        table = backend.last("SET_MEM_TABLE")
        assert isinstance(table, Memory)
        assert [region.guest_phys_addr for region in table.regions] == [0, 1 << 20, 2 << 20]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("queue_size", [2, 256])
@pytest.mark.parametrize(
    "options", [{}, {"event_idx": False}, {"use_indirect": True}, {"polled_calls": True}]
)
def test_a_device_of_ours_answers(
    serve: Serve, packed: bool, queue_size: int, options: dict[str, Any]
) -> None:
    device = Repeater()
    device.packed = True
    with VirtioDriver(serve(device), num_queues=2, packed=packed, queue_size=queue_size, **options) as driver:
        assert driver.packed == packed
        for queue in driver.queues:
            queue.poison = True
            for i in range(queue_size + 3):
                data = bytes([i & 255])
                with queue.submit(data, 5) as pending:
                    assert pending.wait() == data * 5
                    assert pending.tail_is_untouched


def test_C036_C045_memory_may_be_odd_in_every_way(serve: Serve) -> None:
    """User addresses that differ, an unaligned file offset, several regions, a hole between them."""
    regions = [
        DriverRegion(1 << 20, guest_address=0, user_address=0x5555_0000_0000, file_offset=0x1234_0),
        DriverRegion(1 << 20, guest_address=1 << 40, user_address=0x1000, file_offset=7 << 12),
    ]
    with DriverMemory(regions) as memory:
        filler = memory.allocate((1 << 20) - 4096)
        with VirtioDriver(serve(Repeater()), memory=memory, queue_size=256) as driver:
            areas = driver.queue(0).ring
            assert areas.descriptor_address < 1 << 20
            assert areas.device_address >= 1 << 40  # the rings lie in both regions
            assert driver.request(b"ab", 4) == b"abab"
        memory.free(filler)


@pytest.mark.parametrize("start", [1, 65535])
def test_C056_C058_the_base_goes_round(serve: Serve, start: int) -> None:
    with VirtioDriver(serve(Repeater()), start=start) as driver:
        for _ in range(3):
            driver.request(b"x", 1)
        assert driver.tear_down() == [(start + 3) & 0xFFFF]


def test_a_ring_can_stop_and_start_again_by_itself(serve: Serve) -> None:
    with VirtioDriver(serve(Repeater()), num_queues=2) as driver:
        driver.request(b"x", 1, queue=0)
        base = driver.stop_queue(0)
        assert base == 1
        assert driver.request(b"y", 1, queue=1) == b"y"
        driver.start_queue(0, base=base)
        assert driver.request(b"z", 1, queue=0) == b"z"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("start", [0, 65530])
def test_C053_a_ring_that_starts_again_goes_on_where_it_stopped(
    serve: Serve, packed: bool, start: int
) -> None:
    with VirtioDriver(
        serve(Repeater()), packed=packed, start=0 if packed else start, queue_size=16
    ) as driver:
        for count in range(20):
            for _ in range(count):
                assert driver.request(b"x", 1) == b"x"
            driver.stop_queue(0)
            driver.start_queue(0)
        driver.stop_queue(0)
        driver.queue(0).ring.reset()
        driver.start_queue(0)
        assert driver.request(b"z", 1) == b"z"


def test_C053_the_base_that_the_device_gave_is_kept_also_with_requests_out(make_backend: Make) -> None:
    backend = make_backend(features=FEATURES, protocol_features=ProtocolFeature.REPLY_ACK)
    with VirtioDriver(backend.socket) as driver:
        driver.queue().submit(b"x", 1)
        assert driver.stop_queue(0) == 7
        driver.start_queue(0)
        assert backend.last("SET_VRING_BASE") == VringState(0, 7)


def test_bring_up_is_done_once(serve: Serve) -> None:
    with RngDriver(serve(Repeater())) as driver:
        queues = driver.queues
        assert driver.bring_up() is driver
        assert driver.queues is queues
        assert len(queues) == 1
        assert driver.request(b"", 3) == b"..."
    with pytest.raises(FrontendError, match="closed and its memory is gone: make a new one"):
        driver.bring_up()
    with pytest.raises(FrontendError, match="make a new one"), driver:
        pass


def test_C064_a_queue_that_stopped_already_is_not_asked_for_its_base_again(make_backend: Make) -> None:
    offered = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
    backend = make_backend(features=FEATURES, protocol_features=offered)
    with VirtioDriver(backend.socket, num_queues=2) as driver:
        assert driver.stop_queue(1) == 7
        assert driver.tear_down() == [7, 7]
        assert driver.tear_down() == [7, 7]
    assert backend.names().count("GET_VRING_BASE") == 2


def test_H109_a_ring_found_broken_while_closing_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    driver = VirtioDriver(serve(Repeater())).bring_up()
    ring = driver.queue(0).ring
    assert isinstance(ring, SplitDriverQueue)
    assert driver.request(b"x", 1) == b"x"
    ring.set_used_index(9)
    driver.close()
    assert "while closing: queue 0: the device broke the ring" in caplog.text
    driver.close()


def test_V003_a_ring_that_we_break_is_signalled(serve: Serve) -> None:
    with VirtioDriver(serve(Repeater()), num_queues=2) as driver:
        ring = driver.queue(0).ring
        assert isinstance(ring, SplitDriverQueue)
        assert not driver.queue_broken(0)
        ring.set_avail_index(1000)
        ring.kick(force=True)
        until(lambda: driver.queue_broken(0))
        assert driver.request(b"x", 1, queue=1) == b"x"


def test_describe_shows_features_rings_and_messages(serve: Serve) -> None:
    with VirtioDriver(serve(Repeater())) as driver:
        text = driver.describe()
        assert "RING_EVENT_IDX" in text
        assert "queue 0: split ring of 256" in text
        assert "SET_VRING_ENABLE reply" in text


def test_C107_C111_with_an_inflight_area_the_rings_stay_as_they_are(make_backend: Make) -> None:
    """The old area is given back, and the base is the used index (C138)."""
    first, second = make_backend(features=FEATURES), make_backend(features=FEATURES)
    with VirtioDriver(first.socket, inflight=True, start=65534) as driver:
        queue = driver.queue(0)
        area = driver.inflight
        assert area is not None
        pending = [queue.submit(b"x", 4) for _ in range(3)]
        ring = queue.ring
        assert isinstance(ring, SplitDriverQueue)
        ring.write_used(65534, ring.read_avail(65534), 2)
        ring.set_used_index(65535)
        driver.reconnect(second.socket)
        assert driver.inflight is area
        assert "GET_INFLIGHT_FD" not in second.names()
        names = second.names()
        assert names.index("SET_FEATURES") < names.index("SET_INFLIGHT_FD") < names.index("SET_VRING_KICK")
        assert second.last("SET_INFLIGHT_FD") == first.last("SET_INFLIGHT_FD")
        assert second.last("SET_VRING_BASE") == VringState(0, 65535)
        assert [each.done for each in pending] == [True, False, False]
        ring.write_used(65535, ring.read_avail(0), 1)  # out of order, after the recovery
        ring.set_used_index(0)
        assert queue.reap() == 1
        assert [each.done for each in pending] == [True, False, True]
