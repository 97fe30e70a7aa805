"""The words for the other ends of a console: ``stdio``, ``pty``, ``tcp:HOST:PORT`` and so on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from vhost_user.devices.console_ends import End, FileEnd, ListenEnd, StreamEnd, Streams
from vhost_user.devices.unix_listener import unix_listener

_log = logging.getLogger(__name__)

SessionFunction: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]"
WORDS = """\
stdio              the terminal or the pipes of this program; Ctrl-] ends it
pty[:LINK]         a new pseudo-terminal, with a symbolic link to it
tcp:HOST:PORT      connect there, again and again
tcp-listen:[HOST:]PORT, unix-listen:PATH    wait there for one client after the other
unix:PATH          connect to a Unix socket, again and again
file:PATH          append what the guest writes to a file
serial:URL         a serial line, or any URL of pyserial (extra: serial)
null               nobody"""


def _talk(function: SessionFunction) -> StreamEnd:
    """An end that is an async function: a socket pair has real streams at both of its ends."""

    async def connect() -> Streams:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)

        async def session() -> None:
            try:
                await function(reader, writer)
            finally:
                writer.close()

        sessions.append(asyncio.get_running_loop().create_task(session(), name=repr(function)))
        sessions[-1].add_done_callback(_report_failure)
        return await asyncio.open_connection(sock=ours)

    sessions: list[asyncio.Task[None]] = []  # the loop itself keeps no hold of a task
    return StreamEnd(connect, again=None)


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the session of a console, %s, failed: %s", task.get_name(), error, exc_info=error)


def _tcp(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError(f"{text!r} is not HOST:PORT, such as localhost:5000")
    return host.strip("[]"), int(port)


def _connect_tcp(text: str) -> End:
    host, port = _tcp(text)
    return StreamEnd(lambda: asyncio.open_connection(host or "localhost", port))


def _listen_tcp(text: str) -> End:
    host, port = _tcp(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return ListenEnd(lambda: socket.create_server((host or "127.0.0.1", port), family=family))


def _listen_unix(path: str) -> End:
    return ListenEnd(lambda: unix_listener(path), path=path)


def _terminal(kind: str) -> Callable[[str], End]:
    def make(text: str) -> End:
        from vhost_user.devices import console_terminals  # noqa: PLC0415  # most consoles have none

        made: End = getattr(console_terminals, kind)(*([text] if text else []))
        return made

    return make


def _serial(url: str) -> End:
    from vhost_user.devices.console_serial import SerialEnd  # noqa: PLC0415  # it needs a library

    return SerialEnd(url)


_MAKERS: dict[str, Callable[[str], End]] = {
    "stdio": _terminal("StdioEnd"),
    "pty": _terminal("PtyEnd"),
    "tcp": _connect_tcp,
    "tcp-listen": _listen_tcp,
    "unix": lambda path: StreamEnd(lambda: asyncio.open_unix_connection(path)),
    "unix-listen": _listen_unix,
    "file": FileEnd,
    "serial": _serial,
    "null": lambda _text: End(),
}
_ALONE = {"stdio", "pty", "null"}
"""Those that need nothing after a colon."""


def end_of(given: End | str | SessionFunction) -> End:
    """The end that is meant: an ``End``, a word, or an async function of a reader and a writer.

    Raises ValueError for a word that is none, and what making the end raises.
    """
    if isinstance(given, End):
        return given
    if not isinstance(given, str):
        return _talk(given)
    word, _, rest = given.partition(":")
    if word not in _MAKERS or not (rest or word in _ALONE):
        raise ValueError(f"{given!r} is not the other end of a console. There are:\n{WORDS}")
    return _MAKERS[word](rest)
