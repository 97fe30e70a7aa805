"""``vhost-user fuzz``: arguments and printing of the fuzzer."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vhost_user.cli.check import make_target, pass_on, split_command
from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.conformance import PROFILES, Target, TargetGone
from vhost_user.fuzzing import GONE, Campaign, Finding, Outcome, all_cases, load, save

_DESCRIPTION = """\
Throws hostile messages and rings at a back-end, and watches whether it crashes, hangs or leaks.

First the named cases (what once broke some back-end), then valid sessions mutated by chance. The back-end
listens at SOCKET already, or is a command that is started, and started again when it dies; {socket} in it
stands for the path where it is to listen. Only fuzz what is yours."""

_EXAMPLES = """\
examples:
  vhost-user fuzz --seconds 600 -- vhost-user-blk --socket-path={socket} --blk-file=disk.img
  vhost-user fuzz --pid 1234 /tmp/disk.sock
  vhost-user fuzz --replay crash-1.jsonl -- vhost-user-blk --socket-path={socket} --blk-file=disk.img

exit status: 0 nothing found
             1 a crash, a hang or a leak was found
             2 wrong arguments
             3 the back-end is gone: nobody listens, or it went away after a session (which is kept as a
               reproducer), nobody saw how, and it is not ours to start again"""


def fuzz_parser() -> argparse.ArgumentParser:
    """The parser of ``vhost-user fuzz``, but for the command after ``--``."""
    parser = argparse.ArgumentParser(
        prog="vhost-user fuzz",
        usage="vhost-user fuzz [options] (SOCKET | -- COMMAND … {socket})",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("socket", nargs="?", metavar="SOCKET", help="where the back-end listens")
    parser.add_argument("--pid", type=int, help="the back-end's process, to look for leaks in it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides everything that is chosen by chance (default: 0)"
    )
    parser.add_argument("--ring", choices=["split", "packed", "both"], default="both", help="ring format")
    parser.add_argument("--device", choices=["auto", *PROFILES], default="auto", help="the device type")
    parser.add_argument(
        "--only", action="append", metavar="CASE", help="only this named case; as often as needed"
    )
    parser.add_argument("--list", action="store_true", help="show the named cases")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play a reproducer instead")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="DIR", help="where reproducers go (default: here)"
    )
    parser.add_argument(
        "--timeout", type=float, default=5.0, help="seconds until it counts as hung (default: 5)"
    )
    parser.add_argument("--most", type=int, default=10, help="stop after so many findings (default: 10)")
    parser.add_argument("--no-minimise", action="store_true", help="keep reproducers as long as they are")
    return parser


def run_fuzz(argv: Sequence[str]) -> int:
    """``vhost-user fuzz``: the exit status."""
    own, command = split_command(argv)
    arguments = fuzz_parser().parse_args(own)
    if arguments.list:
        for case in all_cases():
            print(f"{case.id:6}{case.title}")
        return 0
    known = {case.id: case for case in all_cases()}
    if unknown := [name for name in arguments.only or () if name not in known]:
        raise UsageError(f"there is no case {unknown[0]!r}; `vhost-user fuzz --list` shows all of them")
    if not arguments.output.is_dir():
        raise UsageError(f"{arguments.output} is not a folder")
    with make_target(arguments.socket, command, arguments.pid) as target:
        try:
            if arguments.replay:
                return _replay(target, arguments)
            campaign = _campaign(target, arguments)
            cases = [known[name] for name in arguments.only] if arguments.only else None
            sessions = 0 if arguments.only else None
            outcome = campaign.run(arguments.seconds, cases=cases, most=arguments.most, sessions=sessions)
        except TargetGone as error:
            raise CommandError(str(error), status=3) from error
        except ValueError as error:
            raise UsageError(str(error)) from error
        _show(outcome, campaign, arguments)
    return _status(outcome)


def _status(outcome: Outcome) -> int:
    if any(finding.kind != GONE for finding in outcome.findings):
        return 1
    return 3 if outcome.gone else int(bool(outcome.findings))


def _campaign(target: Target, arguments: argparse.Namespace, device: str | None = None) -> Campaign:
    campaign = Campaign(
        target,
        device=device or arguments.device,
        ring=arguments.ring,
        seed=arguments.seed,
        timeout=arguments.timeout,
        minimise=not arguments.no_minimise,
        progress=_Progress(),
    )
    pass_on(campaign.complaints)
    return campaign


def _replay(target: Target, arguments: argparse.Namespace) -> int:
    head, steps = load(arguments.replay)
    print(f"{arguments.replay}: {head['kind']}: {head['text']} ({len(steps)} steps)")
    device = head.get("device") if arguments.device == "auto" else None
    finding = _campaign(target, arguments, device).replay(steps)
    if finding is None:
        print("nothing happened this time")
        return 0
    print(f"{finding.kind}: {finding.text}")
    return 3 if finding.kind == GONE else 1


def _show(outcome: Outcome, campaign: Campaign, arguments: argparse.Namespace) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    for number, finding in enumerate(outcome.findings, 1):
        path = arguments.output / f"{finding.kind}-{number}.jsonl"
        save(path, finding, seed=arguments.seed, device=campaign.profile.name)
        print(_words(finding, path))
    rings = " and ".join("packed" if script.packed else "split" for script in campaign.scripts)
    leaks = (
        ""
        if campaign.target.pid is not None
        else "; leaks were not looked for: the process is not known (--pid)"
    )
    print(
        f"{outcome.sessions} sessions in {outcome.seconds:.0f} s, device {campaign.profile.name}, "
        f"rings {rings}, seed {arguments.seed}: {len(outcome.findings) or 'no'} findings{leaks}"
    )
    if outcome.stopped:
        print(f"ended early: {outcome.stopped}")


def _words(finding: Finding, path: Path) -> str:
    size = f"{len(finding.steps)} steps{'' if finding.minimised else ', not made smaller'}"
    return f"{finding.kind}: {finding.text}\n  by {finding.name}, {size}; play it again with --replay {path}"


class _Progress:
    """A line that is written over: on a terminal often, else every ten seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, outcome: Outcome, name: str) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 10.0):
            return
        self._last = now
        text = (
            f"{outcome.seconds:5.0f} s  {outcome.sessions} sessions  {len(outcome.findings)} findings  {name}"
        )
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
