"""Drivers of console, net, vsock, input, gpio, i2c and fs, against small devices and virtiofsd."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.programs import programs
from vhost_user import Device, Request, Vring
from vhost_user.frontend import (
    ConsoleDriver,
    DeviceError,
    FsDriver,
    GpioDriver,
    I2cDriver,
    InputDriver,
    NetDriver,
    PeerTimeout,
    VsockDriver,
)
from vhost_user.spec.console import ConsoleConfig, ConsoleControl, ConsoleEvent, ConsoleFeature
from vhost_user.spec.gpio import GpioConfig, GpioDirection, GpioFeature, GpioIrqType
from vhost_user.spec.i2c import I2cFeature
from vhost_user.spec.input import InputEvent, InputSelect
from vhost_user.spec.net import NetFeature, NetHeader
from vhost_user.spec.vsock import VsockHeader, VsockOperation, VsockShutdown

Serve = Callable[[Device], socket.socket]
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


class Paired(Device, type="console", queues=2):
    """Whatever comes on an odd queue can be answered on the even one before it."""

    def queue_event(self, vring: Vring) -> None:
        if vring.index % 2:
            vring.process(self.sent)

    def sent(self, request: Request) -> None:
        self.answer(request.queue - 1, request.read())

    def answer(self, queue: int, data: bytes) -> None:
        request = self.vring(queue).pop()
        assert request is not None
        request.write(data)
        request.complete()


def test_console_reads_what_comes_back(serve: Serve) -> None:
    device = Paired()
    device.device_features = ConsoleFeature.SIZE
    device.config = ConsoleConfig(80, 25).pack()
    with ConsoleDriver(serve(device)) as console:
        assert (console.config.cols, console.config.rows) == (80, 25)
        console.write(b"hello\nwor")
        console.write(b"ld\nrest")
        assert console.read_until(b"\n") == b"hello\n"
        assert console.read_until(b"\n") == b"world\n"
        assert console.read(2) == b"re"
        assert console.read_some() == b"st"
        with pytest.raises(PeerTimeout, match="'x' did not come; got b''"):
            console.read_until(b"x", timeout=0.01)
        data = random.Random(1).randbytes(40_000)
        for start in range(0, len(data), 4000):
            console.write(data[start : start + 4000])
            assert console.read(4000) == data[start : start + 4000]


def test_console_with_ports_is_told_about_them(serve: Serve) -> None:
    class Ports(Paired, type="console", queues=6):
        def sent(self, request: Request) -> None:
            data = request.read()
            if request.queue == 3:
                control = ConsoleControl.unpack(data)
                if control.event == ConsoleEvent.DEVICE_READY:
                    self.answer(2, ConsoleControl(1, ConsoleEvent.DEVICE_ADD, 1).pack())
                    self.answer(2, ConsoleControl(1, ConsoleEvent.PORT_NAME, 1).pack() + b"agent")
            else:
                self.answer(request.queue - 1, data)

    device = Ports()
    device.device_features = ConsoleFeature.MULTIPORT
    device.config = ConsoleConfig(max_nr_ports=2).pack()
    with ConsoleDriver(serve(device), num_queues=6) as console:
        (added, _), (named, name) = console.control(minimum=2)
        assert (added.id, added.event) == (1, ConsoleEvent.DEVICE_ADD)
        assert (named.event, name) == (ConsoleEvent.PORT_NAME, b"agent")
        console.write(b"to the agent", port=1)
        assert console.read(12, port=1) == b"to the agent"


def test_net_sends_and_receives_frames(serve: Serve) -> None:
    class Loop(Paired, type="net", queues=4):
        def sent(self, request: Request) -> None:
            data = request.read()
            assert len(data) > NetHeader.SIZE
            self.answer(request.queue - 1, NetHeader(num_buffers=1).pack() + data[NetHeader.SIZE :])

    device = Loop()
    device.device_features = NetFeature.MAC
    device.config = b"\x52\x54\0\1\2\3"
    with NetDriver(serve(device), pairs=2, buffers=8) as nic:
        assert nic.mac == b"\x52\x54\0\1\2\3"
        frames = [os.urandom(60 + i) for i in range(40)]
        for i, frame in enumerate(frames):
            nic.send(frame, pair=i % 2)
            assert nic.receive(pair=i % 2) == frame
        nic.send_many(frames[:5])
        assert nic.receive_all() == frames[:5]
        with pytest.raises(PeerTimeout):
            nic.receive(timeout=0.01)


def test_net_joins_and_judges_buffers(serve: Serve) -> None:
    class Split(Paired, type="net", queues=2):
        def sent(self, request: Request) -> None:
            count = request.read()[-1]
            self.answer(0, NetHeader(num_buffers=count).pack() + b"a" * 52)
            self.answer(0, b"b" * 64)

    device = Split()
    device.device_features = NetFeature.MRG_RXBUF
    with NetDriver(serve(device), buffer_size=64, buffers=8) as nic:
        nic.send(bytes([2]))
        assert nic.receive() == b"a" * 52 + b"b" * 64
        nic.send(bytes([0]))
        with pytest.raises(DeviceError, match="num_buffers is 0"):
            nic.receive()


class VsockHost(Paired, type="vsock", queues=2):
    """Port 7 echoes, port 9 answers nonsense, everything else is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.config = struct.pack("<Q", 42)

    def reply(self, header: VsockHeader, operation: int, data: bytes = b"", flags: int = 0) -> None:
        packet = VsockHeader(
            2, 42, header.dst_port, header.src_port, len(data), 1, operation, flags, 1000, self.taken
        )
        self.answer(0, packet.pack() + data)

    taken = 0

    def sent(self, request: Request) -> None:
        packet = request.read()
        header, data = VsockHeader.unpack(packet[: VsockHeader.SIZE]), packet[VsockHeader.SIZE :]
        if header.op == VsockOperation.REQUEST:
            self.taken = 0
            good = header.dst_port in (7, 9)
            self.reply(header, VsockOperation.RESPONSE if good else VsockOperation.RST)
        elif header.op == VsockOperation.RW and header.dst_port == 9:
            self.answer(0, b"short")
        elif header.op == VsockOperation.RW:
            assert len(data) == header.len <= 1000
            self.taken += len(data)
            self.reply(header, VsockOperation.RW, data)
        elif header.op == VsockOperation.SHUTDOWN and header.flags == VsockShutdown.SEND:
            self.reply(header, VsockOperation.SHUTDOWN, flags=VsockShutdown.SEND)


