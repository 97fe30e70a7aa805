"""``vhost-user control``: gives a command to a served device, and shows what it answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
from collections.abc import Sequence
from typing import Any

from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import connect_socket

MAX_REPLY = 64 << 20
"""Bytes; what is longer is not from one of us."""

_DESCRIPTION = """\
Give a command to a device that is served with --control=PATH, and show its answer as JSON.
Without a command: list those that it has.

Arguments are NAME=VALUE; a value is JSON (3, true, "3"), or else taken as text.
"""
_EXAMPLES = """\
examples:
  vhost-user serve blk --socket-path=/tmp/disk.sock --blk-file=disk.img --control=/tmp/disk.control
  vhost-user control /tmp/disk.control                    (the commands there are)
  vhost-user control /tmp/disk.control status
  vhost-user control /tmp/disk.control queues queue=0
  vhost-user control /tmp/disk.control counters --compact | jq .result

exit status: 0 done, 1 refused or nobody there, 2 wrong usage
"""
_HINT = ": is it a control socket, and is the device served by you?"


def control_parser() -> argparse.ArgumentParser:
    """What ``vhost-user control`` takes."""
    parser = argparse.ArgumentParser(
        prog="vhost-user control",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="PATH", help="the control socket")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="what to do")
    parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*", help="arguments of the command")
    parser.add_argument("--compact", action="store_true", help="the whole reply in one line, as it came")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="wait so long for the reply (60)"
    )
    return parser


def run_control(argv: Sequence[str]) -> int:
    """``vhost-user control``: the exit status."""
    given = control_parser().parse_args(argv)
    if given.timeout <= 0:
        raise UsageError(f"--timeout={given.timeout:g} is not more than 0 seconds")
    reply, line = _ask(given.path, given.command or "help", _arguments(given.arguments), given.timeout)
    if given.compact:
        print(line)
    elif not reply["ok"]:
        print(f"vhost-user control: {reply['error']}", file=sys.stderr)
    elif given.command is None:
        _list(reply["result"])
    else:
        print(json.dumps(reply["result"], indent=2))
    return 0 if reply["ok"] else 1


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"{pair!r} is not NAME=VALUE")
        arguments[name] = text
        with contextlib.suppress(ValueError):
            arguments[name] = json.loads(text)
    return arguments


def _ask(path: str, command: str, arguments: dict[str, Any], timeout: float) -> tuple[dict[str, Any], str]:
    """The reply, and the line that it came in."""
    asked = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
    try:
        with connect_socket(path, timeout=timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(asked)
            line = _line(sock, path)
    except SocketError as error:
        raise CommandError(
            f"{error}; a device is served with a control socket by --control={path}"
        ) from error
    except TimeoutError:
        raise CommandError(f"{path}: no reply in {timeout:g} s (--timeout)") from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}{_HINT}") from error
    try:
        reply = json.loads(line)
        known = isinstance(reply, dict) and isinstance(reply["ok"], bool)
        known = known and ("result" if reply["ok"] else "error") in reply
    except (ValueError, KeyError):
        known = False
    if not known:
        raise CommandError(f"{path}: whoever listens there does not answer as a control socket does")
    return reply, line


def _line(sock: socket.socket, path: str) -> str:
    received = bytearray()
    while not received.endswith(b"\n"):
        data = sock.recv(65536)
        if not data:
            raise CommandError(f"{path}: the connection ended without a reply{_HINT}")
        received += data
        if len(received) > MAX_REPLY:
            raise CommandError(f"{path}: the reply has more than {MAX_REPLY} bytes")
    return received.decode(errors="replace").rstrip("\n")


def _list(commands: dict[str, Any]) -> None:
    for name, command in commands.items():
        words = [
            argument if details["required"] else f"[{argument}]"
            for argument, details in command["arguments"].items()
        ]
        print(f"  {' '.join([name, *words]):26}{command['summary']}")
