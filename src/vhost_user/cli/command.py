"""Arguments, dispatch and error messages of ``vhost-user`` and of the per-type programs."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.device_types import (
    BrokenDeviceTypeError,
    DeviceType,
    UnknownDeviceTypeError,
    everything,
    find,
    names,
)
from vhost_user.program.errors import ServeError
from vhost_user.program.options import (
    ShowVersion,
    add_device_options,
    add_serve_arguments,
    capabilities_asked,
    print_capabilities,
    serve_options,
)

READER_GONE = 128 + signal.SIGPIPE
"""The exit status when the output goes into a pipe that nobody reads any more, as shells have it."""

_OVERVIEW = """\
vhost-user: virtio devices written in Python, for any VMM that speaks vhost-user.

examples:
  vhost-user serve blk --socket-path=/tmp/disk.sock --blk-file=disk.img
  vhost-user serve blk --socket-path=/tmp/disk.sock --memory=1G --num-queues=2
  vhost-user serve rng --socket-path=/tmp/rng.sock --seed=7
  vhost-user serve dice:Dice --socket-path=/tmp/dice.sock      (class Dice of ./dice.py)
  vhost-user bench /tmp/disk.sock --rw mixed --depth 32        (load on any block back-end)
  vhost-user check /tmp/disk.sock                              (does it do what the specification says?)
  vhost-user fuzz --seconds 60 /tmp/disk.sock                  (does it survive hostile peers?)
  vhost-user control /tmp/disk.control status                  (of what is served with --control)
  vhost-user systemd-units blk --directory=/etc/systemd/system (run disks as services)
  vhost-user install-json --prefix=/usr                        (tell QEMU and libvirt about the programs)

