"""Results for people (a table), for programs (JSON) and for continuous integration (JUnit)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from vhost_user.conformance.check import Check, Outcome, Result
from vhost_user.conformance.runner import Report
from vhost_user.protocol.negotiation import bit_names
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

WIDTH = 110


def line(result: Result, *, width: int = WIDTH) -> str:
    """One result as a row of the table, with the reason on the lines below."""
    check = result.check
    row = f"{result.outcome.value:9} {check.level.value:10} {check.id:28} {check.title}"
    if not result.text:
        return row
    indent = " " * 21
    quirk = f" (quirk: {result.quirk})" if result.quirk else ""
    return row + "\n" + textwrap.fill(
        result.text + quirk, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )  # fmt: skip


def about(report: Report) -> str:
    """What the back-end offers, in words."""
    facts = report.facts
    return (
        f"{report.name}: device {report.device}, {facts.num_queues} queues\n"
        f"  features {facts.features:#x} ({bit_names(facts.features, VirtioFeature)})\n"
        f"  protocol features {bit_names(facts.protocol_features, ProtocolFeature)}"
    )


def notes(report: Report) -> list[str]:
    """What is worth knowing of the back-end, and breaks no rule."""
    found = []
    if report.facts.features & VirtioFeature.RING_RESET:
        found.append(
            "RING_RESET is offered (V045): QEMU shows it to drivers, but sends no message when one resets "
            "a queue, which is dead from then on; offer it only to a front-end that forwards the reset"
        )
    return found


def summary(report: Report) -> str:
    """The last lines: how many of each, and which deviate."""
    counts = ", ".join(
        f"{report.count(outcome)} {word}"
        for outcome, word in (
            (Outcome.PASS, "passed"),
            (Outcome.FAIL, "failed"),
            (Outcome.TOLERATED, "tolerated"),
            (Outcome.SKIP, "skipped"),
            (Outcome.ERROR, "errors of the suite"),
            (Outcome.GONE, "not tested, because the back-end is gone"),
        )
        if report.count(outcome) or outcome in (Outcome.PASS, Outcome.FAIL)
    )
    levels = {
        level: [result.check.id for result in report.failed if result.check.level.value == level]
        for level in ("must", "should", "robustness")
    }
    lines = [f"{len(report.results)} checks in {report.seconds:.1f} s: {counts}"]
    lines += [f"  {level}: {' '.join(names)}" for level, names in levels.items() if names]
    if report.deaths:
        lines.append(f"  died of: {' '.join(result.check.id for result in report.deaths)}")
    if report.restarts:
        lines.append(f"  the back-end was started {report.restarts} more times")
    lines += [textwrap.fill(f"  note: {note}", WIDTH, subsequent_indent="    ") for note in notes(report)]
    if not report.complete:
        first = next(result for result in report.results if result.outcome is Outcome.GONE)
        lines.append(
            textwrap.fill(f"  gone at {first.check.id}: {first.text}", WIDTH, subsequent_indent="    ")
        )
        lines.append(
            "  to have it started anew whenever it ends, and to see how it died: "
            "vhost-user check -- COMMAND … {socket}"
        )
    return "\n".join(lines)


def listing(checks: Iterable[Check]) -> str:
    """Every check with the rule that it stands on."""
    return "\n".join(
        f"{check.id:28} {check.level.value:10} {check.title}\n"
        + textwrap.fill(
            f"{check.section}: {check.statement}", WIDTH, initial_indent=" " * 29, subsequent_indent=" " * 29
        )
        for check in checks
    )


def as_json(report: Report) -> dict[str, Any]:
    """The whole report as plain data."""
    facts = report.facts
    return {
        "backend": report.name,
        "device": report.device,
        "features": facts.features,
        "protocol_features": facts.protocol_features,
        "queues": facts.num_queues,
        "restarts": report.restarts,
        "complete": report.complete,
        "seconds": round(report.seconds, 3),
        "notes": notes(report),
        "counts": {outcome.value: report.count(outcome) for outcome in Outcome},
        "checks": [
            {
                "id": result.check.id,
                "rule": result.check.rule,
                "level": result.check.level.value,
                "title": result.check.title,
                "section": result.check.section,
                "statement": result.check.statement,
                "outcome": result.outcome.value,
                "text": result.text,
                "quirk": result.quirk,
                "death": result.death,
                "seconds": round(result.seconds, 3),
                "trace": result.trace,
            }
            for result in report.results
        ],
    }


def as_junit(report: Report) -> str:
    """The report as JUnit XML.

    Tolerated deviations count as passed, with the reason as output. Of the checks that were not tested
    because the back-end is gone, the first counts as an error and the others as skipped.
    """
    gone = next((result for result in report.results if result.outcome is Outcome.GONE), None)
    suite = ET.Element(
        "testsuite",
        name=f"vhost-user check {_plain(report.name)}",
        tests=str(len(report.results)),
        failures=str(report.count(Outcome.FAIL)),
        errors=str(report.count(Outcome.ERROR) + (gone is not None)),
        skipped=str(report.count(Outcome.SKIP) + max(report.count(Outcome.GONE) - 1, 0)),
        time=f"{report.seconds:.3f}",
    )
    for result in report.results:
        check = result.check
        case = ET.SubElement(
            suite, "testcase", classname=f"vhost-user.{check.level.value}", name=f"{check.id}: {check.title}",
            time=f"{result.seconds:.3f}",
        )  # fmt: skip
        text = _plain(result.text)
        if result is gone:
            ET.SubElement(case, "error", message=text)
        elif result.outcome in (Outcome.SKIP, Outcome.GONE):
            ET.SubElement(case, "skipped", message=text)
        elif result.failed:
            kind = "failure" if result.outcome is Outcome.FAIL else "error"
            element = ET.SubElement(case, kind, message=text)
            element.text = _plain("\n".join([f"{check.section}: {check.statement}", "", *result.trace]))
        elif text:
            ET.SubElement(case, "system-out").text = text
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def worst(results: Sequence[Result]) -> int:
    """The exit status: 3 when the back-end was gone before the end, 1 when something deviates, else 0."""
    if any(result.outcome is Outcome.GONE for result in results):
        return 3
    return int(any(result.failed for result in results))


def _plain(text: str) -> str:
    """Without the control characters that XML cannot carry."""
    return "".join(char if char in "\t\n" or ord(char) >= 0x20 else "?" for char in text)
