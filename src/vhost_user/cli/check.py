"""``vhost-user check``: arguments and printing of the conformance suite."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.conformance import (
    PROFILES,
    QUIRKS,
    Check,
    CommandTarget,
    Level,
    Outcome,
    Report,
    Result,
    Runner,
    Target,
    TargetGone,
    all_checks,
    choose,
    tolerated,
)
from vhost_user.conformance.report import about, as_json, as_junit, line, listing, summary, worst
from vhost_user.conformance.target import SOCKET_PATH_BYTES

_DESCRIPTION = """\
Checks a back-end against the vhost-user and virtio specifications, rule by rule.

The back-end listens at SOCKET already, or is a command that is started, and started again when it dies;
{socket} in it stands for the path where it is to listen. A death counts against the check that it happened
in, with the signal or exit status and the last lines of output. What back-ends die of comes last."""

_EXAMPLES = """\
examples:
  vhost-user check /tmp/disk.sock --device blk
  vhost-user check --junit result.xml -- vhost-user-blk --socket-path={socket} --blk-file=disk.img
  vhost-user check --list --only 'V*'

exit status: 0 nothing deviates
             1 there are deviations, or the back-end died of a check and was started again
             2 wrong arguments
             3 the back-end is gone: nobody listens, or it went away before all checks had run and is not ours
               to start again. What was not tested is reported as `gone`, which says nothing about a rule.

levels: must and should are the specification's; robustness is what a back-end wants that faces careless or
hostile peers, and no violation of the specification."""


def check_parser() -> argparse.ArgumentParser:
    """The parser of ``vhost-user check``, but for the command after ``--``."""
    parser = argparse.ArgumentParser(
        prog="vhost-user check",
        usage="vhost-user check [options] (SOCKET | -- COMMAND … {socket})",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + "\n\nquirks for --quirks:\n" + "\n".join(
            f"  {quirk.name:26}{quirk.description}{' (tolerated unasked)' if quirk.default else ''}"
            for quirk in QUIRKS
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("socket", nargs="?", metavar="SOCKET", help="where the back-end listens")
    parser.add_argument("--pid", type=int, help="the back-end's process, to look for leaks in it")
    parser.add_argument(
        "--device",
        choices=["auto", *PROFILES],
        default="auto",
        help="the device type (default: guessed and tried)",
    )
    for option, words in (("--only", "run only"), ("--skip", "leave out")):
        parser.add_argument(
            option, action="append", default=[], metavar="CHECK",
            help=f"{words} these: an id, a rule such as C056, or a pattern; as often as needed",
        )  # fmt: skip
    parser.add_argument(
        "--level",
        action="append",
        choices=[level.value for level in Level],
        default=[],
        help="only these levels",
    )
    parser.add_argument(
        "--quirks", action="append", default=[], metavar="NAME", help="tolerate this known quirk"
    )
    parser.add_argument("--strict", action="store_true", help="tolerate no quirk that is not named")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each answer (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument("--list", action="store_true", help="show the checks and the rules they stand on")
    parser.add_argument("--verbose", "-v", action="store_true", help="show the last messages of what fails")
    parser.add_argument("--quiet", "-q", action="store_true", help="show only what deviates")
    return parser


def run_check(argv: Sequence[str]) -> int:
    """``vhost-user check``: the exit status."""
    own, command = split_command(argv)
    arguments = check_parser().parse_args(own)
    try:
        levels = [Level(name) for name in arguments.level] or list(Level)
        checks = choose(arguments.only, arguments.skip, levels)
        quirks = tolerated(arguments.quirks, strict=arguments.strict)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.list:
        print(listing(checks))
        print(f"{len(checks)} of {len(all_checks())} checks")
        return 0
    with make_target(arguments.socket, command, arguments.pid) as target:
        runner = Runner(
            target,
            device=arguments.device,
            timeout=arguments.timeout,
            tolerated=quirks,
            progress=_Printer(quiet=arguments.quiet, verbose=arguments.verbose),
        )
        try:
            report = runner.run(checks, name=arguments.socket or " ".join(command))
        except TargetGone as error:
            raise CommandError(str(error), status=3) from error
    pass_on(runner.complaints)
    print(f"\n{about(report)}\n{summary(report)}")
    _write(report, arguments)
    return worst(report.results)


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and the command after it."""
    words = list(argv)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def make_target(socket: str | None, command: list[str], pid: int | None) -> Target:
    """The back-end that the arguments name. Raises UsageError when they name none, or two."""
    if bool(socket) == bool(command):
        raise UsageError("name either the socket of a running back-end, or `-- COMMAND … {socket}`")
    if socket:
        if len(os.fsencode(socket)) > SOCKET_PATH_BYTES:
            raise UsageError(
                f"{socket} is longer than {SOCKET_PATH_BYTES} bytes, more than a socket's path can have; "
                "name it relative to the current directory"
            )
        return Target(socket, pid=pid)
    try:
        return CommandTarget(command)
    except ValueError as error:
        raise UsageError(str(error)) from error


def pass_on(complaints: Sequence[str]) -> None:
    """What a back-end that was started here has to say about itself; nobody else sees it."""
    for words in complaints:
        print(f"the back-end says: {words}", file=sys.stderr)


def _write(report: Report, arguments: argparse.Namespace) -> None:
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report), indent=1) + "\n")
    if arguments.junit:
        arguments.junit.write_text(as_junit(report))


class _Printer:
    """Prints results as they come; on a terminal also which check runs."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._terminal = sys.stdout.isatty()

    def __call__(self, number: int, total: int, check: Check, result: Result | None) -> None:
        if result is None:
            if self._terminal:
                print(f"\r\x1b[K[{number}/{total}] {check.id}", end="", flush=True)
            return
        if self._terminal:
            print("\r\x1b[K", end="")
        if self._quiet and result.outcome in (Outcome.PASS, Outcome.SKIP):
            return
        print(line(result), flush=not self._terminal)
        if self._verbose:
            for message in result.trace:
                print(f"{'':21}| {message}")
