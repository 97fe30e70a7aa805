"""Known deviations that front-ends put up with: each explains certain findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownQuirk:
    """A deviation that is known: its name for ``--quirks``, what it is, whether it is tolerated unasked."""

    name: str
    description: str
    default: bool


QUIRKS: tuple[KnownQuirk, ...] = (
    KnownQuirk("log-base-reply", "SET_LOG_BASE is answered with 0 or 16 bytes, not with a u64", default=True),
    KnownQuirk(
        "config-error-header", "a failed GET_CONFIG is answered with 12 bytes, not with none", default=True
    ),
    KnownQuirk("late-acks", "the SET_PROTOCOL_FEATURES that turns acks on is not acked itself", default=True),
    KnownQuirk("reset-owner-destructive", "RESET_OWNER throws the session's state away", default=True),
    KnownQuirk("one-session", "the process ends when its front-end disconnects", default=True),
    KnownQuirk("unoffered-bits", "feature bits that were never offered are accepted", default=False),
    KnownQuirk("acks-failures", "requests that fail are acked with 0 (libvhost-user)", default=False),
)


def tolerated(names: Iterable[str] = (), *, strict: bool = False) -> frozenset[str]:
    """The names of the quirks to tolerate: the usual ones, unless ``strict``, and ``names``.

    Raises ValueError for a name that does not exist.
    """
    known = {quirk.name for quirk in QUIRKS}
    names = list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no quirk {name!r}; there are {', '.join(sorted(known))}")
    usual = {quirk.name for quirk in QUIRKS if quirk.default and not strict}
    return frozenset(usual | set(names))
