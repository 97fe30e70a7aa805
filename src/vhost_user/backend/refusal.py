"""Errors of the engine turned into refusals that say the same, rule included, once."""

from __future__ import annotations

from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import RequestRefused


def refusal_of(error: EngineError, rule: str = "") -> RequestRefused:
    """The refusal for ``error``, with ``rule`` where it has none of its own."""
    return RequestRefused(error.reason, rule=error.rule or rule or None)
