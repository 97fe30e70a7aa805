"""Sockets that a service manager opened (LISTEN_FDS), and what it is told (NOTIFY_SOCKET)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.front_end import until
from tests.support.programs import programs
from vhost_user.frontend import RngDriver
from vhost_user.program.activation import activated
from vhost_user.program.errors import ServeError
from vhost_user.program.notification import Notifier
from vhost_user.protocol.listener import connect_socket

PROGRAM = """
from vhost_user import Device, Request, serve

class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)

    def refresh(self) -> None:
        pass

serve(Dice())
"""
AS_SYSTEMD_DOES = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""LISTEN_PID is known to the process alone that becomes the program."""

Begin = Callable[..., "subprocess.Popen[str]"]


class Manager:
    """The notify socket of a service manager."""

    def __init__(self, path: str) -> None:
        self.address = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path[1:] if path.startswith("@") else path)
        self.sock.settimeout(20)
        self.told: list[dict[str, str]] = []

    def wait(self, name: str, value: str | None = None) -> dict[str, str]:
        """The next message that has this."""
        while True:
            lines = self.sock.recv(4096).decode().split("\n")
            self.told.append(message := dict(line.split("=", 1) for line in lines))
            if name in message and (value is None or value in message[name]):
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.sock.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "dice.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def begin(program: Path) -> Iterator[Begin]:
    """Starts the program with these sockets, as systemd would."""
    with programs() as running:

        def start(
            *arguments: object, sockets: Sequence[tuple[str, socket.socket]] = (), **environment: str
        ) -> subprocess.Popen[str]:
            names = ":".join(name for name, _ in sockets)
            variables = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names} if sockets else {}
            # Descriptors 3, 4 … must be these: the others are out of the way, above.
            high = [
                os.dup2(sock.fileno(), 40 + place, inheritable=True)
                for place, (_, sock) in enumerate(sockets)
            ]

            def place() -> None:
                for number, fd in enumerate(high):
                    os.dup2(fd, 3 + number)
                    os.close(fd)

            process = running.python(
                *(("-c", AS_SYSTEMD_DOES) if sockets else ()), program, *arguments,
                close_fds=False, preexec_fn=place, env={**os.environ, **variables, **environment},
            )  # fmt: skip
            for fd in high:
                os.close(fd)
            return process

        yield start


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(4)
    return sock


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def throws(path: Path) -> bytes:
    with RngDriver(str(path)) as rng:
        return rng.read(4)


# Activation


def test_a_socket_that_was_opened_before(begin: Begin, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path) as sock:
        process = begin(sockets=[("dice.socket", sock)])
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on file descriptor 3 ({path})\n"
        assert throws(path) == bytes([6]) * 4
        process.terminate()
        assert ended(process) == (0, "")
        assert path.exists(), "the socket is the manager's"
        # The next front-end waits in the manager's socket for the next process.
        waiting = connect_socket(path)
        process = begin(sockets=[("dice.socket", sock)])
        waiting.close()
        assert throws(path) == bytes([6]) * 4


def test_a_front_end_that_came_before_the_program(begin: Begin, tmp_path: Path) -> None:
    """It connects to the manager's socket, and speaks before anybody listens."""
    import threading

    got: list[bytes] = []
    with listening(tmp_path / "s") as sock:
        thread = threading.Thread(target=lambda: got.append(throws(tmp_path / "s")))
        thread.start()
        time.sleep(0.05)
        begin(sockets=[("s", sock)])
        thread.join(30)
    assert got == [bytes([6]) * 4]


