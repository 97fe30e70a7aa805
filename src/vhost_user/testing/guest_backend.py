"""A back-end in a process of its own, as a guest meets it: started, awaited, stopped, and its log kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_LISTENING = 0x10000  # __SO_ACCEPTCON in the flags column of /proc/net/unix


class BackendError(RuntimeError):
    """A back-end process did not start, or did not end as it should; the message ends with its log."""


class BackendProcess:
    """A back-end program that listens on a socket. As a context manager it is started, and stopped cleanly.

    Args:
        command: the program and its arguments.
        socket: path of the socket that the program will listen on.
        log: file to which what the program prints is added.
        announcement: text that the program prints when it is ready; None: it says nothing.
        timeout: seconds that the start may take.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        socket: str | os.PathLike[str],
        log: str | os.PathLike[str],
        *,
        announcement: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.socket = Path(socket)
        self._log = Path(log)
        self._announcement = announcement
        self._timeout = timeout
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    @property
    def log(self) -> str:
        """What the program printed so far, in all its runs, standard output and standard error together."""
        return self._printed(0)

    @property
    def pid(self) -> int:
        """The process id of the program.

        Raises:
            BackendError: it is not running.
        """
        return self._running().pid

    def start(self) -> None:
        """Start the program and wait until it listens.

        Raises:
            BackendError: it ended, or does not listen in time.
        """
        if self._process is not None:
            raise BackendError(f"{self.command[0]} is running already")
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*leash(), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C goes to this process alone, which then ends the program
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """End the program with SIGTERM. Does nothing when it was stopped or killed before.

        Args:
            timeout: seconds it may take.

        Raises:
            BackendError: it took longer, or its exit status was not 0. It is gone all the same.
        """
        if self._process is None:
            return
        process = self._process
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"did not end within {timeout:g} s of SIGTERM") from error
        finally:
            self.kill()
        if status:
            raise self._failure(f"ended with status {status}")

    def kill(self) -> None:
        """End the program at once with SIGKILL. May be called at any time."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.poll() is None:
                process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BackendError(f"{self.command[0]} is not running")
        return self._process

    def _printed(self, start: int) -> str:
        return self._log.read_bytes()[start:].decode(errors="replace") if self._log.exists() else ""

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self._timeout
        while not (self._listens() and (self._announcement or "") in self._printed(self._log_start)):
            try:
                status = self._running().wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise self._failure(
                        f"does not listen on {self.socket} after {self._timeout:g} s"
                    ) from None
            else:
                raise self._failure(f"ended with status {status} before it listened on {self.socket}")

    def _listens(self) -> bool:
        """Say whether the socket takes connections, without making one: that would be a session already."""
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7] == str(self.socket) and int(fields[3], 16) & _LISTENING:
                return True
        return False

    def _failure(self, what: str) -> BackendError:
        return BackendError(
            f"back-end `{' '.join(self.command)}` {what}\n--- its log ---\n{self.log[-4000:]}"
        )


def leash() -> list[str]:
    """Return words before a command that make it die with this process, however this process dies.

    To the kernel that means the thread that started it; only the main thread is sure to live as long.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]
