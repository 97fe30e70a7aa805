"""What clients of the control socket cannot do to it and to the device."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.control import Dice, MakeRoom, standard
from tests.support.descriptors import open_fds
from tests.support.front_end import until
from vhost_user.program.control import server as control
from vhost_user.program.control.commands import Commands
from vhost_user.program.control.server import MAX_CLIENTS, MAX_LINE, ControlServer

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


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
def test_a_line_that_means_nothing(control_room: MakeRoom, line: bytes, words: str) -> None:
    client = control_room().client()
    client.sock.sendall(line + b"\n")
    reply = client.line()
    assert not reply["ok"]
    assert words in reply["error"]
    assert client.result("help")


def test_lines_are_answered_in_order_and_ids_come_back(control_room: MakeRoom) -> None:
    client = control_room().client()
    lines = [json.dumps({"command": "help", "id": number}) for number in range(50)]
    client.sock.sendall("\n".join([*lines, ""]).encode())
    assert [client.line()["id"] for _ in lines] == list(range(50))


def test_a_line_without_end(control_room: MakeRoom) -> None:
    place = control_room()
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


def test_many_clients_shut_nobody_out(control_room: MakeRoom) -> None:
    place = control_room()
    silent = [place.client() for _ in range(3 * MAX_CLIENTS)]
    assert place.client().result("help")
    assert silent[0].line() is None, "who was silent longest made room"
    assert len(place.server._clients) <= MAX_CLIENTS


def test_who_does_not_read_is_not_read_from(control_room: MakeRoom) -> None:
    commands = Commands()
    commands.add("much", lambda: "x" * 1_000_000, "a long answer")
    place = control_room(commands)
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
    control_room: MakeRoom, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(control, "READ_PATIENCE", 0.05)
    commands = Commands()
    commands.add("much", lambda: "x" * 5_000_000, "a long answer")
    place = control_room(commands)
    slow = place.client()
    slow.send({"command": "much"})
    until(lambda: "does not read its reply" in caplog.text)
    assert place.client().result("help")
    assert slow.line() is None


def test_others_may_not_use_it(control_room: MakeRoom, caplog: Any) -> None:
    place = control_room(users={os.geteuid() + 12345})
    assert place.client().line() is None
    assert f"user {os.geteuid()} may not use the control socket" in caplog.text


def test_its_file_is_its_owners(control_room: MakeRoom) -> None:
    before = os.umask(0)
    try:
        place = control_room()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    place.server.close()
    assert not place.path.exists()


def test_descriptors_that_a_client_sends_are_closed(control_room: MakeRoom) -> None:
    client = control_room().client()
    assert client.result("help")
    before = open_fds()
    with Path(os.devnull).open() as file:
        for _ in range(10):
            socket.send_fds(client.sock, [b'{"command": "help"}\n'], [file.fileno()] * 50)
            assert client.line()["ok"]
    assert open_fds() == before


def test_a_flood_takes_little_of_the_cpu(stage: Stage, control_room: MakeRoom) -> None:
    """However much is asked, the thread rests most of the time, and the device answers meanwhile."""
    daemon, front = stage.serve(Dice())
    front.bring_up()
    place = control_room(standard(daemon))
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
    control_room: MakeRoom, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(_self: object) -> None:
        raise RuntimeError("a mistake of ours")

    place = control_room()
    client = place.client()
    monkeypatch.setattr(ControlServer, "_welcome", broken)
    other = place.client()
    until(lambda: "the control socket has failed; the device goes on without it" in caplog.text)
    assert client.line() is None
    del other
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
