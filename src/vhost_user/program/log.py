"""The log of a program that serves a device: on stderr, unless the program has set logging up by itself."""

from __future__ import annotations

import logging


def log_to_stderr(*, verbose: bool, trace: bool) -> None:
    """Show what goes wrong; with ``verbose`` INFO as well, the program's own too.

    ``trace`` shows every message on top of that. Handlers that are there already are left as they are: only
    what the package itself logs is chosen then.
    May be called again.
    """
    root, ours = logging.getLogger(), logging.getLogger("vhost_user")
    if not root.handlers and not ours.handlers:
        logging.basicConfig(
            format=("%(asctime)s " if trace else "") + "%(levelname)s %(name)s: %(message)s",
            level=logging.INFO if verbose or trace else logging.WARNING,
        )
    if verbose or trace:
        ours.setLevel(logging.DEBUG if trace else logging.INFO)
