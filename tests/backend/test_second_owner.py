"""A device is plugged in again on the connection that it had: SET_OWNER begins anew (C032, C037)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from vhost_user import RequestRefused
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, MemoryRegion, MemorySlot, VringFd

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd


class Watching(Echo):
    config = bytes(8)

    def __init__(self) -> None:
        self.resets = 0
        self.logging: list[bool] = []

    def reset(self) -> None:
        self.resets += 1

    def set_dirty_logging(self, enabled: bool) -> None:
        self.logging.append(enabled)


def realize(front: FrontEnd) -> socket.socket:
    """What QEMU sends when a device is made, in its order; gives our end of the back channel."""
    front.call(Ask.GET_FEATURES)
    front.call(Ask.SET_PROTOCOL_FEATURES, front.call(Ask.GET_PROTOCOL_FEATURES), need_reply=False)
    front.call(Ask.GET_QUEUE_NUM)
    front.call(Ask.GET_MAX_MEM_SLOTS)
    ours, theirs = socket.socketpair()
    with theirs:
        front.call(Ask.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    front.call(Ask.SET_OWNER)
    return ours


def start(front: FrontEnd, features: int = ~0) -> None:
    """What QEMU sends when the guest's driver is there; the memory goes region by region."""
    offered = front.call(Ask.GET_FEATURES).value
    keep = ~int(VirtioFeature.RING_PACKED | VirtioFeature.IN_ORDER | VirtioFeature.LOG_ALL)
    front.call(Ask.SET_FEATURES, U64(offered & keep & features))
    for region in front.memory.regions:
        front.add_region(region)
    front.start_ring()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def stop(front: FrontEnd) -> None:
    front.enable(on=False)
    front.stop_ring()


def forget_rings(front: FrontEnd) -> None:
    for ring in front.rings.values():
        ring.close()
    front.rings.clear()


def test_C037_a_device_can_be_plugged_in_again_and_again_on_one_connection(stage: Stage) -> None:
    device = Watching()
    daemon, front = stage.serve(device)
    before = live_mappings()
    for life in range(10):
        with realize(front) as channel:
            assert device.resets == life
            assert not daemon.memory.memory().regions
            start(front)
            # The channel of this life is in use, though it came before SET_OWNER (C130).
            device.config_changed()
            channel.settimeout(10)
            assert len(channel.recv(100)) == 12
            stop(front)
            forget_rings(front)
    assert live_mappings() - before == len(front.memory.regions)  # those of the last life, not of ten


def test_C032_what_the_life_before_had_is_gone(stage: Stage) -> None:
    device = Watching()
    daemon, front = stage.serve(device)
    with realize(front) as old_channel:
        start(front)
        front.stop_ring()  # as older front-ends do: without disabling it
        forget_rings(front)
        front.call(Ask.SET_OWNER)
        old_channel.settimeout(10)
        assert old_channel.recv(1) == b""
    assert not daemon.memory.memory().regions
    vring = daemon.vrings[0]
    assert not vring.enabled
    assert not vring.has_call
    assert vring.size == 0
    # Only protocol features were negotiated in this life: SET_VRING_ENABLE may come before SET_FEATURES.
    front.enable()
    start(front)


def test_C032_logging_ends_with_the_life_and_the_device_is_told(stage: Stage) -> None:
    device = Watching()
    _, front = stage.serve(device)
    realize(front).close()
    start(front)
    acked = front.session.negotiation.acked_features
    for features in (acked | VirtioFeature.LOG_ALL, acked | VirtioFeature.LOG_ALL, acked):
        front.call(Ask.SET_FEATURES, U64(features))
    assert device.logging == [True, False]
    front.call(Ask.SET_FEATURES, U64(acked | VirtioFeature.LOG_ALL))
    stop(front)
    forget_rings(front)
    realize(front).close()
    assert device.logging == [True, False, True, False]


def test_the_first_set_owner_changes_nothing_however_late_it_comes(stage: Stage) -> None:
    daemon, front = stage.serve(Watching())
    front.call(Ask.GET_FEATURES)
    front.call(Ask.SET_PROTOCOL_FEATURES, front.call(Ask.GET_PROTOCOL_FEATURES), need_reply=False)
    start(front)
    front.call(Ask.SET_OWNER)
    assert front.request(readable=b"abc", writable=3) == b"cba"
    assert daemon.memory.memory().regions


def test_a_second_set_owner_while_a_ring_runs_changes_nothing(stage: Stage) -> None:
    _, front = stage.serve(Watching())
    realize(front).close()
    start(front)
    front.call(Ask.SET_OWNER)
    assert front.request(readable=b"abc", writable=3) == b"cba"


@pytest.mark.parametrize("times", [1, 3])
def test_set_owner_before_any_ring_has_run_changes_nothing(stage: Stage, times: int) -> None:
    _, front = stage.serve(Watching())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    for _ in range(times):
        front.call(Ask.SET_OWNER)
    front.kick()
    front.enable()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_a_set_owner_that_comes_when_the_next_rings_are_prepared_keeps_what_was_prepared(
    stage: Stage,
) -> None:
    _, front = stage.serve(Watching())
    front.bring_up()
    base = front.stop_ring()
    front.configure_ring(base=base)
    front.call(Ask.SET_OWNER)
    front.kick()
    assert front.request(readable=b"abc", writable=3) == b"cba"


def test_C065_a_call_descriptor_after_the_stop_prepares_nothing(stage: Stage) -> None:
    # QEMU under KVM masks the interrupt when it lets go of it, after the stop.
    daemon, front = stage.serve(Watching())
    realize(front).close()
    start(front)
    stop(front)
    front.call(Ask.SET_VRING_CALL, VringFd.of(0), [front.rings[0].call_fd])
    forget_rings(front)
    realize(front).close()
    assert not daemon.memory.memory().regions
    start(front)


def test_C037_the_same_region_replaces_the_old_one_while_rings_are_stopped(stage: Stage) -> None:
    daemon, front = stage.serve(Watching())
    front.negotiate()
    (region,) = front.memory.regions
    for _ in range(3):
        front.add_region(region)
    assert len(daemon.memory.memory().regions) == 1
    front.start_ring()
    assert front.request(readable=b"abc", writable=3) == b"cba"
    with pytest.raises(RequestRefused):
        front.add_region(region)
    front.stop_ring()
    shifted = MemoryRegion(region.guest_address + 4096, region.size, region.user_address, region.file_offset)
    with pytest.raises(RequestRefused):
        front.call(Ask.ADD_MEM_REG, MemorySlot(shifted), [region.fd])
