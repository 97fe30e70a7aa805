"""The conformance suite: what a back-end does, compared with what the specification says, rule by rule.

``vhost-user check`` on the command line; as a library::

    from vhost_user.conformance import CommandTarget, Runner, choose

    with CommandTarget(["my-backend", "--socket-path={socket}"]) as target:
        report = Runner(target).run(choose())
"""

import warnings

from vhost_user.conformance.check import Check, Level, Outcome, Result
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.facts import Facts
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.profile import PROFILES, Profile
from vhost_user.conformance.quirks import QUIRKS, KnownQuirk, tolerated
from vhost_user.conformance.refusals import Verdict
from vhost_user.conformance.runner import Report, Runner
from vhost_user.conformance.selection import all_checks, choose
from vhost_user.conformance.target import CommandTarget, Target, TargetGone

__all__ = [
    "PROFILES",
    "QUIRKS",
    "Check",
    "CheckContext",
    "CommandTarget",
    "Deviation",
    "Facts",
    "KnownQuirk",
    "Level",
    "Outcome",
    "Profile",
    "Report",
    "Result",
    "Runner",
    "Skip",
    "Target",
    "TargetGone",
    "Verdict",
    "all_checks",
    "choose",
    "tolerated",
]


def __getattr__(name: str) -> type[CheckContext]:
    """``Bench``, the name that CheckContext had in 0.1."""
    if name == "Bench":
        warnings.warn("conformance.Bench is now called CheckContext", DeprecationWarning, stacklevel=2)
        return CheckContext
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
