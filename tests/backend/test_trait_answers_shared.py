"""What a device answers when its objects, memory or state are asked for: C105, C122."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.support.notebook import Notebook
from vhost_user import RequestRefused
from vhost_user.backend.backend import DEFAULT_PROTOCOL_FEATURES
from vhost_user.protocol.errors import Disconnected
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import SharedUuid, TransferDirection, TransferPhase, TransferState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Sharing(Notebook):
    """Exports objects and moves its state."""

    def protocol_features(self) -> int:
        more = ProtocolFeature.SHARED_OBJECT | ProtocolFeature.DEVICE_STATE | ProtocolFeature.SHMEM
        return DEFAULT_PROTOCOL_FEATURES | more

    answer: Any = None

    def get_shared_object(self, _identifier: UUID) -> Any:
        return self.answer

    def get_shmem_config(self) -> Any:
        return self.answer

    def set_device_state_fd(self, direction: TransferDirection, phase: TransferPhase, fd: int) -> Any:
        self.calls.append(("state", (direction, phase)))
        os.close(fd)
        return self.answer


@pytest.mark.parametrize("answer", [True, "7", 1.5, 1 << 40, -1], ids=repr)
def test_a_file_descriptor_that_is_none_is_an_error_reply(
    stage: Stage, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    device = Sharing()
    device.answer = answer
    _, front = stage.serve(device)
    front.negotiate()
    with pytest.raises(RequestRefused):
        front.call(Ask.GET_SHARED_OBJECT, SharedUuid.of(UUID(int=1)))
    assert "Sharing.get_shared_object() returned" in caplog.text
    assert front.call(Ask.GET_QUEUE_NUM).value == 1
    os.fstat(1)  # True is not standard output


def test_an_object_that_has_a_descriptor_keeps_it(stage: Stage, tmp_path: Path) -> None:
    device = Sharing()
    with (tmp_path / "file").open("w") as file:
        device.answer = file
        _, front = stage.serve(device)
        front.negotiate()
        reply = front.connection.call(
            front.session, Ask.GET_SHARED_OBJECT, SharedUuid.of(UUID(int=1)), timeout=10
        )
        assert reply is not None
        with reply.fds:
            assert len(reply.fds) == 1
        front.call(Ask.GET_QUEUE_NUM)  # whatever the back-end closes, it has closed by now
        file.write("still open")


def test_C122_direction_and_phase_have_names(stage: Stage) -> None:
    device = Sharing()
    _, front = stage.serve(device)
    front.negotiate()
    with socket.socket() as state:
        for direction, phase in ((0, 0), (1, 0)):
            assert front.call(
                Ask.SET_DEVICE_STATE_FD, TransferState(direction, phase), [state.fileno()]
            ).no_fd
        for direction, phase in ((2, 0), (0, 1)):
            with pytest.raises(RequestRefused):
                front.call(Ask.SET_DEVICE_STATE_FD, TransferState(direction, phase), [state.fileno()])
    assert device.called("state") == [
        (TransferDirection.SAVE, TransferPhase.STOPPED),
        (TransferDirection.LOAD, TransferPhase.STOPPED),
    ]
    assert isinstance(device.called("state")[0][0], TransferDirection)


@pytest.mark.parametrize("answer", [None, [1], {"0": 1}, {0: "1"}, {256: 1}, {0: 1 << 64}, {-1: 1}], ids=repr)
def test_C105_shared_memory_regions_of_a_wrong_kind_end_the_session_in_words(
    stage: Stage, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    device = Sharing()
    device.answer = answer
    daemon, front = stage.serve(device)
    front.negotiate()
    with pytest.raises(Disconnected):  # its reply has no way to say that it failed (C097)
        front.call(Ask.GET_SHMEM_CONFIG)
    assert daemon.wait(10)
    assert "Sharing.get_shmem_config() returned" in caplog.text
    assert "Sharing.get_shmem_config() returned" in str(daemon.session_end_reason)
