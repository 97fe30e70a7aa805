"""``vhost-user board``: the devices of a file at their sockets, the page, how it ends; errors in words."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.support.live_page import LivePage
from tests.support.programs import COMMAND, programs, run_program, serving
from vhost_user.frontend import GpioDriver

LAMP = '''"""A lamp."""
from vhost_user.devices import Console, Gpio, Line

pins = Gpio("lamp", Line("button", rest=1))
terminal = Console()
'''


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.py"
    path.write_text(LAMP)
    return path


def refused(*arguments: object, status: int = 1) -> str:
    done = run_program([COMMAND, "board", *map(str, arguments)])
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_board_is_served_with_its_page(lamp: Path, tmp_path: Path) -> None:
    command = [COMMAND, "board", lamp, f"--socket-dir={tmp_path}", "--qemu-version=11.0"]
    with serving(command, "the page: ", quiet=True) as said:
        assert f"pins: listening on {tmp_path}/pins.sock" in said
        assert f"terminal: listening on {tmp_path}/terminal.sock" in said
        assert said.count("memory-backend-memfd") == 1
        assert f"-chardev socket,id=pins,path={tmp_path}/pins.sock" in said
        assert "vhost-user-gpio-pci,chardev=pins" in said
        assert "chardev=terminal,virtio-id=3" in said
        url = re.search(r"the page: (http://127\.0\.0\.1:\d+/[\w-]+/)\n", said)
        assert url is not None
        with LivePage(url[1]) as page, GpioDriver(str(tmp_path / "pins.sock")) as gpio:
            page.until(lambda: page.values)
            assert page.board["title"] == "A lamp"
            page.act("pins/lamp", 1)
            page.until(lambda: page.values["pins/lamp"]["level"] == 1)
            assert gpio.value(0) == 1
        with urllib.request.urlopen(url[1]) as answer:
            assert answer.status == 200
    assert not list(tmp_path.glob("*.sock"))


def test_without_a_page_and_with_a_folder_of_its_own(lamp: Path) -> None:
    with serving(
        [COMMAND, "board", lamp, "--no-page", "--qemu-version=7.2"], "no QEMU line", quiet=True
    ) as said:
        assert "the page" not in said
        assert "terminal: for the guest there is no QEMU line: QEMU 7.2 has no device" in said
        found = re.search(r"pins: listening on (.*)\n", said)
        assert found is not None
        assert Path(found[1]).is_socket()
    assert not Path(found[1]).parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_a_page_and_a_driver_that_stay(
    lamp: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with programs() as running:
        process = running.start([COMMAND, "board", lamp, f"--socket-dir={tmp_path}"])
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("the page: "):
            assert line
        page = LivePage(line.removeprefix("the page: ").strip())
        driver = GpioDriver(str(tmp_path / "pins.sock"))
        page.until(lambda: page.values)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
        driver.close()
        page.close()


def test_what_is_wrong_is_said_in_words(lamp: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("from vhost_user.devices import Gpio\n")
    assert "no device: write it at the top level of the file" in refused(empty)
    assert "there is no file" in refused(tmp_path / "gone.py")
    assert "does not exist: create it first" in refused(lamp, f"--socket-dir={tmp_path}/gone", "--no-page")
    assert "can be reached from other machines" in refused(lamp, "--address=0.0.0.0")
    assert "is not between 0 and 65535" in refused(lamp, "--port=70000", status=2)
    assert "--qemu-version" in refused(lamp, "--qemu-version=new", status=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot have port {port} of 127.0.0.1" in refused(lamp, f"--port={port}")
    twice = tmp_path / "twice.py"
    twice.write_text(
        LAMP + "from vhost_user.board import Board\na = Board(pins=pins)\nb = Board(t=terminal)\n"
    )
    assert "several boards: a, b" in refused(twice)
    served = tmp_path / "served.py"
    served.write_text(LAMP + f"pins.start({str(tmp_path / 'elsewhere')!r})\n")
    assert "the board cannot be served" in refused(served, "--no-page")
    stuck = tmp_path / "pins.sock"
    stuck.write_text("")
    assert "is not a socket" in refused(lamp, f"--socket-dir={tmp_path}", "--no-page")


def test_the_help_has_a_whole_board() -> None:
    done = run_program([COMMAND, "board", "--help"], check=True)
    assert 'pins = Gpio("lamp", Line("button", rest=1))' in done.stdout
    for option in ("--socket-dir", "--port", "--address", "--no-page", "--qemu-version"):
        assert option in done.stdout
    overview = run_program([COMMAND, "--help"], check=True)
    assert "vhost-user board board.py" in overview.stdout
