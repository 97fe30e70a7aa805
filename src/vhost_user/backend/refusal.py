"""Errors of the engine turned into refusals that say the same, rule included, once."""

from __future__ import annotations

import re

from vhost_user.protocol.errors import RequestRefused

_RULE = re.compile(r"\s*\[(\w+)\]$")
_QUEUE = re.compile(r"^queue \d+: ")


def refusal_of(error: Exception, rule: str = "") -> RequestRefused:
    """The refusal for ``error``; a rule at the end of its text goes before ``rule``, its queue is cut off."""
    text = _QUEUE.sub("", str(error))
    found = _RULE.search(text)
    return RequestRefused(_RULE.sub("", text), rule=found.group(1) if found else rule or None)
