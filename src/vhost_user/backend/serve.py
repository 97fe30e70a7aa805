"""``serve``: a program around a device, by the back-end program conventions (C140 to C146)."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TextIO

from vhost_user.backend import ownership
from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.descriptor_limit import allow_descriptors
from vhost_user.backend.device import Device
from vhost_user.backend.hangup import refreshing
from vhost_user.backend.program_log import log_to_stderr
from vhost_user.backend.qemu import NoQemuDeviceError, capability_type, qemu_lines
from vhost_user.backend.qemu_version import Version, parse_version
from vhost_user.backend.signals import stopped_by
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import Listener, from_fd
from vhost_user.protocol.transport import Connection

log = logging.getLogger("vhost_user.backend")

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
    """Log connections too, not only what goes wrong, and what the device's own code logs as INFO."""
    cpus: tuple[int, ...] = ()
    """CPUs that the workers are bound to, in turn."""
    poll_microseconds: int | None = None
    """Longest polling of a worker before it sleeps."""
    qemu_version: Version | None = None
    """Print the lines for this QEMU; None: for the one that is installed, else for a current one."""
    trace: bool = False
    """Show every message in words."""
    socket_owner: int | None = None
    """User id that the socket is given to."""
    socket_group: int | None = None
    """Group id that the socket is given to; its members may connect, unless ``socket_mode`` says else."""
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
    parser.add_argument(
        "--socket-group",
        metavar="NAME",
        help="give the socket to this group, whose members may connect (mode 660 if none is given)",
    )
    parser.add_argument("--socket-owner", metavar="NAME", help="give the socket to this user")
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
        "--qemu-version",
        metavar="VERSION",
        help="print the lines for this QEMU, such as 7.2 (default: the one installed, else a current one)",
    )
    parser.add_argument(
        "--print-capabilities", action="store_true", help="print type and features as JSON, and end"
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="log connections, not only what goes wrong"
    )
    parser.add_argument("--trace", action="store_true", help="show every message in words on stderr")


def serve_options(arguments: argparse.Namespace) -> ServeOptions:
    """The options out of parsed arguments; ServeError says what does not fit together."""
    given = [name for name in ("socket_path", "fd", "connect") if getattr(arguments, name) is not None]
    if len(given) != 1:
        names = " and ".join("--" + name.replace("_", "-") for name in given)
        what = f"{names} exclude each other" if given else "nowhere to serve"
        raise ServeError(
            f"{what}: give exactly one of --socket-path=PATH, --fd=NUMBER and --connect=PATH [C140]"
        )
    for name in ("socket_path", "connect"):
        if getattr(arguments, name) == "":
            option = "--" + name.replace("_", "-")
            raise ServeError(f"{option}= is empty: give a path, such as {option}=/tmp/device.sock")
    for name in ("socket_mode", "socket_group", "socket_owner"):
        if getattr(arguments, name) is not None and arguments.socket_path is None:
            option = "--" + name.replace("_", "-")
            raise ServeError(f"{option} goes with --socket-path only: no other socket is made here")
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
                f"--socket-mode={arguments.socket_mode} is not an octal number such as 600"
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
        _qemu_version(arguments.qemu_version),
        arguments.trace,
        _account("--socket-owner", "user", arguments.socket_owner),
        _account("--socket-group", "group", arguments.socket_group),
        arguments.allow_remote_memory,
    )


def _account(option: str, kind: str, name: str | None) -> int | None:
    """The id of a user or group that is given by name or number."""
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    import grp  # noqa: PLC0415  # rarely needed
    import pwd  # noqa: PLC0415

    try:
        return grp.getgrnam(name).gr_gid if kind == "group" else pwd.getpwnam(name).pw_uid
    except KeyError:
        database = "group" if kind == "group" else "passwd"
        raise ServeError(
            f"{option}={name}: there is no {kind} of this name here; `getent {database}` lists all of them"
        ) from None


def _cpu_list(text: str | None) -> tuple[int, ...]:
    cpus: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(last) >= int(first))):
            raise ServeError(f"--cpu={text} is not a list of CPUs such as 0,2 or 0-3")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def _poll_limit(microseconds: int | None) -> int | None:
    if microseconds is not None and not 0 <= microseconds <= LARGEST_POLL:
        raise ServeError(f"--poll-us={microseconds} is not between 0 and {LARGEST_POLL}")
    return microseconds