def test_an_accepted_connection(begin: Begin) -> None:
    """A socket unit with Accept=yes."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = begin(sockets=[("connection", theirs)])
    with RngDriver(ours) as rng:
        assert rng.read(4) == bytes([6]) * 4
    assert ended(process) == (0, "")


def test_a_control_socket_by_its_name(begin: Begin, tmp_path: Path) -> None:
    with listening(tmp_path / "c") as control, listening(tmp_path / "s") as device:
        begin(sockets=[("control", control), ("device", device)])
        assert throws(tmp_path / "s") == bytes([6]) * 4
        with connect_socket(tmp_path / "c") as sock:
            sock.sendall(b'{"command": "status"}\n')
            assert json.loads(sock.recv(65536))["result"]["sessions"] == 1


def test_a_control_socket_alone_goes_with_a_path(begin: Begin, tmp_path: Path) -> None:
    with listening(tmp_path / "c") as control:
        process = begin(f"--socket-path={tmp_path / 's'}", sockets=[("control", control)])
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on {tmp_path / 's'}\n"
        with connect_socket(tmp_path / "c") as sock:
            sock.sendall(b'{"command": "help"}\n')
            assert json.loads(sock.recv(65536))["ok"]


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (["a"], ["--socket-path=x"], "a socket is handed over (LISTEN_FDS), and --socket-path is given"),
        (["a", "b"], [], "2 sockets are handed over (a, b): a device has one"),
        (["control", "control"], [], "2 sockets are handed over (control, control)"),
        (["control"], [], "nowhere to serve: give exactly one of"),
        (["a", "control"], ["--control=x"], "a control socket is handed over (LISTEN_FDS), and --control"),
    ],
)
def test_sockets_that_do_not_fit(
    begin: Begin, tmp_path: Path, names: list[str], arguments: list[str], words: str
) -> None:
    with listening(tmp_path / "1") as first, listening(tmp_path / "2") as second:
        sockets = list(zip(names, (first, second), strict=False))
        status, errors = ended(begin(*arguments, sockets=sockets))
    assert status == 2
    assert words in errors


def test_a_control_socket_that_is_connected(begin: Begin, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, listening(tmp_path / "s") as device:
        status, errors = ended(begin(sockets=[("device", device), ("control", theirs)]))
    assert status == 1
    assert "the control socket, does not listen" in errors


def test_sockets_for_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "A": "b"}
    assert activated(environment) == activated({})
    assert environment == {"A": "b"}, "children are not to find them"


@pytest.mark.parametrize("number", ["", "x", "-1", "65", "99999999999"])
def test_a_number_of_sockets_that_makes_no_sense(number: str) -> None:
    with pytest.raises(ServeError, match="LISTEN_FDS="):
        activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number})


# Notification


def test_what_the_manager_is_told(begin: Begin, manager: Manager, tmp_path: Path) -> None:
    path = tmp_path / "s"
    process = begin(f"--socket-path={path}", NOTIFY_SOCKET=manager.address)
    ready = manager.wait("READY")
    assert ready == {"READY": "1", "STATUS": "waiting for a front-end", "MAINPID": str(process.pid)}
    assert throws(path) == bytes([6]) * 4  # ready means that
    with RngDriver(str(path)):
        manager.wait("STATUS", "serving front-end 2")
    manager.wait("STATUS", "waiting for front-end 3; the last went: the peer closed the connection")
    process.terminate()
    assert manager.wait("STOPPING") == {"STOPPING": "1", "STATUS": "ending"}
    assert ended(process) == (0, "")


def test_who_cannot_serve_never_says_that_it_is_ready(begin: Begin, manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("in the way")
    process = begin(f"--socket-path={tmp_path / 's'}", NOTIFY_SOCKET=manager.address)
    assert ended(process)[0] == 1
    manager.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.wait("READY")


def test_an_abstract_address(begin: Begin, tmp_path: Path) -> None:
    manager = Manager(f"@vhost-user-test-{os.getpid()}")
    with manager.sock:
        begin(f"--socket-path={tmp_path / 's'}", NOTIFY_SOCKET=manager.address)
        manager.wait("READY")


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "vsock:2:1", "relative"])
def test_a_manager_that_does_not_listen(begin: Begin, tmp_path: Path, address: str) -> None:
    process = begin(f"--socket-path={tmp_path / 's'}", NOTIFY_SOCKET=address)
    assert process.stdout is not None
    process.stdout.readline()
    assert throws(tmp_path / "s") == bytes([6]) * 4
    process.terminate()
    assert ended(process)[0] == 0


def test_a_manager_that_does_not_read_holds_up_nobody(manager: Manager) -> None:
    ours = Notifier(manager.address)
    for number in range(10_000):
        ours.status(f"status {number}")
    ours.close()


def test_a_status_is_one_line(manager: Manager) -> None:
    ours = Notifier(manager.address)
    ours.status("a guest's\nMAINPID=1")
    ours.status("a guest's\nMAINPID=1")
    ours.tell(READY="1")
    ours.close()
    assert manager.wait("READY") == {"READY": "1"}
    assert manager.told == [{"STATUS": "a guest's"}, {"READY": "1"}]


# systemd's own tools


def test_systemd_socket_activate(program: Path, manager: Manager, tmp_path: Path) -> None:
    """systemd's own implementation of the other side, with a manager's notify socket."""
    tool = shutil.which("systemd-socket-activate")
    assert tool is not None, "tools/bootstrap brings it"
    places = [tmp_path / "s", tmp_path / "c"]
    command = [tool, "-E", "NOTIFY_SOCKET", "--fdname=device:control"]
    command += [word for place in places for word in ("-l", str(place))]
    with programs() as running:
        process = running.start(
            [*command, sys.executable, program], env={**os.environ, "NOTIFY_SOCKET": manager.address}
        )
        until(lambda: all(place.exists() for place in places), timeout=20)
        # It is started by the connection.
        assert throws(places[0]) == bytes([6]) * 4
        ready = manager.wait("READY")
        assert ready["MAINPID"] == str(process.pid), "it becomes the program"
        with connect_socket(places[1]) as sock:
            sock.sendall(b'{"command": "stop"}\n')
            assert json.loads(sock.recv(65536))["ok"]
        manager.wait("STOPPING")
        assert process.wait(20) == 0


def test_sighup_after_activation(begin: Begin, manager: Manager, tmp_path: Path) -> None:
    """ExecReload= of the units."""
    with listening(tmp_path / "s") as sock:
        process = begin(sockets=[("s", sock)], NOTIFY_SOCKET=manager.address)
        manager.wait("READY")
        process.send_signal(signal.SIGHUP)
        assert throws(tmp_path / "s") == bytes([6]) * 4
        process.terminate()
        assert ended(process)[0] == 0
