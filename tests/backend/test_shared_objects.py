"""Shared objects of a ``Device``: C032, C076, C097, C100, C102, C103, H56."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.descriptors import open_fds
from tests.support.front_end import until
from tests.support.vmm import BeginVmm, Screen, VmmHandler
from vhost_user import RequestRefused, SharedObjects, VhostUserDaemon
from vhost_user.spec.requests import FrontendRequest as Ask

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def objects_of(device: Screen) -> SharedObjects:
    assert device.shared_objects is not None
    return device.shared_objects


def test_C097_C100_C103_objects_go_both_ways(stage: Stage, begin_vmm: BeginVmm, frame: int) -> None:
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()
    objects = objects_of(device)
    identifier = objects.add(frame)
    assert vmm.handler.shared_objects == {identifier}
    assert identifier in objects
    fd = vmm.object(identifier)
    assert fd is not None
    assert os.path.sameopenfile(fd, frame)
    os.close(fd)
    assert vmm.object(uuid.uuid4()) is None
    objects.remove(identifier)
    assert vmm.handler.shared_objects == set()
    assert vmm.object(identifier) is None
    with pytest.raises(ValueError, match="is not shared here"):
        objects.remove(identifier)
    # One of another device.
    theirs = uuid.uuid4()
    with pytest.raises(RequestRefused):
        objects.lookup(theirs)
    vmm.handler.shared_object_lookups[theirs] = lambda: os.dup(frame)
    fd = objects.lookup(theirs)
    assert os.path.sameopenfile(fd, frame)
    os.close(fd)


def test_C076_what_was_shared_while_the_rings_stood_is_told_when_one_runs(
    stage: Stage, begin_vmm: BeginVmm, frame: int
) -> None:
    device = Screen()
    objects = objects_of(device)
    first = objects.add(frame)
    vmm = begin_vmm(stage.daemon(device))
    second = objects.add(frame)
    third = objects.add(frame)
    objects.remove(third)
    assert vmm.channel.counts == {}
    vmm.run()
    until(lambda: vmm.handler.shared_objects == {first, second})
    assert vmm.channel.counts == {"SHARED_OBJECT_ADD": 2}
    vmm.front.stop_ring()
    objects.remove(first)
    assert vmm.handler.shared_objects == {first, second}
    vmm.front.configure_ring(base=0)
    vmm.front.kick()
    until(lambda: vmm.handler.shared_objects == {second})


def test_C032_the_next_front_end_is_told_too(stage: Stage, begin_vmm: BeginVmm, frame: int) -> None:
    device = Screen()
    daemon = stage.daemon(device)
    objects = objects_of(device)
    identifiers: set[uuid.UUID] = set()
    for number in range(3):
        vmm = begin_vmm(daemon)
        vmm.run()
        until(lambda vmm=vmm, known=set(identifiers): vmm.handler.shared_objects == known)  # type: ignore[misc]
        identifiers.add(objects.add(frame, uuid.UUID(int=number + 1)))
        assert vmm.handler.shared_objects == identifiers
        vmm.front.close()
        assert daemon.wait(20)


def test_C102_an_object_shared_by_what_is_called_in_the_control_thread(
    stage: Stage, begin_vmm: BeginVmm, frame: int
) -> None:
    class Early(Screen):
        def started(self) -> None:
            assert self.shared_objects is not None
            self.shared_objects.add(frame, uuid.UUID(int=5))

    vmm = begin_vmm(stage.daemon(Early()))
    vmm.run()
    until(lambda: vmm.handler.shared_objects == {uuid.UUID(int=5)})


def test_C103_an_object_that_the_front_end_refuses_is_not_shared(
    stage: Stage, begin_vmm: BeginVmm, frame: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()

    def refuse(_self: object, _identifier: uuid.UUID) -> None:
        raise RequestRefused("not here", rule="C103")

    monkeypatch.setattr(VmmHandler, "shared_object_add", refuse)
    before = open_fds()
    with pytest.raises(RequestRefused):
        objects_of(device).add(frame, uuid.UUID(int=5))
    assert uuid.UUID(int=5) not in objects_of(device)
    assert open_fds() == before
    monkeypatch.undo()
    objects_of(device).add(frame, uuid.UUID(int=5))
    with pytest.raises(ValueError, match="is shared already"):
        objects_of(device).add(frame, uuid.UUID(int=5))


def test_descriptors_of_objects_are_closed_with_the_device(frame: int) -> None:
    before = open_fds()
    device = Screen()
    with VhostUserDaemon("test", device):
        for _ in range(10):
            objects_of(device).add(frame)
        assert len(objects_of(device)) == 10
    assert open_fds() == before


def test_H56_a_front_end_that_forgets_the_uuid(stage: Stage, begin_vmm: BeginVmm, frame: int) -> None:
    """QEMU up to 11.1 sends GET_SHARED_OBJECT without it."""
    device = Screen()
    vmm = begin_vmm(stage.daemon(device))
    vmm.run()
    objects_of(device).add(frame)
    front = vmm.front
    from vhost_user.protocol.framing import Message, encode

    front.connection.send(Message(encode(Ask.GET_SHARED_OBJECT, 1, b""), ()))
    header = front.connection._socket.recv(12)
    assert header == encode(Ask.GET_SHARED_OBJECT, 5, b"")
    assert front.request(readable=b"abc", writable=3) == b"cba"
