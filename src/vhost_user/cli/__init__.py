"""The command ``vhost-user`` and the programs ``vhost-user-rng`` and ``vhost-user-blk``.

Exit status: 0 done (also after SIGTERM and SIGINT), 1 something broke and stderr says what, 2 wrong
arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vhost-user``; ``argv`` is without the program's name."""
    from vhost_user.cli.command import run_command  # noqa: PLC0415 - entry points load only what they run

    return run_command(sys.argv[1:] if argv is None else list(argv))


def main_rng(argv: Sequence[str] | None = None) -> int:
    """The back-end program ``vhost-user-rng``."""
    from vhost_user.cli.command import run_program  # noqa: PLC0415 - as above

    return run_program("rng", sys.argv[1:] if argv is None else list(argv))


def main_blk(argv: Sequence[str] | None = None) -> int:
    """The back-end program ``vhost-user-blk``."""
    from vhost_user.cli.command import run_program  # noqa: PLC0415 - as above

    return run_program("blk", sys.argv[1:] if argv is None else list(argv))
