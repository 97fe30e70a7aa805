"""The control socket: what it tells, and what its clients cannot do to it and to the device."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.descriptors import open_fds
from tests.support.front_end import until
from vhost_user import Device, Request
from vhost_user.backend.device import ControlCommand
from vhost_user.program.control import server as control
from vhost_user.program.control.commands import CommandFailed, Commands
from vhost_user.program.control.server import MAX_CLIENTS, MAX_LINE, ControlServer, control_listener
from vhost_user.program.control.standard import add_of_device, add_standard
from vhost_user.protocol.listener import connect_socket

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)


class Client:
    """Somebody at the control socket."""

    def __init__(self, path: Path) -> None:
        self.sock = connect_socket(path, timeout=20)
        self.sock.settimeout(20)
        self.received = b""

    def send(self, line: object) -> None:
        self.sock.sendall(json.dumps(line).encode() + b"\n")

    def line(self) -> Any:
        """The next reply; None when the connection ended."""
        while b"\n" not in self.received:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return json.loads(line)

    def ask(self, command: str, **arguments: object) -> Any:
        self.send({"command": command, "arguments": arguments})
        return self.line()

    def result(self, command: str, **arguments: object) -> Any:
        reply = self.ask(command, **arguments)
        assert reply["ok"], reply
        return reply["result"]


class Room:
    """A control socket in this process, and its clients."""

    def __init__(self, path: Path, commands: Commands, stack: contextlib.ExitStack, **options: Any) -> None:
        self.path = path
        self._stack = stack
        self.server = ControlServer(control_listener(str(path)), commands, "test", **options)
        stack.callback(self.server.close)
        self.server.start()

    def client(self) -> Client:
        client = Client(self.path)
        self._stack.callback(client.sock.close)
        return client


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Callable[..., Room]]:
    with contextlib.ExitStack() as stack:
        yield lambda commands=None, **options: Room(
            tmp_path / "control", commands or Commands(), stack, **options
        )


def standard(daemon: Any) -> Commands:
    commands = Commands()
    add_standard(commands, daemon, lambda: None)
    return commands


# What it tells


def test_the_life_of_a_session(stage: Stage, room: Callable[..., Room]) -> None:
    daemon = stage.daemon(Dice(), name="dice")
    client = room(standard(daemon)).client()
    assert client.result("session") is None
    assert client.result("features")["acknowledged"]["names"] == []
    front = stage.connect(daemon)
    front.bring_up()
    front.request(writable=8)
    status = client.result("status")
    assert status["connected"]
    assert status["sessions"] == 1
    assert status["rings"] == {"running": 1}
    assert status["name"] == "dice"
    assert status["pid"] == os.getpid()
    queue = client.result("queues", queue=0)[0]
    assert queue["state"] == "running"
    assert queue["size"] == 16
    assert queue["layout"] == "split"
    assert queue["kick"]
    assert queue["call"]
    until(lambda: client.result("queues")[0]["counters"]["requests"] == 1)
    session = client.result("session")
    assert session["number"] == 1
    assert session["memory"][0]["size"] == 1 << 20
    names = client.result("features")["acknowledged"]["names"]
    assert "VERSION_1" in names
    assert "RING_PACKED" not in names
    assert client.result("workers")[0]["queues"] == [0]
    assert client.result("counters").keys() == {"queue 0", "worker 0"}
    front.enable(on=False)
    assert client.result("queues")[0]["state"] == "disabled"
    front.stop_ring()
    assert client.result("status")["rings"] == {"stopped": 1}
    front.close()
    until(lambda: client.result("session") is None)
    assert client.result("status")["last_session_end"] == "the peer closed the connection"


def test_a_broken_ring_says_why(stage: Stage, room: Callable[..., Room]) -> None:
    daemon, front = stage.serve(Dice())
    client = room(standard(daemon)).client()
    front.bring_up()
    ring = front.rings[0]
    ring.set_avail_index(40000)  # V003
    ring.kick(force=True)
    until(lambda: client.result("queues")[0]["state"] == "broken")
    assert "V003" in client.result("queues")[0]["broken"]
    assert client.result("status")["rings"] == {"broken": 1}


def test_a_queue_that_there_is_not(stage: Stage, room: Callable[..., Room]) -> None:
    client = room(standard(stage.daemon(Dice()))).client()
    assert client.ask("queues", queue=3)["error"] == "there is no queue 3: there are 1, from 0 on"


def test_help_names_every_command_and_its_arguments(stage: Stage, room: Callable[..., Room]) -> None:
    known = room(standard(stage.daemon(Dice()))).client().result("help")
    assert known["queues"]["arguments"] == {"queue": {"kind": "a whole number", "required": False}}
    assert known.keys() >= {"help", "status", "queues", "workers", "counters", "features", "session", "stop"}
    assert all(command["summary"] for command in known.values())


# Commands of other parts


def test_a_command_of_another_part(room: Callable[..., Room]) -> None:
    commands = Commands()

    def fault(rate: float, *, queue: int = 0, kind: str = "error") -> dict[str, object]:
        return {"rate": rate, "queue": queue, "kind": kind}

    commands.add("fault", fault, "have requests fail")
    client = room(commands).client()
    assert client.result("fault", rate=0.5, kind="delay") == {"rate": 0.5, "queue": 0, "kind": "delay"}
    assert client.result("fault", rate=1)["rate"] == 1
    assert client.ask("fault")["error"] == "fault needs rate"
    assert client.ask("fault", rate="much")["error"] == "fault: rate is a number, not 'much'"
    assert client.ask("fault", rate=True)["error"] == "fault: rate is a number, not True"
    assert (
        client.ask("fault", rate=1, x=1)["error"] == "fault has no argument 'x'; it takes rate, queue, kind"
    )
    with pytest.raises(ValueError, match="already"):
        commands.add("fault", fault, "again")
    with pytest.raises(TypeError, match="cannot be given by name"):
        commands.add("odd", lambda *rest: rest, "takes what has no name")


def test_a_device_brings_commands_of_its_own_and_those_of_the_program_come_first() -> None:
    class Loaded(Dice):
        weight = 0

        def load(self, grams: int) -> int:
            if grams < 0:
                raise ValueError(f"{grams} grams are no weight")
            self.weight = grams
            return self.weight

        def control_commands(self) -> list[ControlCommand]:
            return [("load", self.load, "make it heavier"), ("status", self.load, "never seen")]

    device, commands = Loaded(), Commands()
    commands.add("status", lambda: "the program's", "status")
    add_of_device(commands, device)
    assert commands["load"].carry_out({"grams": 5}) == device.weight == 5
    assert commands["status"].carry_out({}) == "the program's"
    for arguments, problem in (
        ({"grams": -1}, "-1 grams are no weight"),
        ({"grams": "5"}, "grams is a whole number"),
        ({}, "load needs grams"),
    ):
        with pytest.raises(CommandFailed, match=problem):
            commands["load"].carry_out(arguments)
    add_of_device(commands, object())
    device.close()


def test_what_a_command_raises_is_an_answer(room: Callable[..., Room], caplog: Any) -> None:
    commands = Commands()

    def refuse() -> None:
        raise CommandFailed("not on a Sunday")

    commands.add("refuse", refuse, "refuses")
    commands.add("break", lambda: 1 // 0, "breaks")
    commands.add("odd", lambda: {1, 2}, "gives what JSON cannot say")
    commands.add("nan", lambda: float("nan"), "gives what JSON cannot say")
    client = room(commands).client()
    assert client.ask("refuse")["error"] == "not on a Sunday"
    assert not caplog.records
    assert client.ask("break")["error"].startswith("break failed: ZeroDivisionError")
    assert client.ask("odd")["error"].startswith("odd failed: TypeError")
    assert client.ask("nan")["error"].startswith("nan failed: ValueError")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert client.result("help")


def test_a_long_command_keeps_nobody_waiting(room: Callable[..., Room]) -> None:
    commands = Commands()
    begun, go_on = threading.Event(), threading.Event()

    def upgrade() -> str:
        begun.set()
        assert go_on.wait(20)
        return "done"

    commands.add("upgrade", upgrade, "takes long", long=True)
    place = room(commands)
    first, second = place.client(), place.client()
    first.send({"command": "upgrade", "id": 1})
    first.send({"command": "help", "id": 2})
    assert begun.wait(20)
    assert second.result("help")
    assert "another command is still being carried out" in second.ask("upgrade")["error"]
    go_on.set()
    assert first.line() == {"id": 1, "ok": True, "result": "done"}
    assert first.line()["id"] == 2
    assert second.result("upgrade") == "done"


def test_who_gave_a_long_command_may_go(room: Callable[..., Room]) -> None:
    commands = Commands()
    begun, go_on = threading.Event(), threading.Event()

    def upgrade() -> None:
        begun.set()
        assert go_on.wait(20)

    commands.add("upgrade", upgrade, "takes long", long=True)
    place = room(commands)
    first = place.client()
    first.send({"command": "upgrade"})
    assert begun.wait(20)
    first.sock.close()
    assert place.client().result("help")
    go_on.set()
    until(lambda: place.client().ask("upgrade")["ok"])


# What clients cannot do


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"status", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b'{"command": "help", "id": NaN}', "not JSON"),
        (b"9" * 6000, "not JSON"),
        (b"3", "name of a command"),
        (b'{"command": 3}', "name of a command"),
        (b'{"command": "help", "arguments": 3}', "arguments are an object"),
        (b'{"command": "help", "id": [[]]}', "an id is"),
        (b'{"command": "help", "id": true}', "an id is"),
        (b'{"command": "help", "x": 1}', "'x' means nothing here"),
        (b'{"command": "\\ud800"}', "there is no command"),
        (b'{"command": "help", "arguments": {"\\ud800": 1}}', "has no argument"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_line_that_means_nothing(room: Callable[..., Room], line: bytes, words: str) -> None:
    client = room().client()
    client.sock.sendall(line + b"\n")
    reply = client.line()
    assert not reply["ok"]
    assert words in reply["error"]
    assert client.result("help")


def test_lines_are_answered_in_order_and_ids_come_back(room: Callable[..., Room]) -> None:
    client = room().client()
    lines = [json.dumps({"command": "help", "id": number}) for number in range(50)]
    client.sock.sendall("\n".join([*lines, ""]).encode())
    assert [client.line()["id"] for _ in lines] == list(range(50))


def test_a_line_without_end(room: Callable[..., Room]) -> None:
    place = room()
    client = place.client()
    client.sock.sendall(b"x" * MAX_LINE)
    assert place.client().result("help")
    client.sock.sendall(b"x")
    assert "a line has at most" in client.line()["error"]
    assert client.line() is None
    longest = {"command": "help", "id": "x" * (MAX_LINE - 60)}
    other = place.client()
    other.send(longest)
    assert other.line()["id"] == longest["id"]


def test_many_clients_shut_nobody_out(room: Callable[..., Room]) -> None:
    place = room()
    silent = [place.client() for _ in range(3 * MAX_CLIENTS)]
    assert place.client().result("help")
    assert silent[0].line() is None, "who was silent longest made room"
    assert len(place.server._clients) <= MAX_CLIENTS


def test_who_does_not_read_is_not_read_from(room: Callable[..., Room]) -> None:
    commands = Commands()
    commands.add("much", lambda: "x" * 1_000_000, "a long answer")
    place = room(commands)
    greedy = place.client()
    greedy.sock.setblocking(False)
    line = b'{"command": "much"}\n' * 1000
    with contextlib.suppress(BlockingIOError):
        while True:
            greedy.sock.send(line)
    assert place.client().result("help")
    client = next(iter(place.server._clients.values()))
    assert len(client.output) < 2_000_000
    assert len(client.received) <= MAX_LINE + 1


def test_who_does_not_read_is_cut_off(
    room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(control, "READ_PATIENCE", 0.05)
    commands = Commands()
    commands.add("much", lambda: "x" * 5_000_000, "a long answer")
    place = room(commands)
    slow = place.client()
    slow.send({"command": "much"})
    until(lambda: "does not read its reply" in caplog.text)
    assert place.client().result("help")
    assert slow.line() is None


def test_others_may_not_use_it(room: Callable[..., Room], caplog: Any) -> None:
    place = room(users={os.geteuid() + 12345})
    assert place.client().line() is None
    assert f"user {os.geteuid()} may not use the control socket" in caplog.text


def test_its_file_is_its_owners(room: Callable[..., Room]) -> None:
    before = os.umask(0)
    try:
        place = room()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    place.server.close()
    assert not place.path.exists()


def test_descriptors_that_a_client_sends_are_closed(room: Callable[..., Room]) -> None:
    client = room().client()
    assert client.result("help")
    before = open_fds()
    with Path(os.devnull).open() as file:
        for _ in range(10):
            socket.send_fds(client.sock, [b'{"command": "help"}\n'], [file.fileno()] * 50)
            assert client.line()["ok"]
    assert open_fds() == before


def test_a_flood_takes_little_of_the_cpu(stage: Stage, room: Callable[..., Room]) -> None:
    """However much is asked, the thread rests most of the time, and the device answers meanwhile."""
    daemon, front = stage.serve(Dice())
    front.bring_up()
    place = room(standard(daemon))
    ended = threading.Event()
    flood = b'{"command": "queues"}\n' * 100

    def ask() -> None:
        client = place.client()
        client.sock.setblocking(False)
        while not ended.is_set():
            with contextlib.suppress(OSError):
                client.sock.send(flood)
            with contextlib.suppress(OSError):
                client.sock.recv(1 << 20)
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    ident = place.server._thread.ident
    assert ident is not None
    clock = time.pthread_getcpuclockid(ident)
    began, worked = time.monotonic(), time.clock_gettime(clock)
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            front.request(writable=8)
            time.sleep(0.002)
        assert place.client().result("status")["requests"] >= 200
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    took, worked = time.monotonic() - began, time.clock_gettime(clock) - worked
    assert worked < took / 8, f"{worked:.3f} s of {took:.3f} s"


def test_the_device_goes_on_when_the_socket_fails(
    room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(_self: object) -> None:
        raise RuntimeError("a mistake of ours")

    place = room()
    client = place.client()
    monkeypatch.setattr(ControlServer, "_welcome", broken)
    other = place.client()
    until(lambda: "the control socket has failed; the device goes on without it" in caplog.text)
    assert client.line() is None
    del other
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
