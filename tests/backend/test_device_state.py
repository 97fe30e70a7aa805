"""save_state and load_state over SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE: C122, C124 to C126."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.front_end import REQUEST as ASK
from tests.support.front_end import until
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
from vhost_user.backend import device_requests
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.structs import TransferState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


@pytest.mark.parametrize("size", [0, 100, 5 << 20], ids=["empty", "small", "5 MiB"])
def test_C124_what_one_device_saves_another_loads(stage: Stage, channel: Channel, size: int) -> None:
    one, other = Counter(), Counter()
    one.count, one.store = 7, os.urandom(size)
    state = save(negotiated(stage, one), channel())
    load(negotiated(stage, other), channel(), state)
    assert (other.count, other.store, other.versions) == (7, one.store, [2])
    assert (one.count, one.resets) == (7, 0)


def test_C126_the_source_goes_on_after_it_was_saved(stage: Stage, pipe: Channel) -> None:
    device = Counter()
    _, front = stage.serve(device)
    front.bring_up()
    assert front.request(writable=8) == (1).to_bytes(8, "little")
    base = front.stop_ring()
    save(front, pipe())
    front.start_ring(base=base)
    assert front.request(writable=8) == (2).to_bytes(8, "little")
    assert device.resets == 0


def test_C126_the_destination_goes_on_where_the_source_was(stage: Stage, pipe: Channel) -> None:
    source = Counter()
    _, front = stage.serve(source)
    front.bring_up()
    front.request(writable=8)
    front.stop_ring()
    state = save(front, pipe())
    _, front = stage.serve(Counter())
    front.negotiate()
    load(front, pipe(), state)
    front.share_memory()
    front.start_ring()
    assert front.request(writable=8) == (2).to_bytes(8, "little")


def test_the_framework_carries_configuration_and_backlogs_along(stage: Stage, pipe: Channel) -> None:
    one, other = Counter(), Counter()
    written: list[tuple[Any, ...]] = []
    other.config_written = lambda *change: written.append(change)  # type: ignore[method-assign]
    one.config.lines, one.config.interval = 8, 50
    front = negotiated(stage, one)
    one.events.post(b"first")
    one.events.post(b"second")
    state = save(front, pipe())
    load(negotiated(stage, other), pipe(), state)
    assert (other.config.lines, other.config.interval) == (8, 50)
    assert sorted(written) == [("interval", 1000, 50), ("lines", 4, 8)]
    assert other.events.saved_backlog() == [b"first", b"second"]


def test_C122_a_state_is_offered_by_devices_that_have_one() -> None:
    class Half(Device):
        def save_state(self) -> object:
            return None

    bit = int(ProtocolFeature.DEVICE_STATE)
    assert Counter().protocol_features() & bit
    assert not Device().protocol_features() & bit
    assert not Half().protocol_features() & bit


def test_C124_a_slow_reader_holds_nobody_up(stage: Stage, channel: Channel) -> None:
    device = Counter()
    device.store = bytes(range(256)) * (16 << 10)
    front = negotiated(stage, device)
    pipes = channel()
    begin(front, SAVE, pipes.writing)
    pipes.close(pipes.writing)
    alive(front)  # the pipe is full by now, or will be
    read = bytearray()
    while piece := os.read(pipes.reading, 100_000):
        read += piece
        alive(front)
    assert device.store in read
    front.call(ASK.CHECK_DEVICE_STATE)


def test_C124_a_reader_that_clears_O_NONBLOCK_holds_nobody_up(stage: Stage, channel: Channel) -> None:
    device = Counter()
    device.store = bytes(4 << 20)
    daemon, front = stage.serve(device)
    front.negotiate()
    pipes = channel()
    os.set_blocking(pipes.writing, True)
    begin(front, SAVE, pipes.writing)
    os.set_blocking(pipes.writing, True)
    alive(front)
    front.close()
    assert daemon.wait(10)  # its thread is over as well, or the fixture finds it


def test_C125_a_reader_that_goes_away_is_told_of_it(stage: Stage, channel: Channel) -> None:
    device = Counter()
    device.store = bytes(4 << 20)
    front = negotiated(stage, device)
    pipes = channel()
    begin(front, SAVE, pipes.writing)
    pipes.close()
    with pytest.raises(RequestRefused):
        front.call(ASK.CHECK_DEVICE_STATE)
    alive(front)


def test_C125_asking_before_the_end_waits_no_longer_than_it_says(
    stage: Stage, pipe: Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_requests, "TRANSFER_PATIENCE", 0.1)
    device = Counter()
    device.store = bytes(4 << 20)
    front = negotiated(stage, device)
    for direction in (SAVE, LOAD):
        pipes = pipe()
        begin(front, direction, pipes.writing if direction == SAVE else pipes.reading)
        with pytest.raises(RequestRefused):
            front.call(ASK.CHECK_DEVICE_STATE)
        alive(front)
    assert "the transfer is not at its end" in caplog.text
    assert device.versions == []


def test_C125_the_end_is_told_once(stage: Stage, pipe: Channel) -> None:
    front = negotiated(stage, Counter())
    with pytest.raises(RequestRefused):
        front.call(ASK.CHECK_DEVICE_STATE)
    save(front, pipe())
    with pytest.raises(RequestRefused):
        front.call(ASK.CHECK_DEVICE_STATE)


def test_C124_another_transfer_takes_the_place_of_an_unfinished_one(stage: Stage, pipe: Channel) -> None:
    device = Counter()
    device.store = bytes(4 << 20)
    front = negotiated(stage, device)
    stuck, never_written = pipe(), pipe()
    begin(front, SAVE, stuck.writing)
    begin(front, LOAD, never_written.reading)
    assert len(save(front, pipe())) > len(device.store)


def test_C124_the_session_ends_an_unfinished_transfer(stage: Stage, channel: Channel) -> None:
    device = Counter()
    device.store = bytes(4 << 20)
    daemon = stage.daemon(device)
    for direction in (SAVE, LOAD):
        front = stage.connect(daemon)
        front.negotiate()
        pipes = channel()
        begin(front, direction, pipes.writing if direction == SAVE else pipes.reading)
        pipes.close(pipes.writing if direction == SAVE else pipes.reading)
        front.close()
        assert daemon.wait(10)


def test_C124_what_is_neither_pipe_nor_socket_is_refused(stage: Stage) -> None:
    front = negotiated(stage, Counter())
    file = os.memfd_create("state")
    for fd in (file, os.open("/dev/null", os.O_RDWR), os.eventfd(0)):
        for direction in (SAVE, LOAD):
            with pytest.raises(RequestRefused):
                front.call(ASK.SET_DEVICE_STATE_FD, TransferState(direction), [fd])
        os.close(fd)
    alive(front)


def test_C124_the_wrong_end_of_a_pipe_fails_in_words(
    stage: Stage, pipe: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    front = negotiated(stage, Counter())
    for direction in (SAVE, LOAD):
        pipes = pipe()
        begin(front, direction, pipes.reading if direction == SAVE else pipes.writing)
        pipes.close()
        with pytest.raises(RequestRefused):
            front.call(ASK.CHECK_DEVICE_STATE)
        alive(front)
    assert "the transfer broke off" in caplog.text


def test_C122_rings_that_start_before_the_state_is_loaded_keep_it_out(stage: Stage, pipe: Channel) -> None:
    device = Counter()
    _, front = stage.serve(device)
    front.negotiate()
    state = save(front, pipe())
    pipes = pipe()
    begin(front, LOAD, pipes.reading)
    write_all(pipes, state)
    front.share_memory()
    front.start_ring()
    with pytest.raises(RequestRefused):
        front.call(ASK.CHECK_DEVICE_STATE)
    assert device.versions == []
    until(lambda: front.request(writable=8))
