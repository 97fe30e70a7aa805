"""The frames of the CAN device and its buses, driven in this process; C129."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import can
import pytest

from tests.support.can_bus import SlowBus, raise_once
from tests.support.front_end import until
from tests.support.programs import COMMAND
from vhost_user.devices import Can, CanFrame
from vhost_user.devices import library as library_module
from vhost_user.devices.can_bus import PythonCanBus
from vhost_user.frontend import CanDriver, DeviceError, PeerTimeout
from vhost_user.spec.can import CanFeature, CanFlag, CanHeader, CanMessage, CanStatus
from vhost_user.testing.virtio import Virtio

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


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., CanDriver]:
    return lambda device, **options: virtio.attach(device, packed=packed).drive(CanDriver, **options)


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
    bus.frames.recv = raise_once(bus.frames.recv, OSError("the cable"))  # type: ignore[method-assign]
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
