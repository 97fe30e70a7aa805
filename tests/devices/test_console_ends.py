"""Whatever can be at the other end of a console: sockets, files, terminals, pipes, serial lines."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from tests.support.programs import COMMAND, programs, run_program
from vhost_user.devices import Console
from vhost_user.devices.console_ends import ListenEnd
from vhost_user.devices.library import MissingLibraryError, library
from vhost_user.frontend import ConsoleDriver
from vhost_user.testing.virtio import Virtio


def drive(virtio: Virtio, end: Any) -> tuple[Console, ConsoleDriver]:
    console = Console(end)
    return console, virtio.attach(console).drive(ConsoleDriver)


def end_all(virtio: Virtio) -> None:
    for device in virtio.devices:
        device.disconnect()
        assert device.daemon is not None
        device.daemon.close()


def receive(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (more := client.recv(length - len(data))):
        data += more
    return data


@pytest.mark.parametrize("kind", ["tcp-listen", "unix-listen"])
def test_one_client_after_the_other_talks_to_the_guest(virtio: Virtio, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "line"
    console, driver = drive(virtio, "tcp-listen:0" if kind == "tcp-listen" else f"unix-listen:{path}")
    end = console.ports[0].end
    assert isinstance(end, ListenEnd)
    until(lambda: end.address, "it listens")
    for number in range(3):
        driver.write(b"nobody hears this")
        with socket.socket(socket.AF_INET if kind == "tcp-listen" else socket.AF_UNIX) as client:
            client.connect(end.address)
            client.settimeout(10)
            client.sendall(b"%d" % number * 100_000)
            assert driver.read(100_000) == b"%d" % number * 100_000
            driver.write(b"welcome")
            assert receive(client, 7) == b"welcome"
        until(lambda: not console.ports[0].connected, "it is gone")
    end_all(virtio)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_connection_is_made_again(virtio: Virtio, kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "line")
    with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as server:
        server.bind(("127.0.0.1", 0) if kind == "tcp" else path)
        server.listen()
        server.settimeout(10)
        _, driver = drive(
            virtio, f"tcp:127.0.0.1:{server.getsockname()[1]}" if kind == "tcp" else f"unix:{path}"
        )
        for _ in range(2):
            client, _ = server.accept()
            with client:
                client.sendall(b"hello")
                assert driver.read(5) == b"hello"


def test_a_client_that_never_reads_makes_the_guest_wait_and_nothing_is_lost(
    virtio: Virtio, tmp_path: Path
) -> None:
    path = tmp_path / "line"
    console, driver = drive(virtio, f"unix-listen:{path}")
    data = os.urandom(1 << 20)
    until(path.exists, "it listens")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        until(lambda: console.ports[0].connected, "it is connected")
        queue = driver.queue(1)
        pending = [queue.submit(data[start : start + (8 << 10)]) for start in range(0, len(data), 8 << 10)]
        time.sleep(0.05)
        assert not pending[-1].done  # a socket's buffer and asyncio's are far from a mebibyte
        client.settimeout(10)
        assert receive(client, len(data)) == data
        assert [one.wait(10) for one in pending] == [b""] * len(pending)


def test_a_file_gets_what_the_guest_writes(virtio: Virtio, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    _, driver = drive(virtio, f"file:{path}")
    for number in range(100):
        driver.write(b"%d\n" % number)
    wanted = b"before\n" + b"".join(b"%d\n" % number for number in range(100))
    until(lambda: path.read_bytes() == wanted, "the file has it all")


def test_a_pseudo_terminal_and_its_size(virtio: Virtio, tmp_path: Path) -> None:
    link = tmp_path / "guest"
    console, driver = drive(virtio, f"pty:{link}")
    for _ in range(2):
        driver.write(b"nobody hears this")
        terminal = os.open(link, os.O_RDWR | os.O_NOCTTY)
        try:
            until(lambda: console.ports[0].connected, "somebody has it open")
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
            os.write(terminal, b"typed\r")
            assert driver.read(6) == b"typed\r"
            driver.write(b"echo\r\n")
            assert select.select([terminal], [], [], 10)[0]
            assert os.read(terminal, 100) == b"echo\r\n"
            until(lambda: console.ports[0].size == (132, 50), "the size")
        finally:
            os.close(terminal)
        until(lambda: not console.ports[0].connected, "it is closed")
    assert driver.read_configuration().cols == 132
    end_all(virtio)
    assert not link.is_symlink()


@pytest.fixture
def on_a_terminal(tmp_path: Path) -> Iterator[tuple[int, Path, int]]:
    """`vhost-user serve console` on a terminal of its own: master, socket, process id."""
    path = tmp_path / "s"
    process, master = pty.fork()
    if not process:
        os.execv(COMMAND, [str(COMMAND), "serve", "console", f"--socket-path={path}"])
    try:
        until(path.exists, "it serves")
        yield master, path, process
    finally:
        os.close(master)
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_stdio_is_a_raw_terminal_until_ctrl_right_bracket(on_a_terminal: tuple[int, Path, int]) -> None:
    master, path, process = on_a_terminal
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
    with ConsoleDriver(path) as driver:
        until(lambda: not termios.tcgetattr(master)[3] & termios.ECHO, "raw mode")
        os.write(master, b"ls\x03")  # Ctrl-C belongs to the guest
        assert driver.read(3) == b"ls\x03"
        until(lambda: driver.read_configuration().cols == 132, "the size of the terminal")
        driver.write(b"file.txt\r\n")
        said = b""
        while b"file.txt" not in said:
            assert select.select([master], [], [], 10)[0]
            said += os.read(master, 4096)
        os.write(master, b"\x1d")
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert termios.tcgetattr(master)[3] & termios.ECHO


def test_stdio_of_pipes_and_after_their_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [COMMAND, "serve", "console", f"--socket-path={path}"]
    with programs() as running:
        process = running.start(command, stdin=subprocess.PIPE)
        until(path.exists, "it serves")
        assert process.stdin is not None
        assert process.stdout is not None
        with ConsoleDriver(path) as driver:
            process.stdin.write("typed\n")
            process.stdin.close()
            assert driver.read(6) == b"typed\n"
            driver.write(b"the last word\n")
            while process.stdout.readline() != "the last word\n":
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_serial_line_by_a_device_and_by_a_url(virtio: Virtio) -> None:
    master, slave = os.openpty()
    try:
        _, driver = drive(virtio, f"serial:{os.ttyname(slave)},9600")
        os.write(master, b"from the line")
        assert driver.read(13) == b"from the line"
        driver.write(b"to the line")
        assert os.read(master, 100) == b"to the line"
    finally:
        os.close(slave)
    _, driver = drive(virtio, "serial:loop://")
    driver.write(b"round")
    assert driver.read(5) == b"round"
    end_all(virtio)
    os.close(master)


def test_a_missing_library_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'vhost-user\[serial\]'"):
        Console("serial:loop://")
    with pytest.raises(ValueError, match="nothing_of_the_kind cannot be imported"):
        library("nothing_of_the_kind", extra="x")


def test_the_library_is_loaded_when_it_is_used() -> None:
    program = (
        "import sys; from vhost_user.devices import Console; Console('null'); "
        "sys.exit(any(name in sys.modules for name in ('serial', 'vhost_user.devices.console_serial')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tcp-port=5000", "--end=null"], "--end and --tcp-port exclude each other"),
        (["--ports=log"], "--ports: 'log' is not NAME=END"),
        (["--ports=a=teletype"], "'teletype' is not the other end of a console. There are:"),
        (["--end=file:/nowhere/log"], "/nowhere/log"),
    ],
)
def test_options_that_make_no_sense(options: list[str], message: str, tmp_path: Path) -> None:
    done = run_program(
        [COMMAND, "serve", "console", f"--socket-path={tmp_path}/s", *options], stdin=subprocess.DEVNULL
    )
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("vhost-user: ")
    assert message in done.stderr
