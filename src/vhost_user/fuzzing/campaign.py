"""A run of the fuzzer: named cases, then mutated sessions until time is up; what is found is made small."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhost_user.conformance.facts import Facts
from vhost_user.conformance.profile import PROFILES, Profile
from vhost_user.conformance.runner import Runner
from vhost_user.conformance.target import Target, TargetGone
from vhost_user.fuzzing.case import Case
from vhost_user.fuzzing.cases import all_cases
from vhost_user.fuzzing.mutation import Mutator
from vhost_user.fuzzing.sessions import Script
from vhost_user.fuzzing.steps import Player, Step
from vhost_user.fuzzing.watcher import CRASH, GONE, HANG, LEAK, Finding, Watcher
from vhost_user.spec.features import VirtioFeature

FORMAT = "vhost-user-fuzz 1"
REPEATS = 3
"""How often a session that seems to leak is repeated: a leak grows each time."""
MAX_TRIES = 400
"""Replays that the minimiser makes at most."""


@dataclass(slots=True)
class Outcome:
    """What a run did and found."""

    sessions: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    stopped: str = ""
    """Why the run ended before its time, if it did."""
    gone: bool = False
    """Whether that is because the back-end is gone, or hangs, and is not ours to start again."""
    restarts: int = 0


class Campaign:
    """Fuzzes ``target``.

    ``ring`` is split, packed or both (those that are offered are used). ``seed`` decides everything.
    ``timeout`` (seconds) is how long a valid session may take. ``progress`` is called after each session.
    """

    def __init__(
        self,
        target: Target,
        *,
        device: str = "auto",
        ring: str = "both",
        seed: int = 0,
        timeout: float = 5.0,
        minimise: bool = True,
        progress: Callable[[Outcome, str], None] | None = None,
    ) -> None:
        self.target = target
        self.seed = seed
        self.timeout = timeout
        self.minimise = minimise
        self._progress = progress or (lambda _outcome, _name: None)
        runner = Runner(target, device=device, timeout=timeout)
        runner.learn()
        self.facts: Facts = runner.facts
        self.profile: Profile = runner.profile
        self.complaints = runner.complaints
        offered = bool(self.facts.features & VirtioFeature.RING_PACKED)
        if ring == "packed" and not offered:
            raise ValueError("the back-end does not offer packed rings")
        kinds = {"split": (False,), "packed": (True,)}.get(ring, (False, True) if offered else (False,))
        self.scripts = tuple(Script(self.facts, self.profile, packed) for packed in kinds)
        self.mutator = Mutator(self.scripts, seed)
        self.watcher = Watcher(target, self.facts, self.profile, timeout=timeout)
        self.outcome = Outcome()

    def run(
        self,
        seconds: float,
        *,
        cases: Iterable[Case] | None = None,
        most: int = 10,
        sessions: int | None = None,
    ) -> Outcome:
        """Fuzz for ``seconds``, at most ``sessions`` mutated sessions, until ``most`` findings or Ctrl-C."""
        began = time.monotonic()
        try:
            with Player(self.target) as player:
                self._warm_up(player)
                for name, steps in self._all(cases, sessions):
                    self.one(player, name, steps)
                    self.outcome.sessions += 1
                    self.outcome.seconds = time.monotonic() - began
                    self._progress(self.outcome, name)
                    if len(self.outcome.findings) >= most:
                        self.outcome.stopped = f"{most} findings are enough"
                        break
                    if self.outcome.seconds >= seconds:
                        break
        except TargetGone as error:
            self.outcome.stopped, self.outcome.gone = str(error), True
        except KeyboardInterrupt:
            # Whoever has seen enough wants to see what was found.
            self.outcome.stopped = "interrupted"
        self.outcome.seconds = time.monotonic() - began
        self.outcome.restarts = self.target.restarts
        return self.outcome

    def _warm_up(self, player: Player) -> None:
        for script in self.scripts:
            player.play(script.whole())
            if finding := self.watcher.look():
                raise TargetGone(f"the back-end fails in a valid session: {finding.text}")
        self.watcher.grown()

    def _all(self, cases: Iterable[Case] | None, sessions: int | None) -> Iterator[tuple[str, list[Step]]]:
        for case in all_cases() if cases is None else cases:
            for script in self.scripts:
                steps = case.steps(script)
                if steps:
                    yield f"{case.id} {'packed' if script.packed else 'split'}", steps
        number = 0
        while sessions is None or number < sessions:
            yield f"session {number}", self.mutator.session(number)
            number += 1

    def one(self, player: Player, name: str, steps: list[Step]) -> Finding | None:
        """Play one session and look; a finding is made small and kept."""
        finding = self._try(player, steps)
        if finding is None:
            return None
        finding.name, finding.steps = name, steps
        if any(known.kind == finding.kind and known.text == finding.text for known in self.outcome.findings):
            return None
        if not self.target.restartable and finding.kind != LEAK:
            self.outcome.findings.append(finding)
            state = "gone" if finding.kind == GONE else f"of no more use ({finding.kind})"
            raise TargetGone(f"the back-end is {state}, and is not ours to restart")
        if self.minimise:
            finding.steps = self._smaller(player, finding)
        self.outcome.findings.append(finding)
        return finding

    def _try(self, player: Player, steps: Sequence[Step]) -> Finding | None:
        player.play(steps)
        finding = self.watcher.look()
        if finding is not None:
            return finding
        if (more := self.watcher.grown()) is not None:
            return self._confirmed(player, steps, more)
        return None

    def _confirmed(self, player: Player, steps: Sequence[Step], more: str) -> Finding | None:
        """A leak grows with each repetition; what grows once is a cache."""
        for _ in range(REPEATS):
            player.play(steps)
            if finding := self.watcher.look():
                return finding
            again = self.watcher.grown()
            if again is None:
                return None
            more = again
        return Finding(LEAK, f"each time the session is played there are {_without_numbers(more)}")

    def replay(self, steps: Sequence[Step]) -> Finding | None:
        """Play a session once more; what it does, or None."""
        with Player(self.target) as player:
            self._warm_up(player)
            return self._try(player, steps)

    def _smaller(self, player: Player, finding: Finding) -> list[Step]:
        """The same finding with as few steps as can be found."""
        kind = finding.kind

        def still(steps: Sequence[Step]) -> bool:
            again = self._try(player, steps)
            return again is not None and again.kind == kind

        if not still(finding.steps):
            return finding.steps  # it does not happen every time: keep everything
        finding.minimised = True
        return smaller(finding.steps, still)


def smaller(
    steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool], *, tries: int = MAX_TRIES
) -> list[Step]:
    """Leave out steps, large pieces first, as long as what is left still ``fails``.

    Repetitions are made fewer, too.
    """
    best = list(steps)
    piece = max(len(best) // 2, 1)
    while tries > 0:
        at = 0
        shrunk = False
        while at < len(best) and tries > 0:
            candidate = best[:at] + best[at + piece :]
            tries -= 1
            if candidate and fails(candidate):
                best, shrunk = candidate, True
            else:
                at += piece
        if piece == 1 and not shrunk:
            break
        piece = max(piece // 2, 1)
    for at, step in enumerate(best):
        while best[at]["op"] == "repeat" and best[at]["count"] > 1 and tries > 0:
            tries -= 1
            fewer = [*best[:at], {**best[at], "count": best[at]["count"] // 2}, *best[at + 1 :]]
            if not fails(fewer):
                break
            best = fewer
        del step
    return best


def save(path: Path, finding: Finding, *, seed: int, device: str) -> None:
    """Write a reproducer: JSON lines, the first says what it is, each other is a step."""
    head = {
        "format": FORMAT, "kind": finding.kind, "text": finding.text, "name": finding.name, "seed": seed,
        "device": device, "minimised": finding.minimised,
    }  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *finding.steps]))


def load(path: Path) -> tuple[dict[str, Any], list[Step]]:
    """Read a reproducer: its head and its steps. Raises ValueError for any other file."""
    lines = path.read_text().splitlines()
    try:
        head, *steps = [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path} is not a reproducer: {error}") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{path} is not a reproducer of this version: its first line must say {FORMAT!r}")
    return head, steps


def _without_numbers(text: str) -> str:
    return " and ".join(part.partition(" (")[0] for part in text.split(" and "))


__all__ = [
    "CRASH",
    "GONE",
    "HANG",
    "LEAK",
    "PROFILES",
    "Campaign",
    "Finding",
    "Outcome",
    "load",
    "save",
    "smaller",
]
