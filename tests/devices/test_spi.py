"""The SPI controller driven in this process; C054, C124, C125, C134; virtio 1.4, 5.21."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vhost_user.device_types import OptionError, find
from vhost_user.devices import Flash, Spi, SpiModel, Transfer, spi_host
from vhost_user.devices.library import MissingLibraryError
from vhost_user.devices.spi_chip import EVERYTHING
from vhost_user.devices.spi_host import HostChip
from vhost_user.frontend import DeviceError, SpiDriver
from vhost_user.spec.spi import SpiConfig, SpiHeader, SpiMode, SpiResult
from vhost_user.testing.virtio import Virtio

Drive = Callable[..., SpiDriver]


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Drive:
    return lambda device: virtio.attach(device, packed=packed).drive(SpiDriver)


class Recorder(SpiModel):
    """Answers each byte with the next, and notes the frames."""

    def __init__(self) -> None:
        self.frames: list[str] = []

    def select(self) -> None:
        self.frames.append("<")

    def exchange(self, byte: int) -> int:
        self.frames[-1] += f"{byte:02x}"
        return byte + 1 & 0xFF

    def deselect(self) -> None:
        self.frames[-1] += ">"


def test_all_three_kinds_of_transfers(drive: Drive) -> None:
    chip = Recorder()
    spi = drive(Spi(chip))
    assert spi.exchange(b"\x01\x02\xff") == b"\x02\x03\x00"
    spi.write(b"\x10\x20")
    assert spi.read(3) == b"\x01\x01\x01"
    assert chip.frames == ["<0102ff>", "<1020>", "<000000>"]


def test_the_configuration_has_what_the_chips_can_do(drive: Drive) -> None:
    slow = Recorder()
    slow.limits = replace(EVERYTHING, max_freq_hz=1000, bits_per_word_mask=1 << 4, mode_func_supported=0b0101)
    assert drive(Spi(slow)).config == replace(slow.limits, cs_max_number=1)
    assert drive(Spi(Flash(), slow, None)).config == SpiConfig(
        cs_max_number=3,
        cs_change_supported=1,
        tx_nbits_supported=7,
        rx_nbits_supported=7,
        bits_per_word_mask=1 << 7 | 1 << 4,
        mode_func_supported=0b1001111,
        max_freq_hz=0,
        max_word_delay_ns=0xFFFFFFFF,
        max_cs_setup_ns=0xFFFFFFFF,
        max_cs_hold_ns=0xFFFFFFFF,
        max_cs_inactive_ns=0xFFFFFFFF,
    )


def test_a_frame_goes_on_until_cs_change_ends_it(drive: Drive) -> None:
    first, second = Recorder(), Recorder()
    spi = drive(Spi(first, second))
    spi.write(b"\x01", keep=True)
    spi.read(1, keep=True)
    spi.write(b"\x02")
    assert first.frames == ["<010002>"]
    spi.write(b"\x03", keep=True)
    spi.write(b"\x04", chip=1)  # another chip: the frame of the first ends
    spi.write(b"\x05")
    assert (first.frames[1:], second.frames) == (["<03>", "<05>"], ["<04>"])


def test_with_the_framing_of_linux_a_transfer_is_a_frame_unless_cs_change_says_otherwise(
    drive: Drive,
) -> None:
    chip = Recorder()
    spi = drive(Spi(chip, framing="linux"))
    for byte, cs_change in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 0)):
        spi.write(bytes((byte,)), cs_change=cs_change)
    assert chip.frames == ["<01>", "<02>", "<030405>"]


def test_C054_a_frame_goes_on_where_its_queue_stopped_and_ends_with_its_driver(
    virtio: Virtio, packed: bool
) -> None:
    chip = Recorder()
    attached = virtio.attach(Spi(chip), packed=packed)
    spi = attached.drive(SpiDriver)
    spi.write(b"\x01", keep=True)
    for _ in range(3):
        spi.stop_queue(0)
        spi.start_queue(0)
        spi.frontend.set_vring_enable(0, True)
    spi.write(b"\x02", keep=True)
    assert chip.frames == ["<0102"]
    attached.disconnect()
    assert attached.drive(SpiDriver).read(1) == b"\x01"
    assert chip.frames == ["<0102>", "<00>"]


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"bits_per_word": 8}, bytes((0x12, 0x34))),
        ({"bits_per_word": 16}, bytes((0x34, 0x12))),
        ({"bits_per_word": 32}, bytes((0x78, 0x56, 0x34, 0x12))),
        ({"mode": SpiMode.LSB_FIRST}, bytes((0x48, 0x2C))),
        ({"mode": SpiMode.LSB_FIRST, "bits_per_word": 16}, bytes((0x48, 0x2C))),
    ],
)
def test_words_and_bits_come_in_the_order_of_the_wire(
    drive: Drive, fields: dict[str, Any], data: bytes
) -> None:
    chip = Recorder()
    answer = drive(Spi(chip)).exchange(data, **fields)
    sent = chip.frames[0].strip("<>")
    assert sent == "12345678"[: 2 * len(data)]
    back = Recorder()
    drive(Spi(back)).write(answer, **fields)
    assert back.frames[0].strip("<>") == "".join(f"{byte + 1:02x}" for byte in bytes.fromhex(sent))


def test_loopback_reaches_no_chip(drive: Drive) -> None:
    chip = Recorder()
    assert drive(Spi(chip)).exchange(b"hello", mode=SpiMode.LOOP) == b"hello"
    assert chip.frames == ["<>"]


def test_where_nobody_is_all_bits_are_ones(drive: Drive) -> None:
    assert drive(Spi(None, Recorder())).read(4) == b"\xff\xff\xff\xff"


LIMITED = SpiConfig(
    rx_nbits_supported=1, bits_per_word_mask=1 << 7 | 1 << 15, mode_func_supported=0b0000111,
    max_freq_hz=1000, max_cs_hold_ns=5,
)  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"chip_select_id": 1},
        {"chip_select_id": 255},
        {"bits_per_word": 0},
        {"bits_per_word": 9},
        {"bits_per_word": 255},
        {"cs_change": 1},
        {"cs_change": 2},
        {"tx_nbits": 2},
        {"tx_nbits": 3},
        {"rx_nbits": 4},
        {"rx_nbits": 255},
        {"mode": SpiMode.CPOL},
        {"mode": SpiMode.CS_HIGH},
        {"mode": SpiMode.LSB_FIRST},
        {"mode": SpiMode.LOOP},
        {"mode": 1 << 5},
        {"mode": 1 << 31},
        {"freq": 1001},
        {"word_delay_ns": 1},
        {"cs_setup_ns": 1},
        {"cs_delay_hold_ns": 6},
        {"cs_change_delay_inactive_ns": 1},
        {"bits_per_word": 16},  # three bytes are no words of two
    ],
    ids=str,
)
def test_what_the_chip_cannot_do_is_a_parameter_error(drive: Drive, fields: dict[str, Any]) -> None:
    chip = Recorder()
    chip.limits = LIMITED
    spi = drive(Spi(chip, framing="linux"))
    with pytest.raises(DeviceError) as error:
        spi.exchange(b"abc", **{"cs_change": 0, **fields})
    assert error.value.status == SpiResult.PARAM_ERR
    assert chip.frames == []
    assert spi.exchange(b"a", cs_change=0, rx_nbits=2, tx_nbits=0, freq=1000, cs_delay_hold_ns=5) == b"b"


@pytest.mark.parametrize(
    ("readable", "writable"),
    [
        (SpiHeader().pack(), 1),  # nothing to send or to receive
        (SpiHeader().pack() + b"abc", 3),  # two bytes to receive
        (SpiHeader().pack() + b"abc", 5),
        (SpiHeader().pack()[:31], 5),
        (b"", 1),
        (SpiHeader().pack(), (1 << 20) + 2),
        (SpiHeader().pack() + bytes((1 << 20) + 1), 1),
    ],
    ids=["nothing", "shorter", "longer", "half a header", "no header", "reads too much", "writes too much"],
)
def test_lengths_that_make_no_sense_are_a_parameter_error(
    drive: Drive, readable: bytes, writable: int
) -> None:
    chip = Recorder()
    spi = drive(Spi(chip))
    pending = spi.queues[0].submit(readable, writable)
    spi.queues[0].publish()
    pending.wait(10)
    assert pending.data[-1] == SpiResult.PARAM_ERR
    assert chip.frames == []


def test_a_request_without_room_for_a_result_comes_back(drive: Drive) -> None:
    spi = drive(Spi(Recorder()))
    assert spi.queues[0].request(SpiHeader().pack() + b"a", 0) == b""
    assert spi.read(1) == b"\x01"


def test_the_largest_transfer_is_carried_out(drive: Drive) -> None:
    content = bytes(range(256)) * 4096
    spi = drive(Spi(Flash(content=content)))
    spi.write(b"\x03\0\0\0", keep=True)
    assert spi.read(1 << 20) == content


class Faulty(SpiModel):
    def __init__(self) -> None:
        self.ended = 0

    def exchange(self, byte: int) -> int:
        if byte == 1:
            raise OSError("the chip does not answer")
        if byte == 2:
            raise ZeroDivisionError
        return byte

    def deselect(self) -> None:
        self.ended += 1


def test_a_chip_that_fails_is_a_transfer_error_and_the_frame_ends(drive: Drive, virtio: Virtio) -> None:
    chip = Faulty()
    spi = drive(Spi(chip))
    for byte in (1, 2):
        with pytest.raises(DeviceError) as error:
            spi.exchange(bytes((0, byte)), keep=True)
        assert error.value.status == SpiResult.TRANS_ERR
    assert chip.ended == 2
    assert len(virtio.errors) == 1  # the fault of the model, and not what it may answer
    virtio.errors.clear()
    assert spi.exchange(b"\x07") == b"\x07"


def test_C124_C125_chips_and_the_frame_go_along(virtio: Virtio) -> None:
    source, target = (virtio.attach(Spi(None, Flash(4096, content=text))) for text in (b"here", b"there"))
    spi = source.drive(SpiDriver)
    spi.write(b"\x03\0\0\1", chip=1, keep=True)
    assert spi.read(1, chip=1, keep=True) == b"e"
    spi.stop_queue(0)
    target.load_state(source.save_state())
    assert target.drive(SpiDriver).read(3, chip=1) == b"re\xff"
    device = Spi(Recorder())
    states: list[Any] = [None, {}, {"chips": []}]
    for state in (*states, {"chips": [None], "selected": 1}, {"chips": [1], "selected": 0}):
        with pytest.raises(ValueError, match="state"):
            device.load_state(state, 1)


def test_controllers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spi()
    with pytest.raises(ValueError, match="255 at most"):
        Spi(*[None] * 256)


def test_the_options_say_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(8192))
    device = find("spi").make({"flash": f"64K,{tmp_path}/image", "framing": "linux"})
    assert [chip.size for chip in device.chips] == [65536, 8192]
    assert device.framing == "linux"
    device.close()
    assert find("spi").make({}).chips[0].size == 1 << 20
    with pytest.raises(ValueError, match="a power of two"):
        find("spi").make({"flash": "5000"})
    with pytest.raises(OSError, match="No such file"):
        find("spi").make({"flash": f"{tmp_path}/none"})
    with pytest.raises(OptionError, match="framing"):
        find("spi").make({"framing": "other"})


class Device:
    """A chip of this machine as spidev shows it: no kernel here has one."""

    made: list[Device]

    def __init__(self) -> None:
        Device.made.append(self)
        self.mode, self.cshigh, self.lsbfirst, self.loop = 3, False, False, False
        self.bits_per_word, self.max_speed_hz = 8, 500_000
        self.seen: list[tuple[object, ...]] = []
        self.closed = False

    def open_path(self, path: str) -> None:
        if path != "/dev/spidev0.1":
            raise FileNotFoundError(2, "No such file or directory", path)

    def __setattr__(self, name: str, value: Any) -> None:
        if (name == "bits_per_word" and value not in {8, 16}) or (name == "lsbfirst" and value):
            raise OSError(22, "Invalid argument")
        super().__setattr__(name, value)

    def xfer2(self, values: list[int], speed: int, delay: int, bits: int) -> list[int]:
        if values[0] == 0xEE:
            raise OSError(90, "Message too long")
        self.seen.append((values, speed, delay, bits, self.mode, self.cshigh, self.loop))
        return [value ^ 0xFF for value in values]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def spidev(monkeypatch: pytest.MonkeyPatch) -> None:
    Device.made = []
    library = type("Library", (), {"SpiDev": Device})
    monkeypatch.setattr(spi_host, "library", lambda _module, extra: library if extra == "spi" else None)


@pytest.mark.usefixtures("spidev")
def test_a_chip_of_this_machine_gets_its_transfers(virtio: Virtio, packed: bool) -> None:
    device = find("spi").make({"device": "/dev/spidev0.1"})
    (chip,) = Device.made
    attached = virtio.attach(device, packed=packed)
    spi = attached.drive(SpiDriver)
    assert spi.config == SpiConfig(
        cs_max_number=1, cs_change_supported=1, bits_per_word_mask=1 << 7 | 1 << 15,
        mode_func_supported=0b1011111, max_freq_hz=500_000, max_cs_hold_ns=65_535_000,
    )  # fmt: skip
    assert (chip.mode, chip.cshigh, chip.bits_per_word) == (
        3,
        False,
        8,
    )  # as they were before they were tried
    assert spi.exchange(b"\x01\x02", mode=SpiMode.CPHA, freq=9600, cs_delay_hold_ns=1500) == b"\xfe\xfd"
    assert spi.read(2, bits_per_word=16, mode=SpiMode.CS_HIGH | SpiMode.LOOP) == b"\xff\xff"
    assert chip.seen == [([1, 2], 9600, 2, 8, 1, False, False), ([0, 0], 0, 0, 16, 0, True, True)]
    for call in (
        lambda: spi.write(b"\xee"),
        lambda: spi.write(b"\x01", keep=True),  # the library cannot
        lambda: spi.read(4096, freq=10),  # it would take an hour
    ):
        with pytest.raises(DeviceError) as error:
            call()
        assert error.value.status == SpiResult.TRANS_ERR
    attached.disconnect()
    assert attached.daemon is not None
    attached.daemon.close()
    assert chip.closed


@pytest.mark.usefixtures("spidev")
def test_a_chip_that_is_not_there_is_said_and_numbers_will_do() -> None:
    assert HostChip("0.1").path == "/dev/spidev0.1"
    with pytest.raises(FileNotFoundError, match="spidev7"):
        HostChip("7.0")


def test_without_the_library_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spidev", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[spi\]'"):
        HostChip("0.0")


def test_a_model_may_take_whole_transfers(drive: Drive) -> None:
    class Echo(SpiModel):
        def transfer(self, transfer: Transfer) -> bytes:
            return transfer.data[::-1] if transfer.last else b""

    spi = drive(Spi(Echo()))
    assert spi.exchange(b"abc", freq=7) == b"cba"
    with pytest.raises(DeviceError) as error:  # an answer of another length is a fault
        spi.exchange(b"abc", keep=True)
    assert error.value.status == SpiResult.TRANS_ERR
