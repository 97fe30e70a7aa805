"""``./soak``: one runner for whatever is done to a back-end again and again."""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.soak.course import WITHOUT_GUEST, Course, Run

ROOT = Path(__file__).parents[2]
SUBJECTS = {
    "kill": ("SIGKILL and a new process", 200, "kills"),
    "upgrade": ("an upgrade to other code", 100, "upgrades"),
    "migrate": ("a live migration there and back", 20, "migrations there and back"),
}
"""By subcommand, each a module of this package: what is done, how often by default, how rounds are called."""

DESCRIPTION = """\
A disk of a real guest is written, read and compared without a pause, while its back-end is killed, upgraded
or left by a migration, again and again at random moments. One I/O error, one lost, torn, doubled or misplaced
block is a finding. ./test has a few rounds of each; these are the long forms.
"""
EPILOG = """\
examples:
  ./soak kill                              200 kills for each kind of disk, split and packed: half an hour
  ./soak kill --only "fast path, packed"   one run of them
  ./soak kill --without-guest --rounds 20  a driver in this process instead of a guest: seconds, no QEMU
  ./soak upgrade --rounds 10               says how long the rings rested: median, p99, longest
  ./soak migrate --list                    the names of its runs

Each run says how far it is, and ends with a line of what was seen. A finding is printed with its trace and
with the command that runs the same again; its files (logs, image) are kept. The other runs go on. Ctrl-C ends
everything that was started and says how far it came.

exit status: 0 nothing was found; 1 something was; 2 wrong arguments; 130 Ctrl-C
"""


def arguments() -> argparse.ArgumentParser:
    """The command line. What it says needs nothing that is built."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("./soak", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    subjects = parser.add_subparsers(dest="subject", metavar="kill|upgrade|migrate", required=True)
    for name, (what, rounds, noun) in SUBJECTS.items():
        one = subjects.add_parser(
            name, help=f"{what}, {rounds} times", description=f"Under load, so many times: {what}."
        )
        one.add_argument(
            "--rounds",
            type=positive,
            default=rounds,
            metavar="N",
            help=f"{noun} in each run (default {rounds})",
        )
        one.add_argument(
            "--seed",
            type=int,
            metavar="N",
            help="of the random moments (default: another one each time; it is printed)",
        )
        one.add_argument(
            "--only",
            action="append",
            metavar="RUN",
            help="only this run, may be given several times (see --list)",
        )
        one.add_argument("--list", action="store_true", help="print the names of the runs, and end")
        if name == "kill":
            one.add_argument(
                "--without-guest",
                action="store_true",
                help="only the runs with a driver in this process: no QEMU, no kernel",
            )
    return parser


def positive(text: str) -> int:
    """A count for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def chosen(runs: dict[str, Run], only: list[str] | None, *, without_guest: bool) -> dict[str, Run]:
    """The runs that were asked for. ValueError for one that is not there."""
    for name in only or ():
        if name not in runs:
            raise ValueError(f"there is no run {name!r}; there are: {', '.join(runs)}")
    return {
        name: run
        for name, run in runs.items()
        if (only is None or name in only) and (not without_guest or name.startswith(WITHOUT_GUEST))
    }


def go(subject: str, name: str, run: Run, rounds: int, seed: int) -> str | None:
    """One run, in a folder of its own; what it found wrong, in a line, or None."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{subject}-"))
    course = Course(folder, rounds, random.Random(seed))
    began = time.monotonic()
    try:
        print(f"{subject}, {name}: {rounds} rounds", flush=True)
        seen = run(course)
    except KeyboardInterrupt:
        course.end_line()
        print(f"  interrupted after {course.done} of {rounds} rounds; nothing was found in them")
        course.remove()
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        course.end_line()
        traceback.print_exc(file=sys.stdout)
        again = shlex.join(["./soak", subject, "--only", name, "--rounds", str(rounds), "--seed", str(seed)])
        print(
            f"  FOUND in round {course.done + 1}; its files are in {folder}. The same again:\n    {again}",
            flush=True,
        )
        return f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    course.end_line()
    print(f"  nothing lost in {time.monotonic() - began:.0f} s: {seen}", flush=True)
    course.remove()
    return None


def main(words: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = arguments()
    given = parser.parse_args(words)
    os.environ.setdefault("VHOST_USER_CACHE", str(ROOT / ".cache"))
    runs: dict[str, Run] = importlib.import_module(f"tests.soak.{given.subject}").RUNS
    if given.list:
        print("\n".join(runs))
        return 0
    try:
        wanted = chosen(runs, given.only, without_guest=getattr(given, "without_guest", False))
    except ValueError as error:
        parser.error(str(error))
    # Also where it was started in the background, with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}; Ctrl-C ends it", flush=True)
    try:
        findings = [go(given.subject, name, run, given.rounds, seed) for name, run in wanted.items()]
    except KeyboardInterrupt:
        return 130
    found = [finding for finding in findings if finding is not None]
    print(f"{len(wanted)} runs, {len(found)} with a finding" + "".join(f"\n  {finding}" for finding in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
