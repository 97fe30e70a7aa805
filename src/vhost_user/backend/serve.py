"""``serve``: a program around a device, by the back-end program conventions (C140 to C146)."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.device import Device
from vhost_user.backend.qemu import capability_type, qemu_lines
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import Listener, from_fd
from vhost_user.protocol.transport import Connection

DESCRIPTION = """\
Serve this virtio device over vhost-user. A VMM (QEMU, cloud-hypervisor, crosvm …) connects to the socket and
plugs the device into its guest; the guest's memory must be shared. SIGTERM and SIGINT end the program.
"""
EPILOG = """\
examples:
  %(prog)s --socket-path=/tmp/device.sock    listen; prints the QEMU lines to paste
  %(prog)s --connect=/tmp/vmm.sock           connect to a VMM that listens
  %(prog)s --fd=3                            use a socket that the parent process opened
"""


LARGEST_POLL = 1_000_000
"""Microseconds: more than a second is not polling before sleeping but never sleeping."""
SWITCH_INTERVAL = 50e-6
"""Seconds after which a busy Python thread gives way.

With the 5 ms of the interpreter's own choice a device's thread that computes delays every wake-up of a worker
by as much.
"""


class ServeError(Exception):
    """The device cannot be served as asked; the text is for the person who asked."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where to serve. Exactly one of ``socket_path``, ``fd`` and ``connect`` is set."""

    socket_path: str | None = None
    """Listen at this path (C140)."""
    fd: int | None = None
    """Use this open socket, listening or connected (C140)."""
    connect: str | None = None
    """Connect to this path (C136)."""
    reconnect: bool = False
    """With ``connect``: go on trying when nobody listens, or after a disconnect."""
    once: bool = False
    """End after the first front-end."""
    socket_mode: int | None = None
    """Permissions of the socket, as for chmod (C146)."""
    verbose: bool = False
    """Log connections too, not only what goes wrong."""
    cpus: tuple[int, ...] = ()
    """CPUs that the workers are bound to, in turn."""
    poll_microseconds: int | None = None
    """Longest polling of a worker before it sleeps."""
    allow_remote_memory: bool = False
    """Guest memory may lie on a network or user-space file system."""


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``serve_options`` reads."""
    where = parser.add_argument_group("where to serve (exactly one)")
    where.add_argument(
        "--socket-path",
        metavar="PATH",
        help="listen on this Unix socket; front-ends come one after the other",
    )
    where.add_argument(
        "--fd", type=int, metavar="NUMBER", help="use this open socket, listening or connected"
    )
    where.add_argument(
        "--connect", metavar="PATH", help="connect to a front-end that listens on this Unix socket"
    )
    parser.add_argument(
        "--reconnect", action="store_true", help="with --connect: go on trying, also after a disconnect"
    )
    parser.add_argument("--once", action="store_true", help="end after the first front-end has gone")
    parser.add_argument("--socket-mode", metavar="OCTAL", help="permissions of the socket, such as 600")
    parser.add_argument("--cpu", metavar="LIST", help="bind the workers to these CPUs in turn: 0,2 or 0-3")
    parser.add_argument(
        "--poll-us",
        metavar="MICROSECONDS",
        type=int,
        help="poll at most so long before sleeping (default 20, or 0 on one CPU); 0 never polls",
    )
    parser.add_argument(
        "--allow-remote-memory",
        action="store_true",
        help="take guest memory on network and user-space (FUSE) file systems; access may hang",
    )
    parser.add_argument(
        "--print-capabilities", action="store_true", help="print type and features as JSON, and end"
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="log connections, not only what goes wrong"
    )


def serve_options(arguments: argparse.Namespace) -> ServeOptions:
    """The options out of parsed arguments; ServeError says what does not fit together."""
    given = [name for name in ("socket_path", "fd", "connect") if getattr(arguments, name) is not None]
    if len(given) != 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        what = f"{names} exclude each other" if given else "nowhere to serve"
        raise ServeError(
            f"{what}: give exactly one of --socket-path=PATH, --fd=NUMBER and --connect=PATH [C140]"
        )
    if arguments.reconnect and arguments.connect is None:
        raise ServeError(
            "--reconnect goes with --connect only; a listening back-end always serves the next front-end"
        )
    mode: int | None = None
    if arguments.socket_mode is not None:
        try:
            mode = int(arguments.socket_mode, 8)
        except ValueError:
            raise ServeError(
                f"--socket-mode={arguments.socket_mode} is no octal number such as 600"
            ) from None
        if not 0 <= mode <= 0o777:
            raise ServeError(f"--socket-mode={arguments.socket_mode} is not between 0 and 777")
    return ServeOptions(
        arguments.socket_path,
        arguments.fd,
        arguments.connect,
        arguments.reconnect,
        arguments.once,
        mode,
        arguments.verbose,
        _cpu_list(arguments.cpu),
        _poll_limit(arguments.poll_us),
        arguments.allow_remote_memory,
    )


def _cpu_list(text: str | None) -> tuple[int, ...]:
    cpus: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(last) >= int(first))):
            raise ServeError(f"--cpu={text} is no list of CPUs such as 0,2 or 0-3")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def _poll_limit(microseconds: int | None) -> int | None:
    if microseconds is not None and not 0 <= microseconds <= LARGEST_POLL:
        raise ServeError(f"--poll-us={microseconds} is not between 0 and {LARGEST_POLL}")
    return microseconds


def capabilities_asked(argv: Sequence[str]) -> bool:
    """Whether ``--print-capabilities`` is there; then everything else is ignored (C141)."""
    return "--print-capabilities" in argv


def print_capabilities(device_type: str, features: Sequence[str] = (), file: TextIO | None = None) -> None:
    """Print the JSON object of the conventions (C141) to ``file``, by default the standard output."""
    print(
        json.dumps({"type": capability_type(device_type), "features": list(features)}),
        file=file or sys.stdout,
    )  # the output asked for


def serve(device: VhostUserBackend, argv: Sequence[str] | None = None) -> None:
    """Be the program of this device: read the command line, serve until SIGTERM or SIGINT.

    ``argv`` are the arguments after the program's name. Raises SystemExit with status 1 and a message when
    the device cannot be served, with 2 when the command line is wrong.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    device_type = device.device_type if isinstance(device, Device) else ""
    if capabilities_asked(argv):
        print_capabilities(device_type, device.capability_features if isinstance(device, Device) else ())
        return
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_serve_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        options = serve_options(arguments)
    except ServeError as error:
        parser.error(str(error))
    try:
        run(device, options)
    except ServeError as error:
        sys.exit(f"{parser.prog}: {error}")


