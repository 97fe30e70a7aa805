"""``vhost-user board``: the devices of a file as one board, with a page in the browser."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack

from vhost_user.backend.signals import stopped_by
from vhost_user.board.board import Board, BoardError, board_of
from vhost_user.board.serving import ServedBoard
from vhost_user.cli.failure import CommandError
from vhost_user.cli.user_device import load_module
from vhost_user.device_types.description import Version
from vhost_user.device_types.qemu_version import parse_version
from vhost_user.program.log import log_to_stderr
from vhost_user.program.serving import SWITCH_INTERVAL, say

DESCRIPTION = """\
Serve the devices of a file as one board, and a page in the browser that shows and moves them: LEDs, switches,
buttons, sliders, registers and terminals, live both ways.

The file makes devices at its top level. This is a whole board, lamp.py:

  from vhost_user.devices import Console, Gpio, Line

  pins = Gpio("lamp", Line("button", rest=1))
  terminal = Console()

Each device listens at a socket of its own, and the QEMU lines that plug all of them into a guest are printed.
So is the address of the page, with a token in it that is new each time: who knows it moves what the guest
reads. The page is for this machine only. A Board(...) in the file says what is shown (docs/board.md)."""

EPILOG = """\
examples:
  vhost-user board lamp.py                                 the page at any free port
  vhost-user board lamp.py --socket-dir=/tmp/lamp --port=8000
  vhost-user board lamp.py --socket-dir=/tmp/lamp --no-page    the devices only

The page needs aiohttp: pip install 'vhost-user[board]'. Ctrl-C ends the board."""


def board_parser() -> argparse.ArgumentParser:
    """The parser of ``vhost-user board``."""
    parser = argparse.ArgumentParser(
        prog="vhost-user board",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE.py", help="the file (or module) with the devices")
    parser.add_argument(
        "--socket-dir",
        metavar="DIR",
        help="where the sockets are made, NAME.sock for each device (default: a new folder, removed later)",
    )
    parser.add_argument("--port", type=int, default=0, help="port of the page (default 0: any that is free)")
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="where the page listens: 127.0.0.1 (the default), ::1, or another loopback address",
    )
    parser.add_argument("--no-page", action="store_true", help="serve the devices only")
    parser.add_argument(
        "--qemu-version",
        metavar="VERSION",
        help="print the lines for this QEMU, such as 7.2 (default: the one installed, else a current one)",
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="log connections, not only what goes wrong"
    )
    return parser


def run_board(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT: the exit status. Raises CommandError naming what is wrong."""
    parser = board_parser()
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 0xFFFF:
        parser.error(f"--port={arguments.port} is not between 0 and 65535")
    try:
        version = None if arguments.qemu_version is None else parse_version(arguments.qemu_version)
    except ValueError as error:
        parser.error(f"--qemu-version: {error}")
    log_to_stderr(verbose=arguments.verbose, trace=False)
    board = _board(arguments.file)
    end = threading.Event()
    with stopped_by((signal.SIGTERM, signal.SIGINT), end.set) as came, ExitStack() as stack:
        # The program is ours to tune, unlike a process that only uses the library.
        sys.setswitchinterval(SWITCH_INTERVAL)
        served = _served(board, arguments.socket_dir, stack)
        attach = _greeting(served, version)
        for line in attach:
            say(line)
        if not arguments.no_page:
            say(f"the page: {_page(board, arguments, attach, stack)}")
        while not came and served.failure is None:
            end.wait(1.0)
        if not came and served.failure is not None:
            name, reason = served.failure
            raise CommandError(f"{name}: {reason}")
    return 0


def _board(file: str) -> Board:
    try:
        return board_of(load_module(file))
    except BoardError as error:
        raise CommandError(f"{file}: {error}") from error


def _served(board: Board, folder: str | None, stack: ExitStack) -> ServedBoard:
    if folder is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vhost-user-board-"))
    try:
        return stack.enter_context(ServedBoard(board, folder))
    except (TypeError, ValueError) as error:
        raise CommandError(f"the board cannot be served: {error}") from error


def _page(board: Board, arguments: argparse.Namespace, attach: list[str], stack: ExitStack) -> str:
    from vhost_user.board.server import PageServer  # noqa: PLC0415  # not with --no-page

    try:
        server = PageServer(board, address=arguments.address, port=arguments.port, attach="\n".join(attach))
    except OSError as error:
        raise CommandError(
            f"the page cannot have port {arguments.port} of {arguments.address}: {error.strerror}; "
            "--port=0 takes any that is free"
        ) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    return stack.enter_context(server).url


def _greeting(served: ServedBoard, version: Version | None) -> list[str]:
    lines, missing = served.guest_lines(version=version)
    greeting = [f"{name}: listening on {path}" for name, path in served.sockets.items()]
    if len(lines) > 1:
        greeting.append("for the guest, add these lines to QEMU's:\n  " + " \\\n  ".join(lines))
    greeting += [f"{name}: for the guest there is no QEMU line: {reason}" for name, reason in missing.items()]
    return greeting
