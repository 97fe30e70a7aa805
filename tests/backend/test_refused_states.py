"""States that a device does not save and does not take: C122, C125, C127, H38, H110."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.front_end import REQUEST as ASK
from tests.support.state_transfers import (
    LOAD,
    SAVE,
    Channel,
    Counter,
    alive,
    begin,
    load,
    negotiated,
    save,
    write_all,
)
from vhost_user import Device
from vhost_user.backend import state_transfer
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.state_format import HEADER, LARGEST_STATE, MAGIC, encode_state
from vhost_user.spec.structs import TransferState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def own(device: object, **framework: object) -> bytes:
    return encode_state("Counter", 2, {"framework": framework, "device": device})


GOOD = {"count": 7, "store": b""}
WHOLE = own(GOOD)
BAD_STATES = {
    "nothing": b"",
    "truncated": WHOLE[:-1],
    "header alone": WHOLE[: HEADER.size],
    "foreign": b"QEVM" + WHOLE,
    "another device": encode_state("Dice", 1, {"framework": {}, "device": 1}),
    "newer": encode_state("Counter", 3, {"framework": {}, "device": 1}),
    "no parts": encode_state("Counter", 2, [1, 2]),
    "nothing of its own": encode_state("Counter", 2, {"framework": {}}),
    "wrong types": own({"count": "7", "store": b""}),
    "half of it": own({"count": 7}),
    "odd configuration": own(GOOD, config=[[0, 5]]),
    "odd backlog": own(GOOD, backlogs=[[1, [5]]]),
    "odd backlogs": own(GOOD, backlogs=7),
}


@pytest.mark.parametrize("kind", BAD_STATES)
def test_C127_a_bad_state_is_refused_in_words_and_the_device_lives(
    stage: Stage, pipe: Channel, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    device = Counter()
    _, front = stage.serve(device)
    front.negotiate()
    state = save(front, pipe())
    with pytest.raises(RequestRefused):
        load(front, pipe(), BAD_STATES[kind])
    assert any("C127" in record.message for record in caplog.records), caplog.text
    front.share_memory()
    front.start_ring()
    assert front.request(writable=8)
    front.stop_ring()
    load(front, pipe(), state)
    assert device.count == 0


def test_C127_a_state_without_an_end_is_given_up_at_a_limit(
    stage: Stage, pipe: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_transfer, "LARGEST_STATE", 1 << 20)
    front = negotiated(stage, Counter())
    pipes = pipe()
    begin(front, LOAD, pipes.reading)
    pipes.close(pipes.reading)
    with pytest.raises(BrokenPipeError):
        write_all(pipes, bytes(4 << 20))
    with pytest.raises(RequestRefused):
        front.call(ASK.CHECK_DEVICE_STATE)
    alive(front)


def test_C127_a_header_that_promises_much_allocates_nothing(stage: Stage, pipe: Channel) -> None:
    front = negotiated(stage, Counter())
    with pytest.raises(RequestRefused):
        load(front, pipe(), HEADER.pack(MAGIC, 1, 7, 2, LARGEST_STATE) + b"Counter")
    alive(front)


def test_C125_a_device_that_cannot_save_refuses_the_transfer(
    stage: Stage, pipe: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    class Unwell(Counter):
        answer: object = None

        def save_state(self) -> object:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    device = Unwell()
    front = negotiated(stage, device)
    pipes = pipe()
    for answer in (RuntimeError("the key is lost"), {1: 2}, {"a": {3}}):
        device.answer = answer
        with pytest.raises(RequestRefused):
            front.call(ASK.SET_DEVICE_STATE_FD, TransferState(SAVE), [pipes.writing])
    assert "the key is lost" in caplog.text
    assert "the state['device']['a'] is a set" in caplog.text
    alive(front)


def test_declarations_of_the_state_are_looked_at() -> None:
    with pytest.raises(TypeError, match="state_version"):
        type("Wrong", (Device,), {}, state_version="1")
    with pytest.raises(ValueError, match="state_version"):
        type("Wrong", (Device,), {}, state_version=-1)
    with pytest.raises(TypeError, match="state_name"):
        type("Wrong", (Device,), {}, state_name=7)


def test_a_coroutine_saves_nothing(stage: Stage) -> None:
    class Async(Counter):
        async def save_state(self) -> object:
            return None

    with pytest.raises(TypeError, match="save_state is an async function"):
        stage.daemon(Async())
