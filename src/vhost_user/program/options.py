"""The options of a program that serves a device: where, for whom, how; and those of the device itself."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from vhost_user.device_types.description import Version
from vhost_user.device_types.errors import OptionError
from vhost_user.device_types.identity import capability_type
from vhost_user.device_types.options import Option, options_of
from vhost_user.device_types.qemu_version import parse_version
from vhost_user.program.activation import activated
from vhost_user.program.errors import ServeError

MAX_POLL = 1_000_000
"""Microseconds: more than a second is not polling before sleeping but never sleeping."""


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
    iommu: bool = False
    """Offer to take addresses that an IOMMU translates."""
    trace_json: str | None = None
    """Path of a file that every message is written to, a line of JSON each."""
    control: str | None = None
    """Path of the control socket."""
    control_fd: int | None = None
    """An open socket that takes its place."""
    in_band_notifications: bool = False
    """Offer kicks and calls as messages."""
    reload: bool = False
    """Upgrade to a new process whenever the device's code changes."""


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
        "--iommu",
        action="store_true",
        help="offer ACCESS_PLATFORM, for guests with an IOMMU (QEMU: iommu_platform=on,ats=on)",
    )
    parser.add_argument(
        "--in-band-notifications",
        action="store_true",
        help="offer kicks and calls as messages, for user-mode Linux; QEMU acknowledges that and sends none",
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
        "--reload",
        action="store_true",
        help="for development: go on in a new process whenever the file of the device changes",
    )
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="log connections, not only what goes wrong"
    )
    parser.add_argument("--trace", action="store_true", help="show every message in words on stderr")
    parser.add_argument(
        "--trace-json", metavar="FILE", help="write every message to this file, a line of JSON each"
    )
    parser.add_argument(
        "--control",
        metavar="PATH",
        help="take commands at this Unix socket, from its owner only: `vhost-user control PATH` lists them",
    )


def serve_options(arguments: argparse.Namespace) -> ServeOptions:
    """The options out of parsed arguments; ServeError says what does not fit together.

    Sockets that were opened for this process (LISTEN_FDS) are taken over.
    """
    given = [name for name in ("socket_path", "fd", "connect") if getattr(arguments, name) is not None]
    sockets = activated()
    names = " and ".join("--" + name.replace("_", "-") for name in given)
    if sockets.device is not None and given:
        raise ServeError(f"a socket is handed over (LISTEN_FDS), and {names} is given: leave one of them out")
    if sockets.device is None and len(given) != 1:
        what = f"{names} exclude each other" if given else "nowhere to serve"
        raise ServeError(
            f"{what}: give exactly one of --socket-path=PATH, --fd=NUMBER and --connect=PATH, or none to a "
            "program that a socket unit starts [C140]"
        )
    for name in ("socket_path", "connect", "control"):
        if getattr(arguments, name) == "":
            option = "--" + name.replace("_", "-")
            raise ServeError(f"{option}= is empty: give a path, such as {option}=/tmp/device.sock")
    for name in ("socket_mode", "socket_group", "socket_owner"):
        if getattr(arguments, name) is not None and arguments.socket_path is None:
            option = "--" + name.replace("_", "-")
            raise ServeError(f"{option} goes with --socket-path only: no other socket is made here")
    if sockets.control is not None and arguments.control is not None:
        raise ServeError(
            "a control socket is handed over (LISTEN_FDS), and --control is given: leave one out"
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
                f"--socket-mode={arguments.socket_mode} is not an octal number such as 600"
            ) from None
        if not 0 <= mode <= 0o777:
            raise ServeError(f"--socket-mode={arguments.socket_mode} is not between 0 and 777")
    return ServeOptions(
        arguments.socket_path,
        arguments.fd if sockets.device is None else sockets.device,
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
        arguments.iommu,
        arguments.trace_json,
        arguments.control,
        sockets.control,
        arguments.in_band_notifications,
        reload=arguments.reload,
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
    if microseconds is not None and not 0 <= microseconds <= MAX_POLL:
        raise ServeError(f"--poll-us={microseconds} is not between 0 and {MAX_POLL}")
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
    print(  # the output asked for
        json.dumps({"type": capability_type(device_type), "features": list(features)}),
        file=file or sys.stdout,
    )


def add_device_options(parser: argparse.ArgumentParser, kind: type[Any], title: str) -> None:
    """Add what a device declares in a dataclass of options, as a group of that title."""
    group = parser.add_argument_group(title)
    exclusive: dict[str, Any] = {}
    for option in options_of(kind):
        place: Any = group
        if word := option.details.exclusive:
            place = exclusive.get(word) or exclusive.setdefault(word, group.add_mutually_exclusive_group())
        _add(place, option)


def _add(place: Any, option: Option) -> None:
    help_text = option.help.replace("%", "%%")
    if option.kind is bool:
        action = "store_false" if option.default else "store_true"
        place.add_argument(option.flag, dest=option.name, action=action, help=help_text)
        return

    def convert(text: str) -> Any:
        try:
            return option.checked(option.parse(text))
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    place.add_argument(
        option.flag,
        dest=option.name,
        metavar=option.metavar,
        type=convert,
        action=_Again if option.repeatable else "store",
        default=option.default,
        required=option.required,
        help=help_text,
    )


class _Again(argparse.Action):
    """An option that can be given again and again: each adds to a tuple."""

    def __call__(self, _parser: object, namespace: argparse.Namespace, value: Any, *_ignored: object) -> None:
        """Add it."""
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, (*given, value))


def device_options(kind: type[Any], arguments: argparse.Namespace) -> Any:
    """The object of options out of parsed arguments."""
    return kind(**{option.name: getattr(arguments, option.name) for option in options_of(kind)})
