"""The socket of commands: one thread, bounded in every direction, and never in the way of the device.

What a client can do to it is limited: a line has at most `MAX_LINE` bytes, there are at most
`MAX_CLIENTS` at a time (the one that has been silent longest makes room for the next), a client has one
command and one reply at a time and is not read from meanwhile, and one that does not take its reply is cut
off. The thread is at work for a small part of the time only, however much is asked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from vhost_user.backend.wakeup import WakeUp
from vhost_user.program.control.commands import Command, CommandFailed, Commands
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.listener import Listener, from_fd

log = logging.getLogger("vhost_user.program")

MAX_LINE = 16384
"""Bytes of a line that a client sends."""
MAX_CLIENTS = 8
"""Clients at a time."""
READ_PATIENCE = 10.0
"""Seconds that a client may leave its reply unread."""
REST = 19
MAX_REST = 1.0
"""Times as long as it worked the thread rests, and seconds at most: it takes a twentieth of a CPU."""
END_PATIENCE = 2.0
"""Seconds that closing waits for a command."""
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True, eq=False)
class _Client:
    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    output: memoryview = field(default_factory=lambda: memoryview(b""))
    """What is left of the reply; nothing is read before it has gone."""
    at_work: bool = False
    """A long command of this client is being carried out."""
    last: bool = False
    """It is cut off after this reply."""
    since: float = field(default_factory=time.monotonic)
    """When it last sent or took something."""

    @property
    def has_line(self) -> bool:
        """A line waits to be answered, and may be."""
        return not self.output and not self.at_work and not self.last and b"\n" in self.received

    def say(self, reply: bytes) -> None:
        """Have this sent."""
        self.output = memoryview(reply)
        self.since = time.monotonic()


class ControlServer:
    """Serves `commands` at `listener`, which it owns, until ``close``.

    ``users`` are the ids of those who may use it: by default the one that the process runs as, and root.
    """

    def __init__(
        self, listener: Listener, commands: Commands, name: str, *, users: Collection[int] | None = None
    ) -> None:
        self._listener = listener
        self._commands = commands
        self._name = name
        self._users = {0, os.geteuid()} if users is None else set(users)
        self._wake = WakeUp()
        self._clients: dict[int, _Client] = {}
        self._report = LimitedLog(log)
        self._long: tuple[_Client, threading.Thread] | None = None
        self._long_reply: bytes | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name}-commands", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def listener(self) -> Listener:
        """Where it listens; the server's to close."""
        return self._listener

    def finish(self) -> None:
        """Let the command that is being carried out end, and its reply be sent; for a moment at most."""
        until = time.monotonic() + END_PATIENCE
        while time.monotonic() < until and (
            self._long is not None or any(client.output for client in list(self._clients.values()))
        ):
            time.sleep(0.01)

    def close(self) -> None:
        """Cut everybody off and remove the socket. A command that does not end is left alone."""
        self._wake.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(END_PATIENCE)
        busy = self._thread.is_alive()
        if self._long is not None:
            self._long[1].join(END_PATIENCE)
            busy = busy or self._long[1].is_alive()
        self._listener.close()
        if not busy and self._wake.fileno() >= 0:
            self._wake.close()

    # In its thread

    def _run(self) -> None:
        try:
            while not self._wake.stopping:
                began = time.thread_time()
                self._turn()
                # Until then, or until a long command is done.
                self._wake.sleep(min(REST * (time.thread_time() - began), MAX_REST))
        except Exception:
            log.exception("%s: the control socket has failed; the device goes on without it", self._name)
            self._listener.close()  # rather than to leave everybody waiting
        finally:
            for client in list(self._clients.values()):
                self._drop(client)

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        poll = select.poll()
        poll.register(self._wake.fileno(), select.POLLIN)
        poll.register(self._listener.fileno(), select.POLLIN)
        deadline = None
        for fd, client in self._clients.items():
            if client.has_line:
                deadline = 0.0
            elif client.output:
                poll.register(fd, select.POLLOUT)
                due = client.since + READ_PATIENCE
                deadline = due if deadline is None else min(deadline, due)
            else:
                poll.register(fd, 0 if client.at_work else select.POLLIN)
        ready = dict(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))
        if self._wake.fileno() in ready:
            self._wake.clear()
        self._finish_long()
        for fd, client in list(self._clients.items()):
            if fd in ready or client.has_line:
                self._serve(client)
            elif client.output and time.monotonic() - client.since >= READ_PATIENCE:
                self._report.warning("%s: a client of the control socket does not read its reply", self._name)
                self._drop(client)
        if self._listener.fileno() in ready and not self._listener.is_left:
            for _ in range(MAX_CLIENTS):
                if not self._welcome():
                    break

    def _welcome(self) -> bool:
        """Let the next one in; False when nobody waits."""
        try:
            sock = self._listener.accept_waiting()
        except OSError as error:
            self._report.warning("%s: nobody can be accepted at the control socket: %s", self._name, error)
            self._wake.sleep(1.0)
            return False
        if sock is None:
            return False
        _, user, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user not in self._users:
            self._report.warning("%s: user %d may not use the control socket", self._name, user)
            sock.close()
            return True
        if len(self._clients) >= MAX_CLIENTS:
            idle = [client for client in self._clients.values() if not client.at_work]
            self._drop(min(idle, key=lambda client: client.since))
        sock.setblocking(False)
        self._clients[sock.fileno()] = _Client(sock)
        return True

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def _serve(self, client: _Client) -> None:
        """Do one thing for a client: send, read, or answer one line. Others have their turn after it."""
        try:
            if client.at_work:  # it hung up
                self._drop(client)
            elif client.output:
                self._send(client)
            elif client.has_line or self._receive(client):
                line, _, client.received = client.received.partition(b"\n")
                self._answer(client, bytes(line))
                self._send(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> bool:
        """Read what is there; tells whether a line is complete."""
        # Without room for ancillary data: descriptors that a client sends are closed by the kernel.
        data = client.sock.recv(MAX_LINE + 1 - len(client.received))
        if not data:
            self._drop(client)
            return False
        client.since = time.monotonic()
        client.received += data
        if b"\n" not in client.received and len(client.received) > MAX_LINE:
            client.last = True
            client.say(_encoded(_failure(None, f"a line has at most {MAX_LINE} bytes")))
            self._send(client)
        return client.has_line

    def _send(self, client: _Client) -> None:
        while client.output:
            sent = client.sock.send(client.output, socket.MSG_NOSIGNAL)
            client.output = client.output[sent:]
            client.since = time.monotonic()
        if client.last:
            self._drop(client)

    def _answer(self, client: _Client, line: bytes) -> None:
        identifier: str | int | None = None
        try:
            asked = _parsed(line)
            identifier = asked.identifier
            command = self._commands[asked.command]
            if command.long:
                self._begin_long(client, command, asked)
            else:
                client.say(self._carried_out(command, asked))
        except CommandFailed as error:
            client.say(_encoded(_failure(identifier, str(error))))

    def _carried_out(self, command: Command, asked: _Asked) -> bytes:
        try:
            result = command.carry_out(asked.arguments)
            return _encoded({"id": asked.identifier, "ok": True, "result": result})
        except CommandFailed as error:
            return _encoded(_failure(asked.identifier, str(error)))
        except Exception as error:  # noqa: BLE001  # the device goes on, and whoever asked hears why
            self._report.log(
                logging.ERROR, "%s: command %s failed", self._name, command.name, exception=error
            )
            text = f"{command.name} failed: {type(error).__name__}: {error}"
            return _encoded(_failure(asked.identifier, text))

    # Long commands

    def _begin_long(self, client: _Client, command: Command, asked: _Asked) -> None:
        if self._long is not None:
            raise CommandFailed(
                f"{command.name}: another command is still being carried out; try again later"
            )

        def work() -> None:
            self._long_reply = self._carried_out(command, asked)
            self._wake.nudge()

        thread = threading.Thread(target=work, name=f"{self._name}-{command.name}", daemon=True)
        client.at_work = True
        self._long = (client, thread)
        thread.start()

    def _finish_long(self) -> None:
        if self._long is None or self._long_reply is None:
            return
        (client, thread), reply = self._long, self._long_reply
        self._long = self._long_reply = None
        thread.join()
        client.at_work = False
        if client.sock.fileno() >= 0:
            client.say(reply)
            self._serve(client)


@dataclass(frozen=True, slots=True)
class _Asked:
    command: str
    arguments: dict[str, Any]
    identifier: str | int | None


def _parsed(line: bytes) -> _Asked:
    """The command in a line: an object with ``command``, and maybe ``arguments`` and ``id``."""
    try:
        asked = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"the line is not JSON: {error}") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("command"), str):
        raise CommandFailed('a line is an object with the name of a command, such as {"command": "status"}')
    arguments, identifier = asked.get("arguments", {}), asked.get("id")
    if not isinstance(arguments, dict):
        raise CommandFailed("arguments are an object of names and values")
    if identifier is not None and (isinstance(identifier, bool) or not isinstance(identifier, (int, str))):
        raise CommandFailed("an id is a string or a whole number")
    if unknown := sorted(asked.keys() - {"command", "arguments", "id"}):
        raise CommandFailed(f"{', '.join(map(repr, unknown))} means nothing here")
    return _Asked(asked["command"], arguments, identifier)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _failure(identifier: object, text: str) -> dict[str, Any]:
    return {"id": identifier, "ok": False, "error": text}


def _encoded(reply: dict[str, Any]) -> bytes:
    # Piece by piece: the encoder in C would keep the GIL for as long as a large reply takes.
    return "".join(json.JSONEncoder(allow_nan=False).iterencode(reply)).encode() + b"\n"


def control_listener(place: str | int) -> Listener:
    """A socket for commands at a path, which its owner alone may connect to; or one that is open already.

    Raises SocketError as ``Listener.bind`` and ``from_fd`` do.
    """
    if isinstance(place, str):
        return Listener.bind(place, mode=0o600, backlog=MAX_CLIENTS)
    listener = from_fd(place)
    if isinstance(listener, Listener):
        return listener
    listener.close()
    raise SocketError(errno.EINVAL, f"file descriptor {place}, the control socket, does not listen")


def serve_commands(place: str | int, commands: Commands, name: str) -> contextlib.closing[ControlServer]:
    """A server at a path or descriptor that is not started yet; leaving the block closes it."""
    return contextlib.closing(ControlServer(control_listener(place), commands, name))
