"""Results of a comparison as a table, as JSON and as pictures."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.comparison.compare import CaseResult, EntryResult, Spread
from tools.comparison.targets import verdicts
from vhost_user.bench.plot import plot_bars
from vhost_user.bench.units import show_rate, show_time

HEADINGS = ("", "requests/s", "ratio", "p50", "p99", "CPU s/M", "ratio", "client s/M")
LARGE = 64 << 10
"""Bytes from which on bytes a second say more than requests a second."""
FORMAT = 1


def case_table(result: CaseResult) -> str:
    """One case; ratios are to its first line, with the lowest and highest of the rounds."""
    rows = [HEADINGS, *(_row(each, result.base) for each in result.entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    rounds = len(result.base.rounds)
    lines = [f"{result.case.name}: {result.case.title}, {rounds} round{'s' if rounds > 1 else ''}"]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    for each in result.entries:
        lines += [f"  ! {each.entry.label}: {problem}" for problem in each.problems()]
    return "\n".join(lines)


def _row(each: EntryResult, base: EntryResult) -> tuple[str, ...]:
    rate = each.spread("requests_per_second")
    shown = show_rate(rate.median) if rate else "-"
    moved = each.spread("bytes_per_second")
    if moved and each.entry.load.size >= LARGE:
        shown += f" ({show_rate(moved.median)}B/s)"
    first = each is base
    return (
        each.entry.label,
        shown,
        "1" if first else _ratio(each.ratio(base, "requests_per_second")),
        _time(each.spread("p50_seconds")),
        _time(each.spread("p99_seconds")),
        _number(each.spread("cpu_seconds_per_million")),
        "1" if first else _ratio(each.ratio(base, "cpu_seconds_per_million")),
        _number(each.spread("client_cpu_seconds_per_million")),
    )


def _ratio(spread: Spread | None) -> str:
    return "-" if spread is None else str(spread)


def _time(spread: Spread | None) -> str:
    return "-" if spread is None else show_time(spread.median)


def _number(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f}"


def as_json(
    results: Iterable[CaseResult], *, machine: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything, for docs/benchmarks/results-*.json."""
    results = list(results)
    return {
        "format": FORMAT,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine,
        "settings": settings,
        "targets": verdicts(results),
        "cases": [result.as_dict() for result in results],
    }


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write it, readable. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


PICTURES = (
    ("requests_per_second", 1e-6, "requests", "million requests a second (more is better)"),
    ("cpu_seconds_per_million", 1.0, "cpu", "back-end CPU time a request, µs (less is better)"),
    ("p50_seconds", 1e6, "p50", "median latency, µs (less is better)"),
)


def draw(content: dict[str, Any], folder: Path, *, cases: Sequence[str] = ()) -> list[Path]:
    """Draw what ``as_json`` made: one picture a quantity, a panel a case.

    ``cases`` chooses some by name. Returns the paths. Raises PlotError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in content["cases"] if not cases or case["name"] in cases]
    paths = []
    for quantity, factor, name, title in PICTURES:
        panels = []
        for case in chosen:
            bars = {}
            for entry in case["entries"]:
                spread = entry["spread"][quantity]
                if spread is not None:
                    low, high = spread["low"] * factor, spread["high"] * factor
                    bars[entry["label"]] = (spread["median"] * factor, low, high, entry["ours"])
            panels.append((case["title"], bars))
        paths.append(folder / f"{name}.svg")
        plot_bars(panels, paths[-1], title=title)
    return paths


SHOWN = ("depth32", "depth1", "one-by-one", "file-depth32", "large", "file-large")
"""Cases that the kept pictures show; more would be no picture."""


def record(content: dict[str, Any], results: Sequence[CaseResult], folder: Path, name: str) -> None:
    """Keep a run: JSON, the tables with the machine's state, and pictures of the cases that matter most.

    Raises OSError or PlotError.
    """
    write_json(content, folder / f"results-{name}.json")
    machine = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in content["machine"].items())
    settings = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in content["settings"].items())
    tables = "\n\n".join(case_table(result) for result in results)
    targets = "\n".join(content["targets"]) or "(this run has no case with a target)"
    (folder / f"results-{name}.md").write_text(
        f"# Results of ./bench, {name} cases, {content['date']}\n\nWritten by `./bench --record`; "
        f"README.md says how to read it.\n\n## Targets\n\n```text\n{targets}\n```\n\n"
        f"## Machine\n\n{machine}\n\n## Settings\n\n{settings}\n\n## Cases\n\n```text\n{tables}\n```\n",
        encoding="utf-8",
    )
    names = {result.case.name for result in results}
    draw(content, folder, cases=[case for case in SHOWN if case in names] or sorted(names)[:6])
