"""Runs the checks one after the other, each on a connection of its own, and keeps the back-end going."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vhost_user.conformance.check import Check, Outcome, Result
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.facts import Facts
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.profile import GENERIC, PROFILES, Profile, candidates
from vhost_user.conformance.target import Target, TargetGone
from vhost_user.engine.errors import DeviceBroken, EngineError
from vhost_user.protocol.errors import Disconnected, PeerTimeout, VhostUserError
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

HUNG = "the back-end does not answer a new connection"
DEATH_SECONDS = 0.5
"""How long a process may take to die after it closed the connection."""


@dataclass(slots=True)
class Report:
    """What a run found out: about whom, and each check's result."""

    name: str
    facts: Facts = field(default_factory=Facts)
    device: str = "generic"
    results: list[Result] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """How many checks ended like this."""
        return sum(result.outcome is outcome for result in self.results)

    @property
    def failed(self) -> list[Result]:
        """The deviations."""
        return [result for result in self.results if result.failed]

    @property
    def deaths(self) -> list[Result]:
        """The checks that the back-end died of."""
        return [result for result in self.results if result.death is not None]

    @property
    def complete(self) -> bool:
        """Whether the back-end was there for all of the checks."""
        return not self.count(Outcome.GONE)


class Runner:
    """Runs checks on ``target``.

    ``device`` names a profile, or is ``auto``: guessed from the features and tried. ``timeout``, ``quiet`` as
    for :class:`CheckContext`. ``tolerated`` are names of quirks. ``progress`` is called before each check
    with its number and the check, and after it with its result.
    """

    def __init__(
        self,
        target: Target,
        *,
        device: str = "auto",
        timeout: float = 5.0,
        quiet: float = 0.1,
        tolerated: frozenset[str] = frozenset(),
        progress: Callable[[int, int, Check, Result | None], None] | None = None,
    ) -> None:
        self.target = target
        self.device = device
        self.timeout = timeout
        self.quiet = quiet
        self.tolerated = tolerated
        self._progress = progress or (lambda *_: None)
        self.facts = Facts()
        self.profile: Profile = GENERIC
        self.complaints: list[str] = []
        """What the back-end says of itself before the first check: that its image is in use, for example."""

    def run(self, checks: Sequence[Check], *, name: str = "") -> Report:
        """Run all of them.

        Raises TargetGone when the back-end is not there at the beginning, or does not stay.
        """
        began = time.monotonic()
        self.learn()
        report = Report(name or self.target.path, self.facts, self.profile.name)
        gone: str | None = None
        for number, check in enumerate(checks, 1):
            self._progress(number, len(checks), check, None)
            if gone is None:
                result = self.one(check)
                gone = self.look_after(result)
            else:
                result = Result(check, Outcome.GONE, f"not run: {gone}")
            report.results.append(result)
            self._progress(number, len(checks), check, result)
        report.restarts = self.target.restarts
        report.seconds = time.monotonic() - began
        return report

    def learn(self) -> None:
        """Ask the back-end what it offers, and find out what kind of device it is.

        Raises TargetGone as ``run`` does.
        """
        try:
            features, protocol, queues, slots = self._offers()
        except (Disconnected, PeerTimeout) as error:
            died = self.target.death(self.timeout)
            reason = died or f"the back-end does not answer: {error}"
            raise TargetGone(f"{reason} (at the first questions)") from error
        self.target.after_session(self.timeout)
        auto = self.device == "auto"
        profiles = [
            PROFILES[name] for name in (candidates(features, queues, protocol) if auto else [self.device])
        ]
        sure = not auto or (len(profiles) == 1 and not profiles[0].works)
        self.profile = GENERIC
        for profile in (*profiles, GENERIC):
            self.facts = Facts(features, protocol, queues or profile.queues, slots)
            if profile is GENERIC or sure or (profile.works and self._works(profile)):
                self.profile = profile
                break
        self.complaints = self.target.complaints()

    def _offers(self) -> tuple[int, int, int, int]:
        """Features, protocol features, queues and memory slots, 0 for what is not told."""
        with self.target.connect(timeout=self.timeout) as frontend:
            features = frontend.get_features()
            protocol = queues = slots = 0
            if features & VirtioFeature.PROTOCOL_FEATURES:
                protocol = frontend.get_protocol_features()
                frontend.set_protocol_features(
                    protocol & (ProtocolFeature.MQ | ProtocolFeature.CONFIGURE_MEM_SLOTS)
                )
                if protocol & ProtocolFeature.MQ:
                    queues = frontend.get_queue_num()
                if protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS:
                    slots = frontend.get_max_mem_slots()
        return features, protocol, queues, slots

    def _works(self, profile: Profile) -> bool:
        context = self._context(profile)
        try:
            context.exchange(context.queue(context.driver()))
        except (Deviation, VhostUserError, EngineError):
            return False
        finally:
            context.close()
        return True

    def _context(self, profile: Profile) -> CheckContext:
        return CheckContext(
            self.target,
            facts=self.facts,
            profile=profile,
            timeout=self.timeout,
            quiet=self.quiet,
            tolerated=self.tolerated,
        )

    def one(self, check: Check) -> Result:
        """Run one check; whatever it raises becomes its result."""
        context = self._context(self.profile)
        began = time.monotonic()
        result = Result(check, Outcome.PASS)
        try:
            check.run(context)
        except Skip as skip:
            result.outcome, result.text = Outcome.SKIP, str(skip)
        except Deviation as deviation:
            result.outcome, result.text, result.quirk = Outcome.FAIL, str(deviation), deviation.quirk
        except Disconnected as error:
            result.outcome, result.text = Outcome.FAIL, f"the back-end closed the connection: {error}"
        except DeviceBroken as error:
            result.outcome, result.text = Outcome.FAIL, f"{error}; {error.picture}"
        except TargetGone as error:
            result.outcome, result.text = Outcome.GONE, str(error)
        except EngineError as error:  # of the suite's own memory and rings, but for DeviceBroken
            result.outcome, result.text = Outcome.ERROR, self._mistake(error)
        except VhostUserError as error:
            result.outcome, result.text = Outcome.FAIL, str(error)
        except Exception as error:  # noqa: BLE001  # a mistake of the suite must not end the run
            result.outcome, result.text = Outcome.ERROR, self._mistake(error)
        finally:
            if result.failed:
                result.trace = context.trace()
            context.close()
        if result.outcome is Outcome.FAIL and result.quirk in self.tolerated:
            result.outcome = Outcome.TOLERATED
        result.seconds = time.monotonic() - began
        return result

    def look_after(self, result: Result) -> str | None:
        """See that the back-end lives, and bring it back if not; ``result`` is that of the check before.

        A death is the check's failure. When the back-end is gone and nobody saw how, that is neither a
        failure of the check nor a pass. Returns why there is no going on, or None.
        """
        try:
            return self._look_after(result)
        except TargetGone as error:
            return self._gone(result, str(error))

    def _look_after(self, result: Result) -> str | None:
        if result.outcome is Outcome.GONE:
            return f"the back-end is gone since {result.check.id}"
        death = self.target.death()
        if death is None and self.target.answers(self.timeout):
            # It may have died since, and have been started again for this very question.
            if (late := self.target.death()) is not None:
                self._blame(result, late)
            return None
        death = death or self.target.death(DEATH_SECONDS)
        if death is None:
            if not self.target.restartable and self.target.answers(self.target.patience):
                self._blame(result, f"{HUNG} for more than {self.timeout} s", died=False)
                return None
            self._blame(result, HUNG, died=False)
            if not self.target.restartable:
                return f"the back-end hangs since {result.check.id}, and is not ours to start again"
        else:
            self._blame(result, death)
        self.target.restart()
        if not self.target.answers(self.timeout):
            return "the back-end cannot be brought back"
        return None

    @staticmethod
    def _mistake(error: Exception) -> str:
        return f"the check itself failed: {type(error).__name__}: {error}"

    @staticmethod
    def _blame(result: Result, what: str, *, died: bool = True) -> None:
        before = f"{result.text}; then " if result.text else ""
        result.outcome, result.text = Outcome.FAIL, f"{before}{what}"
        result.quirk = None
        if died:
            result.death = what

    @staticmethod
    def _gone(result: Result, why: str) -> str:
        if result.death is not None:
            return why
        if result.outcome is not Outcome.GONE:
            result.text = "; ".join(
                filter(None, [result.text, f"the back-end was there before this check and is gone: {why}"])
            )
            result.outcome, result.quirk = Outcome.GONE, None
        return f"the back-end is gone since {result.check.id}"
