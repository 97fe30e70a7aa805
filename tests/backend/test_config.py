"""The configuration space as a declared struct: C129, C130."""

from __future__ import annotations

import pytest

from vhost_user import RequestRefused
from vhost_user.backend.config import U8, U16, U32, U64, Bytes, Change, Config


class ConsoleConfig(Config):
    cols = U16(80)
    rows = U16(25)
    max_nr_ports = U32(1)
    emerg_wr = U32(writable=True, high=255)


class Sparse(Config):
    mac = Bytes(6, b"\x02")
    status = U16(1, at=8)
    mtu = U16(1500, byteorder="big")
    big = U64(1 << 40)
    flag = U8(writable=True, high=1)


def test_fields_have_places_defaults_and_bytes() -> None:
    config = ConsoleConfig(rows=50)
    assert config.pack() == bytes.fromhex("500032000100000000000000")
    assert (config.cols, config.rows, config.max_nr_ports) == (80, 50, 1)
    assert [row[:4] for row in Sparse().describe()] == [
        (0, 6, "mac", "read-only"),
        (8, 2, "status", "read-only"),
        (10, 2, "mtu", "read-only"),
        (12, 8, "big", "read-only"),
        (20, 1, "flag", "read-write"),
    ]
    assert Sparse().pack()[10:12] == b"\x05\xdc"
    assert Sparse().mac == b"\x02\0\0\0\0\0"


def test_C130_a_change_is_told_once_and_only_if_something_changed() -> None:
    told: list[bytes] = []
    config = ConsoleConfig().copy(changed=lambda: told.append(config.pack()))
    config.cols = 80
    assert told == []
    config.cols = 132
    assert [int.from_bytes(data[:2], "little") for data in told] == [132]
    with config.changing():
        config.cols = 40
        config.rows = 10
        with config.changing():
            config.rows = 12
        assert len(told) == 1
    assert len(told) == 2
    assert told[1][:4] == bytes.fromhex("28000c00")


def test_a_copy_does_not_share_values() -> None:
    first = ConsoleConfig()
    second = first.copy()
    second.cols = 1
    assert first.cols == 80


@pytest.mark.parametrize("value", [-1, 1 << 16, "80", None])
def test_a_value_that_does_not_fit_is_refused(value: object) -> None:
    config = ConsoleConfig()
    with pytest.raises(ValueError, match="cols is"):
        config.cols = value  # type: ignore[assignment]  # the mistake under test
    assert config.cols == 80


def test_unknown_fields_and_overlaps_are_refused() -> None:
    with pytest.raises(TypeError, match="no field 'columns'; there are cols, rows"):
        ConsoleConfig(columns=1)
    with pytest.raises(ValueError, match=r"second .* overlaps first"):

        class Wrong(Config):
            first = U32()
            second = U16(at=2)

    with pytest.raises(ValueError, match="cannot have the name 'pack'"):

        class Hides(Config):
            pack = U32()  # type: ignore[assignment]  # the mistake under test


def test_C129_the_driver_writes_writable_fields_only() -> None:
    config = ConsoleConfig()
    assert config.write(8, b"A\0\0\0") == [Change("emerg_wr", 0, 65)]
    assert config.write(8, b"A\0\0\0") == []
    for offset, data in ((0, b"\1\0"), (0, config.pack()[:4]), (4, b"\2")):
        with pytest.raises(RequestRefused, match="read-only") as refused:
            config.write(offset, data)
        assert refused.value.rule == "C129"
    for offset, data in ((12, b"x"), (8, b"12345"), (-1, b"x")):
        with pytest.raises(RequestRefused, match="beyond"):
            config.write(offset, data)
    assert config.pack() == bytes.fromhex("500019000100000041000000")


def test_C129_the_whole_space_and_single_bytes_work_both() -> None:
    config = ConsoleConfig()
    whole = bytearray(config.pack())
    whole[8] = 0x42
    assert config.write(0, bytes(whole)) == [Change("emerg_wr", 0, 0x42)]
    whole[0] ^= 1
    with pytest.raises(RequestRefused, match=r"byte 0 .* \(cols\)"):
        config.write(0, bytes(whole))
    assert config.write(8, b"\x43") == [Change("emerg_wr", 0x42, 0x43)]


def test_C129_bounds_are_checked_and_nothing_changes_when_they_are_broken() -> None:
    config = ConsoleConfig()
    with pytest.raises(RequestRefused, match="emerg_wr is 256: it must be 0 to 255"):
        config.write(8, b"\0\1\0\0")
    assert config.emerg_wr == 0


def test_C129_a_migration_restores_read_only_fields_too() -> None:
    config = ConsoleConfig()
    assert config.write(0, bytes.fromhex("84002b00"), restore=True) == [
        Change("cols", 80, 132),
        Change("rows", 25, 43),
    ]
