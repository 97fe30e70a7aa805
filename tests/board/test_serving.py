"""A board at its sockets: all of it is served, or nothing; what is printed for QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.front_end import until
from vhost_user import SocketError
from vhost_user.board import Board
from vhost_user.board.serving import ServedBoard
from vhost_user.devices import Console, Eeprom, Gpio, I2c
from vhost_user.frontend import ConsoleDriver, GpioDriver, I2cDriver
from vhost_user.testing.leaks import Resources

THREADS = ("pins", "bus", "terminal", "Console", "Gpio", "I2c")


def make() -> Board:
    return Board("Three", pins=Gpio("lamp"), bus=I2c({0x50: Eeprom(b"hello")}), terminal=Console())


def test_every_device_is_at_its_socket_and_nothing_is_left(tmp_path: Path) -> None:
    before = Resources.now()
    board = make()
    with ServedBoard(board, tmp_path) as served:
        assert served.failure is None
        sockets = {name: str(path) for name, path in served.sockets.items()}
        with (
            GpioDriver(sockets["pins"]) as gpio,
            I2cDriver(sockets["bus"]) as bus,
            ConsoleDriver(sockets["terminal"]) as console,
        ):
            assert gpio.names() == ["lamp"]
            assert bus.transfer(0x50, [b"\0", 5]) == [b"hello"]
            console.write(b"here")
            view = board.panels["terminal"].controls["port 0"]
            until(lambda: view.value()["text"] == "here")
    served.close()
    assert not list(tmp_path.iterdir())
    assert before.left_behind(THREADS) == []


def test_what_cannot_be_served_as_a_whole_is_not_served_at_all(tmp_path: Path) -> None:
    before = Resources.now()
    (tmp_path / "terminal.sock").write_text("")
    with pytest.raises(SocketError, match="is not a socket"):
        ServedBoard(make(), tmp_path)
    closed: list[str] = []

    class Noted(Gpio):
        def close(self) -> None:
            super().close()
            closed.append(self.lines[0].name)

    first, served, last = Noted("first"), Noted("served"), Noted("last")
    with ServedBoard(Board(elsewhere=served), tmp_path) as other:
        with pytest.raises(ValueError, match="is served by daemon 'elsewhere' already"):
            ServedBoard(Board(first=first, served=served, last=last), tmp_path)
        assert closed == ["first", "last"]
        with GpioDriver(str(other.sockets["elsewhere"])) as gpio:
            assert gpio.names() == ["served"]
    assert closed == ["first", "last", "served"]
    assert [path.name for path in tmp_path.iterdir()] == ["terminal.sock"]
    assert before.left_behind(THREADS) == []


def test_the_lines_name_each_device_and_say_what_there_is_none_for(tmp_path: Path) -> None:
    with ServedBoard(make(), tmp_path) as served:
        lines, missing = served.guest_lines(version=(7, 2))
        assert len(lines) == 5
        assert "share=on" in lines[0]
        assert lines[1] == f"-chardev socket,id=pins,path={tmp_path}/pins.sock,reconnect=1"
        assert lines[2] == "-device vhost-user-gpio-pci,chardev=pins"
        assert lines[4].startswith("-device vhost-user-i2c-pci,chardev=bus")
        assert missing.keys() == {"terminal"}
        assert "10.2" in missing["terminal"]
        lines, missing = served.guest_lines(version=(11, 0))
        assert "chardev=terminal,virtio-id=3" in lines[6]
        assert not missing