Each `serve` prints the QEMU arguments that attach the guest, serves one front-end after the
other, and ends with SIGTERM or Ctrl-C. `vhost-user serve blk --help` shows the options of a device."""

_USER_EXAMPLES = """\
  {program} --socket-path=/tmp/dice.sock
  {program} --socket-path=/tmp/dice.sock --option sides=20
  {program} --connect=/tmp/qemu.sock --trace"""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100)


def _parser(program: str, *, description: str = "", epilog: str = "") -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=program, description=description, epilog=epilog, formatter_class=_formatter, allow_abbrev=False
    )


def _add_general_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and end")


def command_parser() -> argparse.ArgumentParser:
    """The parser of ``vhost-user`` itself: the name of a command and what follows it."""
    parser = _parser("vhost-user", description=_OVERVIEW)
    _add_general_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser("serve", help="serve a device on a socket", add_help=False)
    commands.add_parser("bench", help="put a load on any block back-end, without a guest", add_help=False)
    commands.add_parser("check", help="check any back-end against the specification", add_help=False)
    commands.add_parser("fuzz", help="throw hostile input at any back-end", add_help=False)
    commands.add_parser(
        "systemd-units", help="write the units with which systemd runs a device", add_help=False
    )
    commands.add_parser("control", help="ask a served device how it is, give it commands", add_help=False)
    install = commands.add_parser(
        "install-json",
        help="write the files that tell QEMU and libvirt about the programs",
        formatter_class=_formatter,
    )
    install.add_argument(
        "--prefix",
        metavar="DIR",
        type=Path,
        help="write to DIR/share/qemu/vhost-user (default: the user's own folder)",
    )
    return parser


def serve_parser(device: str, program: str | None = None, *, arguments: str = "") -> argparse.ArgumentParser:
    """The parser of ``vhost-user serve DEVICE``, or of the ``program`` for a known device.

    ``arguments`` tells what the class of an own device takes, for the help. Raises
    BrokenDeviceTypeError for a description that cannot be used.
    """
    return _serve_parser(device, _description(device), program, arguments)


def _serve_parser(
    device: str, description: DeviceType | None, program: str | None, arguments: str
) -> argparse.ArgumentParser:
    prog = program or f"vhost-user serve {device}"
    parser = _parser(
        prog,
        description=f"the device {device}" if description is None else description.title,
        epilog="\n\n".join(filter(None, [arguments, _examples(prog, description)])),
    )
    try:
        _add_arguments(parser, description)
    except (TypeError, argparse.ArgumentError) as error:  # a name that another option has, for instance
        raise CommandError(f"the description of {device} is broken: {error}") from error
    return parser


def _add_arguments(parser: argparse.ArgumentParser, description: DeviceType | None) -> None:
    _add_general_arguments(parser)
    if description is not None and description.options is not None:
        add_device_options(parser, description.options, f"{description.name} device")
    else:
        parser.add_argument(
            "--option",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="an argument for the class, as often as needed; below is what it takes",
        )
    add_serve_arguments(parser)
    parser.add_argument(
        "--filter",
        metavar="MODULE:NAME",
        action="append",
        default=[],
        help="let every request pass this function first (module:name or path/file.py:name), as often as "
        "needed",
    )


def _examples(prog: str, description: DeviceType | None) -> str:
    if description is None:
        return f"examples:\n{_USER_EXAMPLES.format(program=prog)}"
    examples = description.examples or (f"--socket-path=/tmp/{description.name}.sock",)
    lines = "\n".join(f"  {prog} {example}" for example in examples)
    socket = f"/tmp/{description.name}.sock"  # noqa: S108  # an example
    vmms = [
        f"  {name}: {words.replace('{socket}', socket)}" for name, words in description.other_vmms.items()
    ]
    others = ["in a guest of other VMMs (the lines for QEMU are printed when it serves):", *vmms]
    return "\n\n".join(
        filter(None, [f"examples:\n{lines}", "\n".join(others) if vmms else "", description.notes])
    )


def _description(device: str) -> DeviceType | None:
    """The description of a device that has a name; None for ``module:Class``. Raises CommandError."""
    if ":" in device:
        return None
    try:
        return find(device)
    except UnknownDeviceTypeError:
        raise UsageError(
            f"there is no device {device!r}: use {', '.join(names())}, module:Class or path/file.py:Class, "
            "such as dice:Dice"
        ) from None


def _serve_overview() -> str:
    found = everything()
    devices = "\n".join(f"  {device.name:14}{device.title}" for device in found.types)
    broken = "".join(f"\nnot there: {error}" for error in found.broken)
    return (
        "usage: vhost-user serve DEVICE (--socket-path=PATH | --fd=N | --connect=PATH) [options]\n\n"
        f"devices:\n{devices}\n"
        "  module:Class  your own, from the current directory or installed; path/file.py:Class works too\n"
        f"{broken}\n"
        "`vhost-user serve DEVICE --help` shows the options of a device."
    )


def _guarded(program: str, action: Callable[[], int]) -> int:
    """Run ``action``; what the user or the system can get wrong becomes one line on stderr."""
    try:
        try:
            status = action()
        finally:  # argparse ends it with SystemExit
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except CommandError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.status
    except (ServeError, BrokenDeviceTypeError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return READER_GONE
        place = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return status


def _nobody_reads() -> bool:
    """Who read the output has seen enough (``| head``). What is left of it is thrown away."""
    if sys.stdout is None or sys.stdout.closed:
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    # Python flushes once more at its end, and would complain.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return True


def run_command(argv: list[str]) -> int:
    """``vhost-user``: the exit status."""
    # --print-capabilities makes all other arguments meaningless, so it is looked for before they are read
    # (C141).
    if argv[:1] == ["serve"]:
        return _guarded("vhost-user", lambda: _serve(argv[1:]))
    if argv[:1] == ["bench"]:
        return _guarded("vhost-user bench", lambda: _bench(argv[1:]))
    if argv[:1] == ["check"]:
        return _guarded("vhost-user check", lambda: _check(argv[1:]))
    if argv[:1] == ["fuzz"]:
        return _guarded("vhost-user fuzz", lambda: _fuzz(argv[1:]))
    if argv[:1] == ["systemd-units"]:
        return _guarded("vhost-user systemd-units", lambda: _systemd_units(argv[1:]))
    if argv[:1] == ["control"]:
        return _guarded("vhost-user control", lambda: _control(argv[1:]))
    return _guarded("vhost-user", lambda: _general(argv))


def _general(argv: list[str]) -> int:
    parser = command_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "install-json":
        return _install_json(arguments.prefix)
    parser.print_help()
    return 0 if not argv else 2


def run_program(device: str, argv: list[str]) -> int:
    """``vhost-user-DEVICE``: the exit status."""
    program = f"vhost-user-{device}"
    return _guarded(program, lambda: _serve_device(device, argv, program))


def _serve(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(_serve_overview())
        return 0
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"name the device right after `serve`\n{_serve_overview()}")
    return _serve_device(argv[0], argv[1:])


def _serve_device(device: str, argv: list[str], program: str | None = None) -> int:
    description = _description(device)
    about = ""
    if not {"-h", "--help"}.isdisjoint(argv) and not capabilities_asked(argv):
        about = _arguments_help(device, description)
    parser = _serve_parser(device, description, program, about)
    # --print-capabilities makes all other arguments meaningless: looked for before they are read (C141).
    if capabilities_asked(argv):
        if description is not None:
            print_capabilities(description.capability_type, description.features)
        else:
            from vhost_user.cli.serving import own_capabilities  # noqa: PLC0415 - loads the back-end

            known, _ = parser.parse_known_args(argv)
            own_capabilities(device, known.option)
        return 0
    arguments = parser.parse_args(argv)
    try:
        options = serve_options(arguments)
    except ServeError as error:
        parser.error(str(error))
    from vhost_user.cli.serving import serve_described, serve_own  # noqa: PLC0415 - not for --help

    if description is not None:
        serve_described(description, arguments, options)
    else:
        serve_own(device, arguments, options)
    return 0


def _arguments_help(device: str, description: DeviceType | None) -> str:
    """What the class takes whose constructor has the options."""
    if description is not None and description.options is not None:
        return ""
    from vhost_user.cli.user_device import arguments_help  # noqa: PLC0415 - loads the author's file

    return arguments_help(device if description is None else description.device)


def _bench(argv: list[str]) -> int:
    from vhost_user.cli.bench import run_bench  # noqa: PLC0415 - serving does not need the front-end

    return run_bench(argv)


def _check(argv: list[str]) -> int:
    from vhost_user.cli.check import run_check  # noqa: PLC0415 - serving does not need the suite

    return run_check(argv)


def _fuzz(argv: list[str]) -> int:
    from vhost_user.cli.fuzz import run_fuzz  # noqa: PLC0415 - serving does not need the fuzzer

    return run_fuzz(argv)


def _control(argv: list[str]) -> int:
    from vhost_user.cli.control import run_control  # noqa: PLC0415 - serving does not need the client

    return run_control(argv)


def _systemd_units(argv: list[str]) -> int:
    from vhost_user.cli.systemd_units import run_units  # noqa: PLC0415 - rarely needed

    return run_units(argv)


def _install_json(prefix: Path | None) -> int:
    from vhost_user.cli.json_files import folder_for, install  # noqa: PLC0415 - rarely needed

    for path in install(folder_for(prefix)):
        print(path)
    return 0
