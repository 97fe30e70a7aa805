"""The command ``vhost-user``, and the programs ``vhost-user-TYPE``: one for each device type.

The program of a type is ``vhost_user.cli:main_TYPE``, for any type that can be found by its name; another
package writes it so in its ``[project.scripts]``.

Exit status: 0 done (also after SIGTERM and SIGINT), 1 something broke and stderr says what, 2 wrong
arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

_PREFIX = "main_"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vhost-user``; ``argv`` is without the program's name."""
    from vhost_user.cli.command import run_command  # noqa: PLC0415 - entry points load only what they run

    return run_command(sys.argv[1:] if argv is None else list(argv))


def __getattr__(name: str) -> Callable[[Sequence[str] | None], int]:
    """``main_TYPE``: the back-end program ``vhost-user-TYPE``."""
    if not name.startswith(_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    device = name.removeprefix(_PREFIX)

    def main_of_type(argv: Sequence[str] | None = None) -> int:
        from vhost_user.cli.command import run_program  # noqa: PLC0415 - as above

        return run_program(device, sys.argv[1:] if argv is None else list(argv))

    main_of_type.__name__ = name
    return main_of_type
