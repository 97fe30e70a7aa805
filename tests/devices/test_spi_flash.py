"""The flash memory, driven over the controller, split and packed; C124, C125, C134."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.killed_programs import served
from tests.support.programs import COMMAND
from vhost_user.devices import Flash, Spi
from vhost_user.devices.spi_flash import parameters
from vhost_user.frontend import DeviceError, SpiDriver
from vhost_user.spec.spi import SpiHeader, SpiMode, SpiResult
from vhost_user.testing.virtio import Virtio

SIZE = 1 << 16


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def drive(virtio: Virtio, request: pytest.FixtureRequest) -> Callable[[Flash], SpiDriver]:
    return lambda flash: virtio.attach(Spi(flash), packed=request.param).drive(SpiDriver)


Drive = Callable[[Flash], SpiDriver]


def at(command: int, address: int) -> bytes:
    return bytes((command,)) + address.to_bytes(3, "big")


def change(spi: SpiDriver, command: bytes) -> int:
    """Enable, change, wait; gives how many readings of the status found it busy."""
    spi.write(b"\x06")
    spi.write(command)
    for readings in range(100):
        if not spi.write_read(b"\x05", 1)[0] & 1:
            return readings
    raise AssertionError("the memory stays busy")


def test_it_says_what_it_is(drive: Drive) -> None:
    spi = drive(Flash(1 << 24, jedec=b"\xc2\x20"))
    assert spi.write_read(b"\x9f", 5) == b"\xc2\x20\x18\xff\xff"
    table = spi.write_read(at(0x5A, 0) + b"\0", 0x34)
    assert table == parameters(1 << 24)
    assert (table[:4], table[6], table[11]) == (b"SFDP", 0, 9)  # one table of nine words
    assert int.from_bytes(table[0x14:0x18], "little") == (1 << 27) - 1  # bits, less one
    assert spi.write_read(at(0x5A, 0x30) + b"\0", 6) == table[0x30:0x34] + b"\xff\xff"


@pytest.mark.parametrize(
    ("command", "lanes"),
    [(b"\x03\0\0\2", 1), (b"\x0b\0\0\2\0", 1), (b"\x3b\0\0\2\0", 2), (b"\x6b\0\0\2\0", 4)],
    ids=["read", "fast", "dual", "quad"],
)
def test_reads_of_all_kinds(drive: Drive, command: bytes, lanes: int) -> None:
    spi = drive(Flash(SIZE, content=b"hello"))
    assert spi.write_read(command, 4, rx_nbits=lanes) == b"llo\xff"
    others = {1, 2, 4} - {lanes}
    assert {spi.write_read(command, 2, rx_nbits=other) for other in others} == {b"\xff\xff"}
    whole = spi.exchange(command + b"\0\0\0", rx_nbits=lanes)  # full duplex, in one transfer
    assert whole == b"\xff" * len(command) + b"llo"
    for byte in command:  # byte by byte
        spi.write(bytes((byte,)), keep=True)
    assert [spi.read(1, keep=True, rx_nbits=lanes) for _ in range(3)] == [b"l", b"l", b"o"]


def test_reads_go_round_at_the_end(drive: Drive) -> None:
    spi = drive(Flash(SIZE, content=b"begin" + bytes(SIZE - 8) + b"end"))
    assert spi.write_read(at(0x03, SIZE - 3), 8) == b"endbegin"
    assert spi.write_read(at(0x03, SIZE), 5) == b"begin"
    assert len(spi.write_read(at(0x03, 1), 3 * SIZE)) == 3 * SIZE


def test_it_is_programmed_and_erased(drive: Drive) -> None:
    flash = Flash(SIZE, content=b"\xff" * 0x1000 + b"abc", busy=3)
    spi = drive(flash)
    assert change(spi, at(0x02, 0xFE) + b"1234") == 3
    assert (flash.read(0xFE, 2), flash.read(0, 2), flash.read(0x100, 1)) == (b"12", b"34", b"\xff")
    change(spi, at(0x02, 0xFE) + b"\x0f")  # programming makes zeroes only
    assert flash.read(0xFE, 1) == bytes((ord("1") & 0x0F,))
    change(spi, at(0x02, 0x200) + bytes(range(256)) + b"\x80")  # more than a page: the last 256 bytes
    assert flash.read(0x200, 256) == b"\x80" + bytes(range(1, 256))
    change(spi, at(0x20, 0x1234))
    assert flash.read(0x1000, 3) == b"\xff\xff\xff"
    assert flash.read(0xFF, 1) == b"2"
    change(spi, b"\xc7")
    assert flash.read(0, SIZE) == b"\xff" * SIZE


@pytest.mark.parametrize(("command", "size"), [(0x20, 0x1000), (0x52, 0x8000), (0xD8, 0x10000)])
def test_each_erase_has_its_size(drive: Drive, command: int, size: int) -> None:
    flash = Flash(1 << 17, content=bytes(1 << 17))
    change(drive(flash), at(command, 0x10123))
    assert flash.read(0x10000 - 1, size + 1) == b"\0" + b"\xff" * size
    assert flash.read(0x10000 + size, 1 << 17) == bytes((1 << 17) - 0x10000 - size)


def test_nothing_changes_without_leave_while_busy_or_half_way(drive: Drive) -> None:
    flash = Flash(SIZE, content=b"keep", busy=2)
    spi = drive(flash)
    program, erase = at(0x02, 0) + b"\0\0", at(0x20, 0)
    spi.write(erase)  # nobody said 0x06
    spi.write(b"\x06")
    spi.write(b"\x04")
    spi.write(program)
    spi.write(b"\x06\x00")  # one byte too many
    spi.write(program)
    spi.write(b"\x06")
    spi.write(erase[:3])  # too short
    spi.write(erase + b"\0")
    assert spi.write_read(b"\x05", 1) == b"\x02"
    assert flash.read(0, 4) == b"keep"
    spi.write(at(0x02, 4) + b"!")
    assert spi.write_read(at(0x03, 0), 4) == b"\xff" * 4  # busy
    spi.write(b"\x06")  # not heard
    assert spi.write_read(b"\x05", 3) == b"\x01\x01\x00"
    spi.write(erase)
    assert flash.read(0, 6) == b"keep!\xff"


def test_a_protected_memory_stays_as_it_is(drive: Drive) -> None:
    flash = Flash(SIZE, content=b"keep")
    spi = drive(flash)
    change(spi, b"\x01\x04")
    assert spi.write_read(b"\x05", 1) == b"\x04"
    change(spi, at(0x20, 0))
    change(spi, at(0x02, 0) + b"\0")
    assert flash.read(0, 4) == b"keep"
    change(spi, b"\x01\x00")
    change(spi, at(0x20, 0))
    assert flash.read(0, 4) == b"\xff" * 4


@pytest.mark.parametrize("fields", [{"mode": SpiMode.LSB_FIRST}, {"bits_per_word": 16}, {"rx_nbits": 8}])
def test_it_does_not_do_everything(drive: Drive, fields: dict[str, int]) -> None:
    with pytest.raises(DeviceError) as error:
        drive(Flash()).write_read(b"\x9f", 4, **fields)
    assert error.value.status == SpiResult.PARAM_ERR


def test_what_it_does_not_know_is_ones(drive: Drive) -> None:
    assert drive(Flash(content=b"x")).write_read(b"\x42", 4) == b"\xff" * 4


def test_a_file_keeps_what_is_in_it(drive: Drive, tmp_path: Path) -> None:
    image = tmp_path / "flash"
    image.write_bytes(b"\xff" * SIZE)
    flash = Flash(file=image)
    spi = drive(flash)
    change(spi, at(0x02, 0x1000) + b"hello")
    assert image.read_bytes()[0x1000:0x1005] == b"hello"
    assert spi.write_read(at(0x03, 0x1001), 4) == b"ello"
    os.truncate(image, 0x1002)  # by somebody else: what is missing is as if it had been erased
    assert spi.write_read(at(0x03, 0x1001), 4) == b"e\xff\xff\xff"
    os.truncate(image, SIZE)
    again = Flash(file=image)
    assert again.read(0x1000, 3) == b"he\0"
    again.close()


def test_a_file_that_cannot_be_written_is_a_transfer_error(drive: Drive, tmp_path: Path) -> None:
    image = tmp_path / "flash"
    image.write_bytes(b"\xff" * SIZE)
    flash = Flash(file=image)
    spi = drive(flash)
    spi.write(b"\x06")
    os.dup2(os.open(image, os.O_RDONLY), flash._fd)
    with pytest.raises(DeviceError) as error:
        spi.write(at(0x02, 0) + b"x")
    assert error.value.status == SpiResult.TRANS_ERR
    assert spi.write_read(b"\x05", 2) == b"\x01\x00"
    assert spi.write_read(b"\x9f", 3) == b"\xef\x40\x10"


def test_C124_the_state_goes_on_in_the_middle_of_a_command() -> None:
    source, target = Flash(SIZE, content=b"abc", busy=5), Flash(SIZE)
    header = SpiHeader()
    source.answer(b"\x06", header)
    source.deselect()
    source.answer(b"\x02\0\0", header)
    target.load_state(source.save_state())
    target.answer(b"\0A", header)
    target.deselect()
    assert target.read(0, 3) == b"Abc"
    source.load_state(target.save_state())  # busy: what is asked now is not heard, there or here
    source.answer(b"\x03", header)
    target.load_state(source.save_state())
    assert target.answer(b"\0\0\0\0", header) == b"\xff" * 4


@pytest.mark.parametrize(
    "change",
    [
        {"content": b""},
        {"page": b""},
        {"status": 256},
        {"status": None},
        {"busy": -1},
        {"count": -1},
        {"head": b"\x03\0"},
        {"content": "text"},
    ],
    ids=str,
)
def test_C125_a_state_that_is_none_is_refused(change: dict[str, object]) -> None:
    flash = Flash(4096)
    state = {**flash.save_state(), "count": 1, "head": b"\x03"}
    flash.load_state(state)
    with pytest.raises(ValueError, match="state"):
        flash.load_state({**state, **change})
    with pytest.raises(ValueError, match="state"):
        flash.load_state(None)


@pytest.mark.parametrize("size", [0, 2048, 5000, 32 << 20])
def test_sizes_that_there_are_not_are_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a power of two"):
        Flash(size)
    (tmp_path / "image").touch()
    os.truncate(tmp_path / "image", size)
    with pytest.raises(ValueError, match="a power of two"):
        Flash(file=tmp_path / "image")
    with pytest.raises(ValueError, match="with 5000 in it"):
        Flash(4096, content=bytes(5000))


def test_C134_a_program_that_is_killed_comes_back_with_its_file(tmp_path: Path) -> None:
    image = tmp_path / "flash"
    image.write_bytes(b"\xff" * SIZE)
    program = served(tmp_path, "spi", f"--flash={image}")
    try:
        for address in range(3):
            program.start()
            with SpiDriver(str(program.socket)) as spi:
                change(spi, at(0x02, address) + b"x")
                spi.write(at(0x02, 0x100) + b"lost", keep=True)
            program.kill()
        assert image.read_bytes()[:4] == b"xxx\xff"
        assert image.read_bytes()[0x100:0x104] == b"\xff" * 4  # the chip was not deselected
    finally:
        program.kill()


def test_C124_an_upgrade_takes_the_memory_along_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    control = tmp_path / "c"
    program = served(tmp_path, "spi", f"--control={control}", "--flash=64K")
    successor = None
    try:
        program.start()
        with SpiDriver(str(program.socket)) as spi:
            change(spi, at(0x02, 0) + b"hello")
            spi.write(at(0x03, 0), keep=True)
            assert spi.read(1, keep=True) == b"h"
            told = subprocess.run([COMMAND, "control", control, "upgrade"], capture_output=True, check=True)
            successor = json.loads(told.stdout)["pid"]
            assert spi.read(4) == b"ello"
            assert change(spi, at(0x20, 0)) == 1
    finally:
        program.kill()
        if successor is not None:
            os.kill(successor, signal.SIGKILL)
