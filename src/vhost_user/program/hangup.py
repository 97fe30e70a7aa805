"""SIGHUP in ``serve``: look again at what is served; or the end, when the terminal has gone."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.device import Device

log = logging.getLogger("vhost_user.device")


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextmanager
def refreshing(device: VhostUserBackend, stop: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """While in the block, SIGHUP asks for ``device.refresh()``; what is yielded carries it out when asked.

    A terminal that closes sends SIGHUP as well: then ``stop`` is called, unless the signal was ignored before
    (nohup). Devices without ``refresh``, and threads other than the main one, leave the signal alone.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or not isinstance(device, Device)
        or type(device).refresh is Device.refresh
    ):
        yield lambda: None
        return
    asked = threading.Event()
    before = signal.getsignal(signal.SIGHUP)
    had_terminal = before is not signal.SIG_IGN and _has_terminal()

    def arrived(_number: int, _frame: FrameType | None) -> None:
        if had_terminal and not _has_terminal():
            stop()
        asked.set()

    def look() -> None:
        if not asked.is_set():
            return
        asked.clear()
        try:
            device.refresh()
        except Exception as error:  # noqa: BLE001  # it goes on with what it had
            log.error("%s: SIGHUP: %s", type(device).__name__, error)  # noqa: TRY400  # mostly an operator's slip

    signal.signal(signal.SIGHUP, arrived)
    try:
        yield look
    finally:
        signal.signal(signal.SIGHUP, before if before is not None else signal.SIG_DFL)
