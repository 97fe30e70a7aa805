"""A control socket in this process, and somebody at it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vhost_user import Device, Request
from vhost_user.program.control.commands import Commands
from vhost_user.program.control.server import ControlServer, control_listener
from vhost_user.program.control.standard import add_standard
from vhost_user.protocol.listener import connect_socket


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


class ControlRoom:
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


MakeRoom = Callable[..., ControlRoom]


def standard(daemon: Any) -> Commands:
    """The commands that every program has."""
    commands = Commands()
    add_standard(commands, daemon, lambda: None)
    return commands
