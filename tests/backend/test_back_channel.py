"""The back channel: C076, C098 to C105, C130."""

from __future__ import annotations

import os
import select
import socket
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from vhost_user import BackChannel, BackChannelError, Device, Request, RequestRefused
from vhost_user.backend.backend import DEFAULT_PROTOCOL_FEATURES
from vhost_user.protocol.responder import ReceivedMessage as Message
from vhost_user.protocol.sessions import BackChannelResponder
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import U64, SharedUuid, ShmemMap, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd

IDENTIFIER = uuid.UUID(int=7)


class Sharing(Device):
    extra_protocol_features = (
        ProtocolFeature.SHARED_OBJECT | ProtocolFeature.SHMEM | ProtocolFeature.BACKEND_SEND_FD
    )
    config = b"12345678"

    def handle(self, request: Request) -> None:
        data = request.read()
        request.write(data[::-1][: request.writable])


class FarEnd:
    """The front-end's end of the back channel."""

    def __init__(self, front: FrontEnd) -> None:
        ours, theirs = socket.socketpair()
        try:
            front.call(Ask.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.connection = Connection(ours)
        self.session = BackChannelResponder(front.session.negotiation)

    def next(self, timeout: float = 10.0) -> Message:
        request = self.connection.receive(self.session, timeout=timeout)
        assert isinstance(request, Message)
        return request

    def answer(self, request: Message, **reply: object) -> None:
        self.connection.send(self.session.reply(request, **reply))  # type: ignore[arg-type]  # payload and fds

    def refuse(self, request: Message) -> None:
        self.connection.send(self.session.refuse(request, RequestRefused("no")))

    @property
    def silent(self) -> bool:
        return not select.select([self.connection], [], [], 0.05)[0]

    def close(self) -> None:
        self.session.close()
        self.connection.close()


def channel_of(device: Device) -> BackChannel:
    assert device.channel is not None
    return device.channel


def test_C130_config_change_is_sent_without_waiting(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    device.config_changed()
    request = far.next()
    assert (request.name, request.need_reply) == ("CONFIG_CHANGE_MSG", False)
    far.answer(request)
    far.close()


def test_C076_C130_nothing_is_sent_while_all_rings_are_stopped(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate()
    far = FarEnd(front)
    device.config_changed()
    device.config_changed()
    with pytest.raises(BackChannelError, match="C076"):
        channel_of(device).shared_object_add(IDENTIFIER)
    assert far.silent
    front.share_memory()
    front.start_ring()
    far.answer(far.next())
    assert far.silent, "two changes are one message"
    front.stop_ring()
    device.config_changed()
    assert far.silent
    front.kick()
    assert far.next().name == "CONFIG_CHANGE_MSG"
    far.close()


def test_C098_a_new_channel_replaces_the_old_one_and_what_was_kept_goes_there(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate()
    old = FarEnd(front)
    first = device.channel
    device.config_changed()
    new = FarEnd(front)
    assert first is not None
    assert first.closed
    assert old.connection._socket.recv(1) == b""
    front.share_memory()
    front.start_ring()
    assert new.next().name == "CONFIG_CHANGE_MSG"
    old.close()
    new.close()


def test_C098_without_backend_req_there_is_no_channel(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate(protocol_features=~int(ProtocolFeature.BACKEND_REQ))
    front.session.negotiation.acked_protocol_features |= ProtocolFeature.BACKEND_REQ
    with pytest.raises(RequestRefused):
        FarEnd(front)
    assert device.channel is None


def test_C098_something_else_than_a_socket_is_refused(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate()
    event = os.eventfd(0)
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_BACKEND_REQ_FD, fds=[event])
    os.close(event)
    assert device.channel is None


def test_C099_C104_a_file_is_mapped_and_unmapped(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    file = os.memfd_create("shared")
    os.ftruncate(file, 8192)

    def use() -> None:
        channel = channel_of(device)
        channel.shmem_map(1, file, fd_offset=0, shm_offset=4096, length=4096, writable=True)
        channel.shmem_unmap(1, shm_offset=4096, length=4096)

    user = threading.Thread(target=use)
    user.start()
    request = far.next()
    assert request.payload == ShmemMap(1, 0, 4096, 4096, 1)
    (fd,) = request.fds.take()
    assert os.fstat(fd).st_size == 8192
    os.close(fd)
    far.answer(request)
    request = far.next()
    assert (request.name, request.payload) == ("SHMEM_UNMAP", ShmemMap(1, 0, 4096, 4096, 0))
    far.answer(request)
    user.join(10)
    os.close(file)
    far.close()


def test_C100_lookup_brings_a_descriptor(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    found: list[int] = []
    user = threading.Thread(target=lambda: found.append(channel_of(device).shared_object_lookup(IDENTIFIER)))
    user.start()
    request = far.next()
    assert request.payload == SharedUuid.of(IDENTIFIER)
    file = os.memfd_create("object")
    far.answer(request, payload=U64(0), fds=[file])
    user.join(10)
    assert os.path.samestat(os.fstat(found[0]), os.fstat(file))
    os.close(found[0])
    os.close(file)
    far.close()


def test_C101_C103_a_refusal_reaches_the_caller_and_the_channel_stays(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    seen: list[BaseException] = []

    def use() -> None:
        try:
            channel_of(device).shared_object_remove(IDENTIFIER)
        except RequestRefused as refused:
            seen.append(refused)
        channel_of(device).shared_object_add(IDENTIFIER)

    user = threading.Thread(target=use)
    user.start()
    far.refuse(far.next())
    far.answer(far.next())
    user.join(10)
    assert len(seen) == 1
    far.close()


def test_C102_a_waiting_request_does_not_block_the_main_channel(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    user = threading.Thread(target=lambda: channel_of(device).config_change(wait=True))
    user.start()
    request = far.next()
    assert request.need_reply
    # The front-end asks on the main channel before it answers, as QEMU does.
    assert front.call(Ask.GET_VRING_BASE, VringState(0)).num == 0
    far.answer(request)
    user.join(10)
    assert not user.is_alive()
    far.close()


def test_C102_one_request_at_a_time_and_changes_meanwhile_are_sent_afterwards(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    users = [
        threading.Thread(target=lambda: channel_of(device).shared_object_add(IDENTIFIER)) for _ in range(2)
    ]
    for user in users:
        user.start()
    request = far.next()
    device.config_changed()
    assert far.silent
    far.answer(request)
    names = []
    for _ in range(2):
        request = far.next()
        names.append(request.name)
        far.answer(request)
    assert sorted(names) == ["CONFIG_CHANGE_MSG", "SHARED_OBJECT_ADD"]
    for user in users:
        user.join(10)
    far.close()


def test_C102_the_thread_that_answers_the_front_end_cannot_wait_for_it(stage: Stage) -> None:
    class Waiting(Sharing):
        def set_backend_req_fd(self, backend: BackChannel) -> None:
            super().set_backend_req_fd(backend)
            backend.shared_object_add(IDENTIFIER)

    device = Waiting()
    _, front = stage.serve(device)
    front.bring_up()
    with pytest.raises(RequestRefused):
        FarEnd(front)


def test_C024_a_feature_that_is_not_negotiated_is_not_used(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate(protocol_features=int(DEFAULT_PROTOCOL_FEATURES) & ~int(ProtocolFeature.CONFIG))
    front.share_memory()
    front.start_ring()
    far = FarEnd(front)
    with pytest.raises(RequestRefused, match="SHARED_OBJECT"):
        channel_of(device).shared_object_add(IDENTIFIER)
    device.config_changed()
    assert far.silent
    far.close()


@pytest.mark.parametrize("how", ["front-end", "stop"])
def test_C134_a_waiting_request_ends_with_the_connection(stage: Stage, how: str) -> None:
    device = Sharing()
    daemon, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    seen: list[BaseException] = []

    def use() -> None:
        try:
            channel_of(device).shared_object_add(IDENTIFIER)
        except BackChannelError as error:
            seen.append(error)

    user = threading.Thread(target=use)
    user.start()
    far.next()
    if how == "stop":
        daemon.stop()
    else:
        front.close()
    assert daemon.wait(10)
    user.join(10)
    assert len(seen) == 1
    far.close()


def test_H90_a_front_end_that_does_not_read_its_back_channel_blocks_nobody(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    channel = channel_of(device)
    for _ in range(100_000):
        device.config_changed()
        if channel.closed:
            break
    assert channel.closed
    assert front.request(readable=b"abc", writable=3) == b"cba"
    far.close()
