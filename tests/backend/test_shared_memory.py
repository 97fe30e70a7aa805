"""Shared memory regions of a ``Device``: C024, C076, C102, C104, C105."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.devices import Echo
from tests.support.vmm import PAGE, BeginVmm, Screen
from vhost_user import BackChannelError, RequestRefused, SharedMemory
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def memory_of(device: Screen) -> SharedMemory:
    assert device.shared_memory is not None
    return device.shared_memory


def test_C104_C105_a_file_in_a_region(stage: Stage, begin_vmm: BeginVmm, frame: int) -> None:
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    sizes = vmm.front.call(Ask.GET_SHMEM_CONFIG)
    assert {shmid: size for shmid, size in enumerate(sizes.sizes) if size} == {1: 8 * PAGE, 7: PAGE}
    vmm.run()
    memory = memory_of(device)
    mapping = memory.map(1, frame, offset=PAGE, length=2 * PAGE, fd_offset=PAGE, writable=True)
    assert memory.mappings == (mapping,)
    (seen,) = vmm.handler.shmem_maps[1]
    assert (seen.shm_offset, seen.length, seen.fd_offset, seen.flags) == (PAGE, 2 * PAGE, PAGE, 1)
    other = memory.map(7, frame, offset=0, length=PAGE)
    assert vmm.handler.shmem_maps[7][0].flags == 0
    memory.unmap(mapping)
    assert vmm.handler.shmem_maps[1] == []
    assert memory.mappings == (other,)
    with pytest.raises(ValueError, match="is not mapped"):
        memory.unmap(mapping)
    # Where it was there is room again.
    memory.map(1, frame, offset=2 * PAGE, length=PAGE)


UNMAPPABLE: list[tuple[int, dict[str, Any], str]] = [
    (0, {"offset": 0, "length": PAGE}, "there is no shared memory region 0"),
    (1, {"offset": 0, "length": 0}, "whole pages"),
    (1, {"offset": 0, "length": -PAGE}, "whole pages"),
    (1, {"offset": 8, "length": PAGE}, "whole pages"),
    (1, {"offset": 0, "length": PAGE, "fd_offset": 8}, "whole pages"),
    (1, {"offset": 0, "length": PAGE, "fd_offset": -PAGE}, "whole pages"),
    (1, {"offset": -PAGE, "length": PAGE}, "lies outside"),
    (1, {"offset": 8 * PAGE, "length": PAGE}, "lies outside"),
    (1, {"offset": 0, "length": 9 * PAGE}, "lies outside"),
    (1, {"offset": 1 << 70, "length": PAGE}, "lies outside"),
    (1, {"offset": 3 * PAGE, "length": 2 * PAGE}, "overlaps 0x4000\\+0x1000"),
]


@pytest.mark.parametrize("wrong", UNMAPPABLE, ids=lambda wrong: wrong[2])
def test_C104_what_cannot_be_mapped_is_not_asked_for(
    stage: Stage, begin_vmm: BeginVmm, frame: int, wrong: tuple[int, dict[str, Any], str]
) -> None:
    region, given, words = wrong
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()
    memory = memory_of(device)
    first = memory.map(1, frame, offset=4 * PAGE, length=PAGE)
    with pytest.raises(ValueError, match=words):
        memory.map(region, frame, **given)
    assert vmm.channel.counts["SHMEM_MAP"] == 1
    assert memory.mappings == (first,)


def test_C104_what_the_front_end_refuses_is_not_mapped(stage: Stage, begin_vmm: BeginVmm, frame: int) -> None:
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()
    vmm.handler.shmem = {1: PAGE}
    memory = memory_of(device)
    with pytest.raises(RequestRefused):
        memory.map(1, frame, offset=PAGE, length=PAGE)
    assert memory.mappings == ()
    memory.map(1, frame, offset=0, length=PAGE)


@pytest.mark.parametrize("reset", ["RESET_DEVICE", "the end of the session"])
def test_C104_mappings_end_with_a_reset(stage: Stage, begin_vmm: BeginVmm, frame: int, reset: str) -> None:
    device = Screen()
    daemon = stage.daemon(device)
    vmm = begin_vmm(daemon)
    vmm.run()
    memory = memory_of(device)
    mapping = memory.map(1, frame, offset=0, length=PAGE)
    if reset == "RESET_DEVICE":
        vmm.front.call(Ask.RESET_DEVICE)
    else:
        vmm.front.close()
        assert daemon.wait(20)
    assert memory.mappings == ()
    with pytest.raises(ValueError, match="is not mapped"):
        memory.unmap(mapping)


def test_C102_C104_a_reset_while_the_front_end_is_asked(
    stage: Stage, begin_vmm: BeginVmm, frame: int
) -> None:
    """The reset does not wait for the mapping, and the mapping does not survive it."""
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()
    memory = memory_of(device)
    failures: list[Exception] = []

    def show() -> None:
        try:
            memory.map(1, frame, offset=0, length=PAGE)
        except BackChannelError as error:
            failures.append(error)

    vmm.handler.answer.clear()
    thread = threading.Thread(target=show)
    thread.start()
    assert vmm.handler.asked.wait(20)
    vmm.front.call(Ask.RESET_DEVICE)
    vmm.handler.answer.set()
    thread.join(20)
    (failure,) = failures
    assert "is gone again" in str(failure)
    assert memory.mappings == ()


def test_C076_nothing_can_be_mapped_while_the_rings_are_stopped(
    stage: Stage, begin_vmm: BeginVmm, frame: int
) -> None:
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    memory = memory_of(device)
    with pytest.raises(BackChannelError, match="C076"):
        memory.map(1, frame, offset=0, length=PAGE)
    vmm.run()
    mapping = memory.map(1, frame, offset=0, length=PAGE)
    vmm.front.stop_ring()
    with pytest.raises(BackChannelError, match="C076"):
        memory.unmap(mapping)
    assert memory.mappings == (mapping,), "it is still there"


def test_C104_without_a_front_end(frame: int) -> None:
    with pytest.raises(BackChannelError, match="there is no front-end"):
        memory_of(Screen()).map(1, frame, offset=0, length=PAGE)


def test_each_device_has_a_memory_of_its_own() -> None:
    first, second = Screen(), Screen()
    assert first.shared_memory is not second.shared_memory
    assert first.shared_memory is not Screen.shared_memory
    assert first.shared_objects is not second.shared_objects


@pytest.mark.parametrize("sizes", [{256: PAGE}, {-1: PAGE}, {0: 0}, {0: 100}, {0: -PAGE}, {0: 1 << 64}])
def test_C105_regions_that_cannot_be(sizes: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="shared memory region"):
        SharedMemory(sizes)


def test_a_declaration_of_another_kind() -> None:
    with pytest.raises(TypeError, match="shared_memory = SharedMemory"):

        class _Wrong(Echo):
            shared_memory = {0: PAGE}  # type: ignore[assignment]  # noqa: RUF012

    with pytest.raises(TypeError, match=r"shared_objects = SharedObjects\(\)"):

        class _AlsoWrong(Echo, shared_objects=True):
            pass


def test_C024_nothing_of_it_is_offered_by_others(stage: Stage) -> None:
    protocol_features = Echo().protocol_features()
    assert not protocol_features & (ProtocolFeature.SHMEM | ProtocolFeature.SHARED_OBJECT)
    wanted = ProtocolFeature.SHMEM | ProtocolFeature.SHARED_OBJECT | ProtocolFeature.BACKEND_SEND_FD
    assert Screen().protocol_features() & wanted == wanted
    del stage