def run(device: VhostUserBackend, options: ServeOptions, *, name: str = "") -> None:
    """Serve as ``options`` say until SIGTERM or SIGINT, or until the only front-end has gone.

    Prints where it listens and the QEMU lines to paste. Raises ServeError when it cannot begin.
    """
    _log_to_stderr(verbose=options.verbose)
    # The program is ours to tune, unlike a process that only uses the library.
    sys.setswitchinterval(SWITCH_INTERVAL)
    name = name or (isinstance(device, Device) and device.device_type) or type(device).__name__
    try:
        daemon = VhostUserDaemon(
            name,
            device,
            poll_microseconds=options.poll_microseconds,
            cpus=options.cpus,
            allow_remote_memory=options.allow_remote_memory,
        )
    except (TypeError, ValueError) as error:
        raise ServeError(f"{name}: {error}") from error
    with daemon, ExitStack() as stack:
        asked = threading.Event()
        # Handlers first: a signal that comes while we begin must end us too.
        stack.enter_context(_stopping(daemon, asked))
        try:
            _begin(daemon, device, options, stack)
        except SocketError as error:
            raise ServeError(str(error)) from error
        # Leaving the block ends the daemon, and does not wait for ever for a device that is stuck.
        while not asked.is_set() and not daemon.wait(1.0):
            pass


def _begin(
    daemon: VhostUserDaemon, device: VhostUserBackend, options: ServeOptions, stack: ExitStack
) -> None:
    if options.socket_path is not None:
        listener = stack.enter_context(Listener.bind(options.socket_path, mode=options.socket_mode))
        stack.callback(daemon.close)  # before the listener, which it uses
        daemon.start(listener, once=options.once)
        _say(f"listening on {options.socket_path}", qemu_lines(device, options.socket_path))
    elif options.connect is not None:
        daemon.start_client(options.connect, reconnect=options.reconnect)
        _say(f"connecting to {options.connect}", qemu_lines(device, options.connect, client=True))
    else:
        assert options.fd is not None  # one of the three is set
        source = from_fd(options.fd)
        if isinstance(source, Connection):
            daemon.start_connection(source)
            _say(f"serving the connection on file descriptor {options.fd}")
        else:
            stack.enter_context(source)
            stack.callback(daemon.close)  # before the listener, which it uses
            daemon.start(source, once=options.once)
            _say(f"listening on file descriptor {options.fd}")


def _say(first: str, lines: Sequence[str] = ()) -> None:
    text = first
    if lines:
        text += "\nfor the guest, add these lines to QEMU's:\n  " + " \\\n  ".join(lines)
    print(text, flush=True)  # noqa: T201  # what the program is asked to tell


@contextmanager
def _stopping(daemon: VhostUserDaemon, asked: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT stop the daemon (C142). Outside the main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        daemon.stop()

    before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _log_to_stderr(*, verbose: bool) -> None:
    """Show the library's log, unless the program has set up logging by itself."""
    if not logging.getLogger().handlers and not logging.getLogger("vhost_user").handlers:
        logging.basicConfig(
            format="%(levelname)s %(name)s: %(message)s", level=logging.INFO if verbose else logging.WARNING
        )
