"""All checks; importing this package registers them, in the order in which they run."""

from vhost_user.conformance.checks import (  # noqa: I001  # the order of the checks
    framing,
    descriptors,
    negotiation,
    replies,
    memory,
    slots,
    ring_messages,
    ring_states,
    notifications,
    split,
    split_hostile,
    packed,
    dirty_log,
    device,
    sessions,
)

__all__ = [
    "descriptors",
    "device",
    "dirty_log",
    "framing",
    "memory",
    "negotiation",
    "notifications",
    "packed",
    "replies",
    "ring_messages",
    "ring_states",
    "sessions",
    "slots",
    "split",
    "split_hostile",
]
