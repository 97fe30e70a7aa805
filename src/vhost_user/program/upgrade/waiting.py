"""What the first process of a program does after an upgrade: be there for whoever started it.

A shell, a container or another supervisor knows that process and no other. So it stays, holding nothing,
passes signals on, and ends when the last successor does, with its status. Under a manager that can be told of
another main process (sd_notify's MAINPID) it just ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import threading
from collections.abc import MutableMapping
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
VARIABLE = "VHOST_USER_SUCCEEDS"
"""Set for successors: the number of a pipe that tells the first process who serves."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_PID = struct.Struct("i")


class FirstProcess:
    """The process that was started first: this one, or one that waits. Made once, when the program begins."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        number = environment.pop(VARIABLE, None)
        self._stays = number is None and not environment.get("NOTIFY_SOCKET")
        self._read = -1
        self.fd = -1
        """Where a successor writes that it serves; it inherits this."""
        self.serving = 0
        if number is not None:
            self.fd = int(number)
            os.set_inheritable(self.fd, False)
        else:
            self._read, self.fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serves(self) -> None:
        """Tell it that this process serves from now on."""
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(self.fd, _PID.pack(os.getpid()))

    def end(self, successor: int, came: int | None) -> int:
        """After an upgrade, when everything is closed: pass signals on, and wait if somebody knows us alone.

        ``came`` is a signal that came too late for this process. The exit status of the last successor.
        """
        if threading.current_thread() is threading.main_thread():
            for number in PASSED_ON:
                self.passes_on(number, successor)
        if came is not None:
            self._pass_on(came, None)
        return self._wait() if self._stays else 0

    def passes_on(self, number: int, successor: int) -> None:
        """After an upgrade: this signal is meant for who serves, ``successor`` or one after it."""
        self.serving = successor
        signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        while self._read >= 0 and select.select([self._read], [], [], 0)[0]:
            data = os.read(self._read, _PID.size)
            if not data:
                break
            self.serving = _PID.unpack(data)[0]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.serving, number)

    def _wait(self) -> int:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # successors of successors become ours
        status = 0
        while True:
            try:
                _, ended = os.waitpid(-1, 0)
            except ChildProcessError:
                return status
            code = os.waitstatus_to_exitcode(ended)
            status = code if code >= 0 else 128 - code

    def close(self) -> None:
        """Close the pipe."""
        for fd in (self._read, self.fd):
            if fd >= 0:
                os.close(fd)
        self._read = self.fd = -1
