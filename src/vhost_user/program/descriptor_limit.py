"""How many files the process may have open: vrings need several each."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("vhost_user.backend")

DESCRIPTORS_OF_A_QUEUE = 4
"""Kick, call and error; and the one that a new one of them replaces."""
OTHER_DESCRIPTORS = 384
"""What the process itself has, the files of guest memory (usually a few), and a message with as many as there
can be (253)."""


def allow_descriptors(queues: int) -> None:
    """Raise the process's soft limit of open files (RLIMIT_NOFILE) to the hard one if ``queues`` need more.

    A limit that stays too low is logged: descriptors beyond it are lost on their way here (C011).
    """
    needed = OTHER_DESCRIPTORS + DESCRIPTORS_OF_A_QUEUE * queues
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.debug("the limit of open files stays %d: %s", soft, error)
    else:
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        log.warning(
            "%d queues may need %d open files, and this process may have %d (RLIMIT_NOFILE): "
            "raise the hard limit",
            queues, needed, soft,
        )  # fmt: skip
