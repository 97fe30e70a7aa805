"""Looks after the back-end between hostile sessions: does it live, answer, and hold no more than before."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.facts import Facts
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.profile import Profile
from vhost_user.conformance.target import Target, TargetGone
from vhost_user.engine.errors import EngineError
from vhost_user.fuzzing.steps import Step
from vhost_user.protocol.errors import VhostUserError

CRASH, HANG, LEAK, GONE = "crash", "hang", "leak", "gone"
DEATH_SECONDS = 1.0
SETTLE_SECONDS = 1.0


@dataclass(slots=True)
class Finding:
    """What went wrong, in words, and the steps that lead there.

    ``kind`` is crash, hang or leak; or gone: a back-end that is not ours to start again went away after these
    steps, and nobody saw how.
    """

    kind: str
    text: str
    name: str = ""
    steps: list[Step] = field(default_factory=list)
    minimised: bool = False


class Watcher:
    """Watches one back-end.

    ``timeout`` (seconds): how long a valid session may take before the back-end counts as hung.
    """

    def __init__(self, target: Target, facts: Facts, profile: Profile, *, timeout: float = 5.0) -> None:
        self.target = target
        self.facts = facts
        self.profile = profile
        self.timeout = timeout
        self._held: tuple[int, int] | None = None
        self._pid: int | None = None

    def look(self) -> Finding | None:
        """Find out whether the last session did harm. A back-end that died or hangs is restarted if possible.

        Raises TargetGone when it cannot be.
        """
        try:
            trouble = self._sanity()
            if trouble is not None and not self.target.restartable:
                self.target.answers(self.timeout)  # it may have been on its way out when it was connected to
        except TargetGone as error:
            if self.target.restartable:
                raise
            return Finding(GONE, str(error))
        death = self.target.death(min(DEATH_SECONDS, self.timeout) if trouble else 0.0)
        if death is not None:
            self._held = None
            return Finding(CRASH, death)
        if trouble is not None:
            self._held = None
            if self.target.restartable:
                self.target.restart()
            return Finding(HANG, trouble)
        return None

    def _sanity(self) -> str | None:
        """A valid session with a request; what went wrong with it, or None."""
        context = CheckContext(self.target, facts=self.facts, profile=self.profile, timeout=self.timeout)
        try:
            driver = context.driver()
            if self.profile.works:
                context.exchange(context.queue(driver))
        except (Deviation, VhostUserError, EngineError) as error:
            return f"a valid session does not work any more: {error}"
        finally:
            context.close()
        return None

    # leaks

    def grown(self) -> str | None:
        """What the process holds more of than it did at the first call, None when nothing or not known.

        Waits a moment for the last session to be taken down. What is more is the new normal afterwards.
        """
        pid = self.target.pid
        if pid is None:
            return None
        if self._held is None or pid != self._pid:
            self._pid = pid
            self._held = self._settled(pid)
            return None
        deadline = time.monotonic() + min(SETTLE_SECONDS, self.timeout / 2)
        while (now := held(pid)) is not None:
            if now[0] <= self._held[0] and now[1] <= self._held[1]:
                return None
            if time.monotonic() > deadline:
                words = _difference(self._held, now)
                self._held = now
                return words
            time.sleep(0.01)
        return None

    @staticmethod
    def _settled(pid: int) -> tuple[int, int] | None:
        last: tuple[int, int] | None = None
        for _ in range(50):
            now = held(pid)
            if now == last:
                return now
            last = now
            time.sleep(0.05)
        return last

    def forget(self) -> None:
        """Take what is held now as normal."""
        self._held = None
        self.grown()


def held(pid: int) -> tuple[int, int] | None:
    """Open descriptors and shared writable mappings of a process, None when it cannot be seen."""
    try:
        fds = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return None
    return fds, len(re.findall(r"^\S+ rw.s ", maps, re.MULTILINE))


def _difference(before: tuple[int, int], now: tuple[int, int]) -> str:
    names = ("file descriptors", "shared mappings")
    return " and ".join(
        f"{two - one} more {name} ({one} before, {two} now)"
        for one, two, name in zip(before, now, names, strict=True)
        if two > one
    )
