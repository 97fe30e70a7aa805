"""``Refuse``: an answer that says no. ``NotYet``: a queue that cannot be served at this moment."""

from __future__ import annotations

import os


class Refuse(OSError):  # noqa: N818  # reads as what it does
    """Raise it out of a handler to refuse one request, with the status of the device type for that error.

    ``Refuse(errno.EROFS)`` or ``Refuse(errno.EINVAL, "no such line")``. Unlike any other exception it is an
    expected answer: no traceback, no error in the log, and no test of the pytest plugin fails for it.
    ``Device.fail`` gets it and writes what the device type has for ``errno``.
    """

    def __init__(self, errno: int, reason: str | None = None) -> None:
        super().__init__(errno, os.strerror(errno) if reason is None else reason)


class NotYet(Exception):  # noqa: N818  # not an error: the worker comes again
    """Raise it out of ``queue_event`` (``handle_event``) when the queue cannot be served at this moment.

    What waits in the ring stays there. The worker comes again after 1 ms, then 2, 4 … 1,000 ms, and serves
    its other queues meanwhile. Nothing is logged: whoever raises it knows how long it may go on, and ends it
    with ``Vring.refuse``.
    """
