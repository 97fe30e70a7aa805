"""``./bench``: our back-ends and those of others in turn, in one run, as ratios."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from tools.comparison.cases import Case, beside, essential_cases, full_cases, woken_cases
from tools.comparison.checkout import Checkout, against
from tools.comparison.compare import CaseResult, run_case
from tools.comparison.contenders import ContenderError, TemporaryPlace, peer
from tools.comparison.machine import machine_state
from tools.comparison.report import as_json, case_table, draw, record, write_json
from tools.comparison.targets import verdicts
from vhost_user.bench.measure import Load, LoadError
from vhost_user.bench.plot import PlotError, require_matplotlib
from vhost_user.bench.units import parse_size
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import VhostUserError

DISK_SIZE = 64 << 20
OVERHEAD_SECONDS = 0.25
"""For each run: starting the back-end's share, filling the disk, bringing the driver up."""


def bench_parser() -> argparse.ArgumentParser:
    """The parser of ``./bench``."""
    parser = argparse.ArgumentParser(
        prog="./bench",
        description="Measures our block back-ends and qemu-storage-daemon in turn, and prints ratios.",
        epilog="Ratios are medians over the rounds, with the lowest and the highest. Alone it runs the "
        "essential cases, which takes a few minutes; woken-* are run when named, or with --full. To measure "
        "a change: git worktree add ../before HEAD~1, make build there, ./bench --against ../before. To be "
        "compared with a disk of somebody else's: ./bench --peer 'theirs=./their-disk {socket} {mib}'. "
        "Ctrl-C ends it with the cases that were finished.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--full", action="store_true", help="every size, mix, depth, queue count and kind of ring"
    )
    parser.add_argument(
        "--case", action="append", default=[], metavar="NAME", help="only this one; * and ? work"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="compare our back-ends, one a case, with those of another checkout of this project, built there",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another back-end with a disk in memory, which the others are compared with; the command has "
        "{socket} in it, and {bytes}, {mib}, {queues} where it needs them",
    )
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--quick", action="store_true", help="one round of 0.05 s: shows that it works, nothing else"
    )
    parser.add_argument(
        "--rounds", type=_at_least_one, default=5, metavar="N", help="rounds of each case (5)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="length of a run (1)")
    parser.add_argument(
        "--disk-size", type=parse_size, default=DISK_SIZE, metavar="SIZE", help="of every disk (64M)"
    )
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="the client shows N requests at a time (all)"
    )
    parser.add_argument("--pin", action="store_true", help="client on the first CPU, back-ends on the others")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="keep all of it there: results-*.json, results-*.md and pictures",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw pictures there (needs matplotlib)")
    return parser


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def choose_cases(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Those that match one of the patterns, all for none.

    Raises LoadError for a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            raise LoadError(f"there is no case {pattern!r}; --list and --full --list name them")
    return [
        case for case in cases if not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns)
    ]


def without_missing(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """The cases less the back-ends that are not installed, and what is missing in words."""
    missing: dict[str, None] = {}
    kept = []
    for case in cases:
        entries = []
        for entry in case.entries:
            lacking = entry.contender.missing()
            if lacking is None:
                entries.append(entry)
            else:
                missing[lacking] = None
        if entries:
            kept.append(replace(case, entries=tuple(entries)))
    return kept, list(missing)


def main(argv: Sequence[str] | None = None) -> int:
    """``./bench``: the exit status."""
    arguments = bench_parser().parse_args(argv)
    try:
        if arguments.plot is not None or arguments.record is not None:
            require_matplotlib()
        return _run(arguments)
    except (LoadError, ContenderError, PlotError, VhostUserError, EngineError, OSError) as error:
        print(f"./bench: {error}", file=sys.stderr)  # noqa: T201  # this is its output
        return 1


def _run(arguments: argparse.Namespace) -> int:
    plain = Load(seconds=0.05 if arguments.quick else arguments.seconds, batch=arguments.batch)
    rounds = 1 if arguments.quick else arguments.rounds
    cases = _cases(arguments, plain)
    if arguments.list:
        _say("\n".join(f"{case.name:32}{case.title}" for case in cases))
        return 0
    cases, missing = without_missing(cases)
    for each in missing:
        _say(f"not compared, because it is not installed: {each}")
    runs = sum(len(case.entries) for case in cases) * rounds
    duration = runs * ((plain.seconds or 0) + OVERHEAD_SECONDS)
    _say(f"{len(cases)} cases, {runs} runs: about {duration:.0f} seconds")
    cpus = sorted(os.sched_getaffinity(0))
    backend_cpus = cpus[1:] if arguments.pin and len(cpus) > 1 else ()
    if backend_cpus:
        os.sched_setaffinity(0, cpus[:1])
    before, results = machine_state(), []
    with TemporaryPlace(arguments.disk_size) as place, suppress(KeyboardInterrupt):
        for case in cases:
            result = run_case(case, place, rounds=rounds, backend_cpus=backend_cpus, progress=_progress)
            _progress("")
            _say("\n" + case_table(result))
            results.append(result)
    _progress("")
    settings = {
        "seconds": plain.seconds,
        "rounds": rounds,
        "disk_bytes": arguments.disk_size,
        "batch": arguments.batch,
        "pinned": bool(backend_cpus),
        "against": Checkout(arguments.against.resolve()).name if arguments.against else None,
    }
    return _finish(arguments, results, before, settings)


def _cases(arguments: argparse.Namespace, plain: Load) -> list[Case]:
    if arguments.full:
        cases = full_cases(plain)
    else:
        cases = essential_cases(plain)
        if arguments.case or arguments.list:
            cases.extend(woken_cases(plain))
    cases = choose_cases(cases, arguments.case)
    if arguments.peer:
        if arguments.against is not None:
            raise ContenderError("--against compares our own back-ends only: --peer has no place there")
        cases = beside(cases, [peer(each) for each in arguments.peer])
    if arguments.against is not None:
        other = Checkout(arguments.against.resolve())
        other.check()
        cases = list(against(cases, other))
    return cases


def _finish(
    arguments: argparse.Namespace,
    results: list[CaseResult],
    before: dict[str, object],
    settings: dict[str, object],
) -> int:
    if lines := verdicts(results):
        _say("\ntargets:\n  " + "\n  ".join(lines))
    machine = {**before, "load_average_after": [round(load, 2) for load in os.getloadavg()]}
    content = as_json(results, machine=machine, settings=settings)
    if arguments.json is not None:
        write_json(content, arguments.json)
    if arguments.plot is not None and results:
        draw(content, arguments.plot)
    if arguments.record is not None and results:
        record(content, results, arguments.record, "full" if arguments.full else "essential")
    return 1 if not results or any(each.problems() for result in results for each in result.entries) else 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # this is its output


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201  # as above
