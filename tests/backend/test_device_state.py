"""save_state and load_state over SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE: C122 to C127, H38, H110."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.backend.conftest import Stage
from tests.support.front_end import REQUEST as ASK
from tests.support.front_end import FrontEnd, until
from vhost_user import U16, BufferQueue, Config, Device, Queue, Request
from vhost_user.backend import device_requests, state_transfer
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.state_format import HEADER, LARGEST_STATE, MAGIC, encode_state
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.structs import TransferState

SAVE, LOAD = 0, 1


class LinesConfig(Config):
    lines = U16(4)
    interval = U16(1000, writable=True)


class Counter(Device, type="gpio", queues=2):
    """Counts its requests, and keeps bytes that somebody gave it."""

    config = LinesConfig()
    requests = Queue(0)
    events = BufferQueue(1)
    state_version = 2

    def __init__(self) -> None:
        self.count = 0
        self.store = b""
        self.resets = 0
        self.versions: list[int] = []

    @requests.handler
    def request(self, request: Request) -> None:
        self.count += 1
        request.write(self.count.to_bytes(8, "little"))

    def reset(self) -> None:
        self.resets += 1

    def save_state(self) -> object:
        return {"count": self.count, "store": self.store}

    def load_state(self, state: Any, version: int) -> None:
        self.versions.append(version)
        self.count = state["count"] + 0
        if not isinstance(state["store"], bytes):
            raise TypeError("store is made of bytes")
        self.store = state["store"]


class Pipes:
    """Both ends of a pipe or a socket pair, in the roles of a transfer."""

    def __init__(self, stack: ExitStack, *, sockets: bool = False) -> None:
        if sockets:
            one, other = socket.socketpair()
            self.reading, self.writing = one.detach(), other.detach()
        else:
            self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}
        stack.callback(self.close)

    def close(self, *fds: int) -> None:
        for fd in fds or tuple(self._open):
            self._open.remove(fd)
            os.close(fd)


Channel = Callable[[], Pipes]


@pytest.fixture(params=["pipe", "socket"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    with ExitStack() as stack:
        yield lambda: Pipes(stack, sockets=request.param == "socket")


@pytest.fixture
def pipe() -> Iterator[Channel]:
    with ExitStack() as stack:
        yield lambda: Pipes(stack)


def begin(front: FrontEnd, direction: int, fd: int) -> None:
    assert front.call(ASK.SET_DEVICE_STATE_FD, TransferState(direction), [fd]).no_fd


def save(front: FrontEnd, pipes: Pipes) -> bytes:
    begin(front, SAVE, pipes.writing)
    pipes.close(pipes.writing)
    with os.fdopen(os.dup(pipes.reading), "rb") as file:
        state = file.read()
    front.call(ASK.CHECK_DEVICE_STATE)
    return state


def write_all(pipes: Pipes, data: bytes) -> None:
    with os.fdopen(os.dup(pipes.writing), "wb") as file:
        file.write(data)
    pipes.close(pipes.writing)


def load(front: FrontEnd, pipes: Pipes, state: bytes) -> None:
    begin(front, LOAD, pipes.reading)
    pipes.close(pipes.reading)
    writer = threading.Thread(target=write_all, args=(pipes, state))
    writer.start()
    writer.join(10)
    front.call(ASK.CHECK_DEVICE_STATE)


def alive(front: FrontEnd) -> None:
    assert front.call(ASK.GET_FEATURES).value


def negotiated(stage: Stage, device: Device) -> FrontEnd:
    _, front = stage.serve(device)
    front.negotiate()
    return front


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