def test_vsock_streams_keep_to_their_credit(serve: Serve) -> None:
    with VsockDriver(serve(VsockHost())) as vsock:
        assert vsock.cid == 42
        with pytest.raises(DeviceError, match="port 8: connection refused"):
            vsock.connect(8)
        with vsock.connect(7) as stream:
            data = random.Random(2).randbytes(20_000)
            stream.send(data)
            received = bytearray()
            while len(received) < len(data):
                received += stream.receive()
            assert received == data
            with pytest.raises(PeerTimeout, match="no data"):
                stream.receive(timeout=0.01)
            stream.shutdown()
            assert stream.receive() == b""
        with vsock.connect(9) as stream:
            stream.send(b"x")
            with pytest.raises(DeviceError, match="a packet of 5 bytes"):
                stream.receive()


def test_vsock_accepts_connections(serve: Serve) -> None:
    class Caller(VsockHost, type="vsock", queues=2):
        def sent(self, request: Request) -> None:
            packet = VsockHeader.unpack(request.read()[: VsockHeader.SIZE])
            if packet.op == VsockOperation.REQUEST:  # a call back
                call = VsockHeader(2, 42, 555, packet.dst_port, 0, 1, VsockOperation.REQUEST, 0, 1000, 0)
                self.answer(0, call.pack())
                self.reply(packet, VsockOperation.RST)
            elif packet.op == VsockOperation.RESPONSE:
                self.reply(packet, VsockOperation.RW, b"welcome")

    with VsockDriver(serve(Caller())) as vsock:
        vsock.listen(100)
        with pytest.raises(DeviceError, match="refused"):
            vsock.connect(100)
        with vsock.accept(100) as stream:
            assert (stream.peer_port, stream.peer_cid) == (555, 2)
            assert stream.receive() == b"welcome"


class Keyboard(Device, type="input", queues=2):
    """Sends two events for each one it gets; tells its name and keys."""

    config_writable = (range(2),)

    def __init__(self) -> None:
        super().__init__()
        self.config = bytes(136)

    def set_config(self, offset: int, data: bytes) -> None:
        assert offset == 0
        answers = {
            (1, 0): b"a keyboard",
            (0x11, 1): bytes([0b1010, 1]),
            (3, 0): struct.pack("<4H", 3, 2, 1, 9),
        }
        answer = answers.get((data[0], data[1]), b"")
        self.config = (data + bytes([len(answer)]) + bytes(5) + answer).ljust(136, b"\0")

    def queue_event(self, vring: Vring) -> None:
        if vring.index == 1:
            vring.process(self.status)

    def status(self, request: Request) -> None:
        for event in (InputEvent.unpack(request.read()), InputEvent(0, 0, 0)):
            buffer = self.vring(0).pop()
            assert buffer is not None
            buffer.write(event.pack())
            buffer.complete()


def test_input_gives_events_and_answers_questions(serve: Serve) -> None:
    with InputDriver(serve(Keyboard())) as keyboard:
        assert keyboard.name == "a keyboard"
        assert keyboard.serial == ""
        assert keyboard.codes(1) == {1, 3, 8}
        assert keyboard.ids.version == 9
        assert keyboard.query(InputSelect.PROP_BITS) == b""
        for code in range(100):
            keyboard.send(InputEvent(1, code, 1))
            assert keyboard.events(minimum=2) == [InputEvent(1, code, 1), InputEvent(0, 0, 0)]
        assert keyboard.events() == []


