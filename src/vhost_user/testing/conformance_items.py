"""The conformance checks as pytest items: ``pytest --vhost-user-socket=PATH`` or ``--vhost-user-command``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhost_user.conformance import (
    PROFILES,
    Check,
    CommandTarget,
    Outcome,
    Result,
    Runner,
    Target,
    TargetGone,
    all_checks,
    tolerated,
)

PATIENCE = 5.0
"""Seconds that a back-end which is not ours to restart may be away."""


class CheckFailed(Exception):  # noqa: N818  # named after what happened
    """A check found a deviation; carries the result."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.text)
        self.result = result


class BackEnd(pytest.Collector):
    """The back-end under test: all of its checks share what was learnt about it."""

    def __init__(self, *, target: Target, device: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.target = target
        self.device = device
        self.gone: str | None = None
        """Why there is nobody to check any more."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each check, in the order of the suite."""
        for check in all_checks():
            yield CheckItem.from_parent(self, name=check.id, check=check)

    def run(self, check: Check) -> Result:
        """Run one check, and see that the back-end is alive afterwards. Raises TargetGone."""
        runner = Runner(self.target, device=self.device, tolerated=tolerated())
        try:
            report = runner.run([check])
        except TargetGone as error:
            self.gone = str(error)
            raise
        self.device = report.device  # guessed once, with requests; the same for all that follow
        (result,) = report.results
        if result.outcome is Outcome.GONE:
            self.gone = f"the back-end is gone since {check.id}"
        return result


class CheckItem(pytest.Item):
    """One check."""

    def __init__(self, *, check: Check, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.check = check

    def runtest(self) -> None:
        """Pass, skip, xfail for a tolerated quirk, or fail."""
        back_end = self.getparent(BackEnd)
        assert back_end is not None
        if back_end.gone is not None:
            pytest.skip(f"not run: {back_end.gone}")
        result = back_end.run(self.check)
        if result.outcome is Outcome.SKIP:
            pytest.skip(result.text)
        if result.outcome is Outcome.TOLERATED:
            pytest.xfail(f"known quirk: {result.text}")
        if result.outcome is not Outcome.PASS:
            raise CheckFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The rule and what was found in its place: a traceback through the suite would say nothing."""
        if isinstance(excinfo.value, TargetGone):
            return str(excinfo.value)
        if not isinstance(excinfo.value, CheckFailed):
            return super().repr_failure(excinfo, style)
        result, check = excinfo.value.result, self.check
        lines = [
            f"{check.id} ({check.level}): {check.title}",
            f"  rule:  {check.statement} [{check.section}]",
            f"  found: {result.text}",
        ]
        if result.trace:
            lines += ["  last messages:", *(f"    {line}" for line in result.trace)]
        return "\n".join(lines)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What stands in the heading of its failure."""
        return self.path, None, f"{self.check.id}: {self.check.title}"


def add_checks(
    session: pytest.Session,
    items: list[pytest.Item],
    socket: str | None,
    command: str | None,
    device: str = "auto",
) -> None:
    """Append an item for each check.

    Raises UsageError for a socket and a command at the same time, and for a device type that there is not.
    """
    if device != "auto":
        try:
            PROFILES[device]
        except (KeyError, ImportError) as error:
            reason = error if isinstance(error, ImportError) else f"there are {', '.join(PROFILES)}"
            raise pytest.UsageError(f"--vhost-user-device={device}: {reason}") from None
    if socket is not None and command is not None:
        raise pytest.UsageError("--vhost-user-socket and --vhost-user-command name two back-ends; choose one")
    if command is not None:
        try:
            target: Target = CommandTarget(shlex.split(command))
        except ValueError as error:
            raise pytest.UsageError(f"--vhost-user-command: {error}") from error
    else:
        assert socket is not None
        target = Target(socket, patience=PATIENCE)
    session.config.add_cleanup(target.close)
    back_end = BackEnd.from_parent(
        session, name=socket or "command", nodeid="vhost-user", target=target, device=device
    )
    items.extend(item for item in back_end.collect() if isinstance(item, pytest.Item))
