"""The CAN device, driven in this process; C053, C054, C075, C124, C125, C129, C130, C134."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import can
import pytest

from tests.support.front_end import FrontEnd, until
from vhost_user.devices import Can, CanBus, CanFrame, ModelBus
from vhost_user.devices import library as library_module
from vhost_user.devices.can_bus import BusOffError, PythonCanBus
from vhost_user.frontend import CanDriver, DeviceError, PeerTimeout, RequestRefused, VirtioDriver
from vhost_user.protocol.listener import connect
from vhost_user.spec.can import CanControl, CanFeature, CanFlag, CanHeader, CanMessage, CanStatus
from vhost_user.testing.guest_backend import BackendProcess
from vhost_user.testing.virtio import Virtio

COMMAND = Path(sys.executable).parent / "vhost-user"
PROMPT = 0.5
"""Seconds in which a stop is to be answered although the bus takes nothing."""
FRAMES: list[tuple[int, bytes, dict[str, Any]]] = [
    (0, b"", {}),
    (0x7FF, b"12345678", {}),
    (0x123, b"abc", {"extended": True}),
    (0x1FFF_FFFF, b"x", {"extended": True}),
    (0x321, bytes(range(64)), {"fd": True}),
    (0x1ABC_DEF0, bytes(12), {"fd": True, "extended": True}),
    (0x100, b"", {"rtr": True, "length": 5}),
    (0x18DA_00F1, b"", {"rtr": True, "length": 0, "extended": True}),
]


class SlowBus(CanBus):
    """Keeps what it was sent; while it is closed to frames, it takes none."""

    def __init__(self) -> None:
        self.sent: list[CanFrame] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.busy = False
        self.frames = ModelBus()
        self.error: Exception | None = None

    def send(self, frame: CanFrame) -> None:
        self.asked.set()
        if self.error is not None:
            raise self.error
        self.busy = True
        taken = self.open.wait(0.05)
        self.busy = False
        if not taken:
            raise OSError("full")
        self.sent.append(frame)

    def recv(self, timeout: float) -> CanFrame | None:
        return self.frames.recv(timeout)

    def close(self) -> None:
        pass


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., CanDriver]:
    """Serve a controller, and bring a driver up on it."""

    def up(device: Can, **options: Any) -> CanDriver:
        return virtio.attach(device, packed=packed).drive(CanDriver, **options)

    return up


@pytest.fixture
def name() -> str:
    """Of a virtual bus that nobody else has."""
    return uuid.uuid4().hex


@pytest.fixture
def peer(name: str) -> Iterator[can.BusABC]:
    with can.Bus(name, interface="virtual") as bus:
        yield bus


def kinds(frame: Any) -> tuple[bool, bool, bool]:
    return (frame.extended, frame.fd, frame.rtr)


def resume(driver: VirtioDriver, queue: int) -> None:
    driver.start_queue(queue)
    driver.frontend.set_vring_enable(queue, True)


@pytest.mark.parametrize("sent", FRAMES)
def test_frames_of_every_kind_to_the_bus_and_from_it(
    drive: Callable[..., CanDriver], name: str, peer: can.BusABC, sent: tuple[int, bytes, dict[str, Any]]
) -> None:
    can_id, data, kind = sent
    driver = drive(Can(f"virtual:{name}"))
    driver.send(can_id, data, **kind)
    seen = peer.recv(10)
    assert seen is not None
    assert (seen.arbitration_id, bytes(seen.data)) == (can_id, data)
    assert (seen.is_extended_id, seen.is_fd, seen.is_remote_frame) == (
        kind.get("extended", False), kind.get("fd", False), kind.get("rtr", False),
    )  # fmt: skip
    assert seen.dlc == kind.get("length", len(data))
    peer.send(seen)
    frame = driver.receive()
    assert frame.can_id == can_id
    assert frame.data == (bytes(kind["length"]) if "length" in kind else data)
    assert kinds(frame) == (seen.is_extended_id, seen.is_fd, seen.is_remote_frame)


def test_a_length_that_CAN_FD_does_not_have_is_filled_up(
    drive: Callable[..., CanDriver], name: str, peer: can.BusABC
) -> None:
    drive(Can(f"virtual:{name}")).send(1, b"123456789", fd=True)
    seen = peer.recv(10)
    assert seen is not None
    assert bytes(seen.data) == b"123456789\0\0\0"


def test_two_drivers_on_one_bus_hear_each_other_and_not_themselves(
    drive: Callable[..., CanDriver], name: str
) -> None:
    first, second = (drive(Can(f"virtual:{name}")) for _ in range(2))
    for number in range(200):  # more than there are buffers
        first.send(number, b"from one")
        second.send(number, b"from two", fd=True)
    for number in range(200):
        assert (first.receive().data, second.receive().can_id) == (b"from two", number)
    with pytest.raises(PeerTimeout):
        first.receive(timeout=0.05)


def test_two_programs_on_one_multicast_bus(virtio: Virtio) -> None:
    port = 10000 + int(uuid.uuid4()) % 50000
    words = f"udp_multicast:239.74.163.{port % 250},port={port},hop_limit=0"
    drivers = []
    for _ in range(2):
        command: list[str | Path] = [COMMAND, "serve", "can", "--socket-path={socket}", f"--bus={words}"]
        drivers.append(virtio.start(command, num_queues=3).drive(CanDriver))
    drivers[0].send(0x42, b"across", extended=True)
    frame = drivers[1].receive()
    assert (frame.can_id, frame.data, frame.extended) == (0x42, b"across", True)


def test_a_model_answers_and_speaks_by_itself(drive: Callable[..., CanDriver]) -> None:
    def ecu(frame: CanFrame) -> CanFrame | None:
        return CanFrame(0x7E8, b"\x04\x41\x0c\x1a\xf8") if frame.can_id == 0x7DF else None

    device = Can(ecu)
    driver = drive(device)
    driver.send(0x100, b"other")
    driver.send(0x7DF, b"\x02\x01\x0c")
    frame = driver.receive()
    assert (frame.can_id, frame.data) == (0x7E8, b"\x04\x41\x0c\x1a\xf8")
    device.bus.say(CanFrame(0x10, b"tick"))  # type: ignore[attr-defined]
    assert driver.receive().data == b"tick"


def test_a_model_that_fails_refuses_the_frame(
    drive: Callable[..., CanDriver], caplog: pytest.LogCaptureFixture
) -> None:
    def ecu(_frame: CanFrame) -> None:
        raise RuntimeError("the engine has stalled")

    driver = drive(Can(ecu))
    with pytest.raises(DeviceError, match="0x1: the device answers 01"):
        driver.send(1)
    assert "the engine has stalled" in caplog.text


@pytest.mark.parametrize(
    "frame",
    [
        CanHeader(CanMessage.TRANSMIT, 9).pack() + bytes(9),
        CanHeader(CanMessage.TRANSMIT, 65, flags=CanFlag.FD).pack() + bytes(65),
        CanHeader(CanMessage.TRANSMIT, 8).pack() + bytes(7),
        CanHeader(CanMessage.TRANSMIT, 0, can_id=0x800).pack(),
        CanHeader(CanMessage.TRANSMIT, 0, flags=CanFlag.EXTENDED, can_id=0x2000_0000).pack(),
        CanHeader(CanMessage.TRANSMIT, 0, flags=CanFlag.FD | CanFlag.RTR).pack(),
        CanHeader(CanMessage.TRANSMIT, 9, flags=CanFlag.RTR).pack(),
        CanHeader(CanMessage.TRANSMIT, 0, flags=1).pack(),
        CanHeader(CanMessage.TRANSMIT, 0, flags=1 << 31).pack(),
        CanHeader(CanMessage.RECEIVE, 0).pack(),
        CanHeader(CanMessage.TRANSMIT, 0).pack()[:15],
        b"",
    ],
    ids=lambda data: data.hex()[:32] or "empty",
)
def test_frames_that_cannot_be_are_refused_and_not_sent(
    drive: Callable[..., CanDriver], frame: bytes
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    assert driver.queue(0).request(frame, 1) == b"\1"
    driver.send(1)
    assert [each.can_id for each in bus.sent] == [1]


@pytest.mark.parametrize(
    ("features", "refused", "accepted"),
    [
        (CanFeature.CLASSIC, [{"fd": True}, {"rtr": True}], [{}]),
        (CanFeature.FD, [{}, {"rtr": True}], [{"fd": True}]),
        (CanFeature.CLASSIC | CanFeature.RTR_FRAMES, [{"fd": True}], [{}, {"rtr": True}]),
    ],
    ids=["classic", "fd", "rtr"],
)
def test_what_was_not_negotiated_is_refused_both_ways(
    drive: Callable[..., CanDriver],
    features: CanFeature,
    refused: list[dict[str, Any]],
    accepted: list[dict[str, Any]],
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus), features=features)
    for kind in refused:
        with pytest.raises(DeviceError):
            driver.send(1, **kind)
        bus.frames.say(CanFrame(1, **kind))
    for kind in accepted:
        driver.send(2, **kind)
        bus.frames.say(CanFrame(2, **kind))
        assert driver.receive().can_id == 2
    assert len(bus.sent) == len(accepted)


def test_without_fd_it_is_not_offered() -> None:
    device = Can(fd=False)
    assert not device.features() & CanFeature.FD
    assert Can().features() & CanFeature.FD


def test_a_stopped_controller_sends_and_hears_nothing(drive: Callable[..., CanDriver]) -> None:
    bus = SlowBus()
    driver = drive(Can(bus), start=False)
    bus.frames.say(CanFrame(1))
    for _ in range(2):
        with pytest.raises(DeviceError, match="0x2: the device answers 01"):
            driver.send(2)
        with pytest.raises(PeerTimeout):
            driver.receive(timeout=0.2)
        driver.start()
        driver.send(3)
        bus.frames.say(CanFrame(4))
        assert driver.receive().can_id == 4
        driver.stop()
        bus.frames.say(CanFrame(1))
    assert [frame.can_id for frame in bus.sent] == [3, 3]


def test_a_stop_refuses_the_frames_that_wait(drive: Callable[..., CanDriver]) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    bus.open.clear()
    pending = [driver.submit(number) for number in range(20)]
    assert bus.asked.wait(10)
    driver.stop()
    assert not bus.busy  # not before the frame in hand is done with
    for one in pending:
        assert one.wait(10) == b"\1"
        one.release()
    assert not bus.sent
    bus.open.set()
    driver.start()
    driver.send(7)
    assert [frame.can_id for frame in bus.sent] == [7]


def test_control_messages_that_there_are_not_are_refused(drive: Callable[..., CanDriver]) -> None:
    driver = drive(Can())
    for message in (b"", b"\1", CanControl(0).pack(), CanControl(0x0203).pack(), CanControl(0x0101).pack()):
        assert driver.queue(2).request(message, 1) == b"\1"
    driver.send(1)  # it is still started


@pytest.mark.parametrize("how", ["called", "sent", "received"])
def test_C130_off_the_bus_the_driver_is_told_and_starts_again(
    drive: Callable[..., CanDriver], how: str
) -> None:
    bus = SlowBus()
    device = Can(bus)
    driver = drive(device)
    assert driver.status() == 0
    if how == "called":
        device.bus_off()
    elif how == "sent":
        bus.error = BusOffError()
        with pytest.raises(DeviceError):
            driver.send(1)
        bus.error = None
    else:
        bus.frames.say(CanFrame(1))
        driver.receive()
        bus.frames.recv = _raise_once(bus.frames.recv, BusOffError())  # type: ignore[method-assign]
    until(lambda: driver.config_changes, "the change")
    assert driver.status() == CanStatus.BUS_OFF
    with pytest.raises(DeviceError):
        driver.send(2)
    driver.start()
    assert driver.status() == 0
    driver.send(3)
    device.bus_off()
    driver.frontend.reset_device(need_reply=True)
    assert device.config.status == 0


def _raise_once(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    errors = [error]

    def call(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*arguments)

    return call


def test_error_frames_are_for_the_controller_and_not_for_the_guest(
    drive: Callable[..., CanDriver], name: str, peer: can.BusABC
) -> None:
    driver = drive(Can(f"virtual:{name}"))
    peer.send(can.Message(arbitration_id=0x04, is_error_frame=True, is_extended_id=False))
    peer.send(can.Message(arbitration_id=1, is_extended_id=False))
    assert driver.receive().can_id == 1
    assert driver.status() == 0
    peer.send(can.Message(arbitration_id=0x40, is_error_frame=True, is_extended_id=False))
    until(lambda: driver.status() == CanStatus.BUS_OFF, "off the bus")


def test_a_bus_that_fails_and_comes_back(
    virtio: Virtio, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr("vhost_user.devices.can.RETRY", 0.01)
    bus = SlowBus()
    driver = virtio.attach(Can(bus), packed=packed).drive(CanDriver)
    bus.frames.recv = _raise_once(bus.frames.recv, OSError("the cable"))  # type: ignore[method-assign]
    until(lambda: virtio.errors, "the failure")
    assert "receives nothing: the cable" in virtio.errors.pop()
    bus.frames.say(CanFrame(9))
    assert driver.receive().can_id == 9


def test_a_guest_that_does_not_read_loses_the_latest_frames_and_nothing_grows(
    drive: Callable[..., CanDriver],
) -> None:
    bus = SlowBus()
    device = Can(bus)
    driver = drive(device)
    total = 1024 + 64 + 100
    for number in range(total):
        while not bus.frames.say(CanFrame(number % 0x800, number.to_bytes(4, "big"))):
            time.sleep(0.001)
    until(lambda: device.to_guest.dropped == 100, "the loss")
    numbers = [int.from_bytes(driver.receive().data, "big") for _ in range(total - 100)]
    assert numbers == list(range(total - 100))
    bus.frames.say(CanFrame(5))
    assert driver.receive().can_id == 5


@pytest.mark.parametrize("queue", [0, 2], ids=["frames", "control"])
def test_C054_a_stop_while_the_bus_takes_nothing_is_answered_and_frames_come_again(
    drive: Callable[..., CanDriver], queue: int
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    answers = []
    for round_ in range(3):
        bus.open.clear()
        bus.asked.clear()
        pending = [driver.submit(number) for number in range(10)]
        assert bus.asked.wait(10)
        before = time.monotonic()
        driver.stop_queue(queue)
        assert time.monotonic() - before < PROMPT
        bus.open.set()
        resume(driver, queue)
        for one in pending:
            answers.append(one.wait(10))
            one.release()
        # The one that was in hand may have been refused by the bus, each other is sent once and in order.
        sent = [frame.can_id for frame in bus.sent]
        assert sent == [number for number, answer in enumerate(answers[round_ * 10 :]) if answer == b"\0"]
        bus.sent.clear()
    assert answers.count(b"\0") > 20


def test_C053_frames_that_came_while_the_queue_was_stopped_are_there_after_the_restart(
    drive: Callable[..., CanDriver],
) -> None:
    bus = SlowBus()
    driver = drive(Can(bus))
    driver.stop_queue(1)
    for number in range(10):
        bus.frames.say(CanFrame(number))
    resume(driver, 1)
    assert [driver.receive().can_id for _ in range(10)] == list(range(10))


def test_C075_C134_after_a_reset_and_a_new_driver_the_controller_is_stopped(
    virtio: Virtio, packed: bool
) -> None:
    bus = SlowBus()
    attached = virtio.attach(Can(bus), packed=packed)
    for reset in (True, False, True):
        driver = attached.drive(CanDriver, start=False)
        with pytest.raises(DeviceError):
            driver.send(1)
        driver.start()
        driver.send(2)
        if reset:
            driver.frontend.reset_device(need_reply=True)
        attached.disconnect()
    assert [frame.can_id for frame in bus.sent] == [2, 2, 2]


@pytest.mark.parametrize("started", [True, False])
def test_C124_the_state_goes_along(virtio: Virtio, started: bool) -> None:
    source, target = (virtio.attach(Can()) for _ in range(2))
    driver = source.drive(CanDriver, start=started)
    for queue in range(3):
        driver.stop_queue(queue)
    target.load_state(source.save_state())
    moved = target.drive(CanDriver, start=False)
    if started:
        moved.send(1)
    else:
        with pytest.raises(DeviceError):
            moved.send(1)


@pytest.mark.parametrize("state", [None, [], {}, {"started": 1, "status": 0}, {"started": True, "status": 2}])
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="of a CAN device"):
        Can().load_state(state, 1)


def test_C134_a_program_that_was_killed_goes_on_with_its_controller_started(tmp_path: Path) -> None:
    path = tmp_path / "s"
    words = ["serve", "can", f"--socket-path={path}", "--bus=null"]
    program = BackendProcess([COMMAND, *words], path, tmp_path / "log", announcement="listening")
    front: FrontEnd | None = None
    frame = CanHeader(CanMessage.TRANSMIT, 0, can_id=1).pack()
    try:
        for life in range(3):
            program.start()
            before, front = front, FrontEnd(connect(path, timeout=10))
            if before is not None:
                front.memory.close()
                front.memory, front.rings = before.memory, before.rings
            front.negotiate()
            front.share_memory()
            for queue in range(3):
                front.start_ring(queue, base=front.rings[queue].used_index if life else 0)
            if not life:
                assert front.request(0, frame, 1) == b"\1"
                assert front.request(2, CanControl(CanMessage.START).pack(), 1) == b"\0"
            assert front.request(0, frame, 1) == b"\0"
            program.kill()
            front.connection.close()
    finally:
        program.kill()
        if front is not None:
            front.close()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Can("can0"), ValueError, "'can0' is not a CAN bus: write INTERFACE:CHANNEL"),
        (lambda: Can("virtual:x,=1"), ValueError, "is not a CAN bus"),
        (lambda: Can("carrier_pigeon:7"), ValueError, "python-can has no interface 'carrier_pigeon'"),
        (lambda: Can("socketcan:nosuchcan0"), OSError, "the CAN bus socketcan:nosuchcan0 cannot be opened"),
        (lambda: Can(7), TypeError, "7 is not a CAN bus"),
        (lambda: CanFrame(0x800), ValueError, "it must be 0 to 0x7ff"),
        (lambda: CanFrame(1, bytes(9)), ValueError, "there can be 8"),
        (lambda: CanFrame(1, b"x", rtr=True), ValueError, "a classic frame without data"),
        (lambda: CanFrame(1, b"x", length=2), ValueError, "both are equal"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    make: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_without_python_can_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "can", None)
    with pytest.raises(library_module.MissingLibraryError, match=r"pip install 'vhost-user\[can\]'"):
        Can("virtual:x")
    Can(lambda _frame: None)  # a model needs no library


@pytest.fixture
def bus(name: str) -> Iterator[can.BusABC]:
    """The test's own; asked for before `drive`, so that it outlives the device."""
    with can.Bus(name, interface="virtual") as bus:
        yield bus


def test_a_bus_that_was_open_is_left_open(
    bus: can.BusABC, drive: Callable[..., CanDriver], peer: can.BusABC
) -> None:
    device = Can(bus)
    drive(device).send(1)
    assert peer.recv(10) is not None
    device.bus.close()
    bus.send(can.Message())
    assert isinstance(device.bus, PythonCanBus)


def test_a_state_that_is_none_is_refused_by_the_program_too(virtio: Virtio) -> None:
    attached = virtio.attach(Can())
    with pytest.raises(RequestRefused):
        attached.load_state(b"nonsense")
    virtio.errors.clear()