class Lines(Device, type="gpio", queues=2):
    """Eight lines; setting one interrupts it."""

    def __init__(self) -> None:
        super().__init__()
        self.device_features = GpioFeature.IRQ
        self.config = GpioConfig(8, 16).pack()
        self.values = [0] * 8
        self.waiting: dict[int, Request] = {}

    def handle(self, request: Request) -> None:
        if request.queue == 1:
            (line,) = request.unpack("<H")
            request.hold()
            self.waiting[line] = request
            return
        kind, line, value = request.unpack("<HHI")
        if line >= 8:
            request.write(b"\1\0")
        elif kind == 1:
            request.write(b"\0" + b"led\0button\0".ljust(16, b"\0"))
        elif kind == 5:
            self.values[line] = value
            if line in self.waiting:
                event = self.waiting.pop(line)
                event.write(b"\1")
                event.complete()
            request.write(b"\0\0")
        else:
            request.write(bytes([0, {2: 1, 4: self.values[line]}.get(kind, 0)]))


def test_gpio_reads_sets_and_waits_for_lines(serve: Serve) -> None:
    with GpioDriver(serve(Lines())) as gpio:
        assert gpio.config.ngpio == 8
        assert gpio.names()[:3] == ["led", "button", ""]
        assert gpio.direction(0) is GpioDirection.OUT
        gpio.set_irq_type(3, GpioIrqType.EDGE_RISING)
        gpio.arm(3)
        with pytest.raises(PeerTimeout, match="line 3"):
            gpio.wait_irq(3, timeout=0.01)
        gpio.set_value(3, 1)
        assert gpio.wait_irq(3)
        assert gpio.value(3) == 1
        with pytest.raises(DeviceError, match="GET_VALUE of line 8: status 1"):
            gpio.value(8)


class Eeprom(Device, type="i2c"):
    """256 bytes at address 0x50: the first byte written is the position."""

    def __init__(self) -> None:
        super().__init__()
        self.device_features = I2cFeature.ZERO_LENGTH_REQUEST
        self.memory = bytearray(256)
        self.position = 0
        self.failing = False

    def handle(self, request: Request) -> None:
        address, flags = request.unpack("<H2xI")
        failed = address != 0x50 << 1 or self.failing
        if not failed and flags & 2:
            length = request.writable - 1
            request.write(self.memory[self.position : self.position + length])
        elif not failed and (data := request.read()):
            self.position = data[0]
            self.memory[data[0] : data[0] + len(data) - 1] = data[1:]
        self.failing = failed and bool(flags & 1)
        request.write_last(bytes([failed]))


def test_i2c_transfers_in_groups(serve: Serve) -> None:
    with I2cDriver(serve(Eeprom())) as bus:
        bus.write(0x50, b"\x10hello")
        bus.write(0x50, b"\x12")
        assert bus.read(0x50, 3) == b"llo"
        assert bus.transfer(0x50, [b"\x10", 2, b"\x14", 1]) == [b"he", b"o"]
        bus.write(0x50, b"")  # zero length: is anybody there?
        with pytest.raises(DeviceError, match="transfer 0 to address 0x51 failed"):
            bus.transfer(0x51, [b"\0", 4])


@pytest.fixture
def virtiofsd(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """QEMU's file system back-end: (its socket, the directory that it shares)."""
    assert Path(VIRTIOFSD).exists(), "virtiofsd is missing: ./test installs it (package qemu-system-common)"
    shared, path = tmp_path / "shared", tmp_path / "fs.sock"
    (shared / "sub").mkdir(parents=True)
    command = [VIRTIOFSD, f"--socket-path={path}", "-o", f"source={shared}", "-o", "sandbox=chroot"]
    with programs() as running:
        process = running.listening(path, command)
        yield path, shared
        process.terminate()
        process.communicate(timeout=10)


def test_fs_mounts_and_reads_a_directory_of_virtiofsd(virtiofsd: tuple[Path, Path]) -> None:
    path, shared = virtiofsd
    content = random.Random(3).randbytes(300_000)
    (shared / "big").write_bytes(content)
    (shared / "sub" / "ünïcode").write_text("small")
    (shared / "link").symlink_to("big")
    for i in range(200):
        (shared / "sub" / f"file{i}").touch()
    with FsDriver(path) as fs:
        assert fs.listdir() == ["big", "link", "sub"]
        assert fs.read_bytes("/big") == content
        assert fs.read_bytes("sub/ünïcode") == b"small"
        assert len(fs.listdir("/sub")) == 201
        assert fs.readlink("/link") == "big"
        assert fs.is_dir("/sub")
        assert fs.stat("/big").st_size == 300_000
        assert fs.statfs()["namelen"] == 255
        with pytest.raises(FileNotFoundError, match="nothing"):
            fs.read_bytes("/nothing")
        with pytest.raises(NotADirectoryError):
            fs.listdir("/big")


def test_fs_judges_the_answers(serve: Serve) -> None:
    class Liar(Device, type="fs", queues=2):
        def handle(self, request: Request) -> None:
            request.write(struct.pack("<IiQ", 4000, 0, 2))

    with pytest.raises(DeviceError, match="INIT: the answer's header makes no sense"):
        FsDriver(serve(Liar()))