def _qemu_version(text: str | None) -> Version | None:
    try:
        return None if text is None else parse_version(text)
    except ValueError as error:
        raise ServeError(f"--qemu-version: {error}") from error


class ShowVersion(argparse.Action):
    """--version, looked up only when asked for.

    Reading the package's metadata takes longer than all the rest. ``const`` is the name to show, if it is
    not that of the program.
    """

    def __call__(self, parser: argparse.ArgumentParser, *_ignored: object) -> None:
        """Print name and version, and end the program."""
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # see above

        try:
            number = version("vhost-user")
        except PackageNotFoundError:
            number = "(not installed)"
        print(f"{self.const or parser.prog} {number}")  # noqa: T201  # asked for
        parser.exit()


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
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action=ShowVersion,
        nargs=0,
        const="vhost-user",
        help="show the version of vhost-user and end",
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

    Prints where it listens and the QEMU lines to paste. The device is closed in the end, once, whatever
    happens. Raises ServeError when it cannot begin.
    """
    log_to_stderr(verbose=options.verbose, trace=options.trace)
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
    except BaseException as error:
        # A device is closed by its daemon, and there is none.
        if isinstance(device, VhostUserBackend) and not ownership.is_taken(device):
            device.close()
        if isinstance(error, TypeError | ValueError):
            raise ServeError(f"{name}: {error}") from error
        raise
    allow_descriptors(len(daemon.vrings))
    with daemon, ExitStack() as stack:
        # Handlers first: a signal that comes while we begin must end us too.
        came = stack.enter_context(stopped_by((signal.SIGTERM, signal.SIGINT), daemon.stop))

        def hang_up() -> None:
            came.append(signal.SIGHUP)
            daemon.stop()

        refresh_if_asked = stack.enter_context(refreshing(device, hang_up))
        try:
            _begin(daemon, device, options, stack)
        except SocketError as error:
            raise ServeError(str(error)) from error
        # Leaving the block ends the daemon, and does not wait for ever for a device that is stuck.
        while not came and not daemon.wait(1.0):
            refresh_if_asked()
        if daemon.failure is not None and not came:
            raise ServeError(f"{name}: {daemon.failure}")


def _begin(
    daemon: VhostUserDaemon, device: VhostUserBackend, options: ServeOptions, stack: ExitStack
) -> None:
    if options.socket_path is not None:
        listener = stack.enter_context(
            Listener.bind(
                options.socket_path,
                mode=options.socket_mode,
                owner=options.socket_owner,
                group=options.socket_group,
            )
        )
        stack.callback(daemon.close)  # before the listener, which it uses
        daemon.start(listener, once=options.once)
        _say(f"listening on {options.socket_path}")
        _say(_for_the_guest(device, options.socket_path, options))
    elif options.connect is not None:
        daemon.start_client(options.connect, reconnect=options.reconnect)
        _say(f"connecting to {options.connect}")
        _say(_for_the_guest(device, options.connect, options))
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


def _for_the_guest(device: VhostUserBackend, path: str, options: ServeOptions) -> str:
    try:
        client = options.connect is not None
        lines = qemu_lines(device, path, client=client, version=options.qemu_version)
    except NoQemuDeviceError as error:
        return f"for the guest there is no QEMU line: {error}"
    except Exception as error:
        # A device may have its own words; that they fail is not a reason to serve nobody.
        log.exception("%s.qemu_device failed", type(device).__name__)
        return f"for the guest there is no QEMU line: {type(error).__name__}: {error}"
    return "for the guest, add these lines to QEMU's:\n  " + " \\\n  ".join(lines)


def _say(text: str) -> None:
    """Tell on the standard output, if anybody reads it: a device is served without that as well."""
    try:
        print(text, flush=True)  # noqa: T201  # what the program is asked to tell
    except (OSError, ValueError) as error:  # nobody reads the pipe, the disk is full, it is closed
        log.info("cannot be told on the standard output (%s): %s", error, text)
        if isinstance(error, OSError):
            # What waits in the buffer would fail again when the interpreter ends, with exit status 120.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
