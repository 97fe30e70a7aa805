"""The back-end under test: a socket, or a command that is started and, when it dies, restarted."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import PeerTimeout, SocketError, VhostUserError
from vhost_user.protocol.requester import Quirk

SOCKET_PATH_BYTES = 107
"""The longest path that a Unix socket can be bound to (unix(7): 108 bytes with the zero at its end)."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/")  # noqa: S108  # mkdtemp makes a folder of ours in it
"""Where the socket of a command goes when the folder for temporary files has too long a name."""
PLACEHOLDER = "{socket}"
"""Stands for the socket's path in a command."""
START_SECONDS = 20.0
"""How long a command may take until its socket can be connected to."""
END_SECONDS = 5.0
"""How long it may take to end after SIGTERM, or after its front-end left if it serves only one."""
ORDERLY_END_SECONDS = 0.3
"""How long is waited after the first session to see whether the process ends with it."""
SOCKET = "backend.sock"


class TargetGone(Exception):  # noqa: N818  # a state
    """The back-end cannot be connected to any more, and cannot be restarted from here."""


class Target:
    """A back-end that listens at ``path``. ``pid``: its process, if known, for looking at what it holds.

    ``patience`` is how many seconds a back-end that is away may take to come back.
    """

    restartable = False
    one_session: bool | None = None
    """Whether the process ends when its front-end leaves; None until :meth:`after_session` has found out."""

    def __init__(
        self, path: str | os.PathLike[str], *, pid: int | None = None, patience: float = 10.0
    ) -> None:
        self.path = os.fspath(path)
        self._pid = pid
        self.patience = patience
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The back-end's process id, None when not known."""
        return self._pid

    def complaints(self) -> list[str]:
        """Warnings and errors among what the back-end has printed, as far as that is known."""
        return []

    def connect(self, *, timeout: float, quirks: Quirk = Quirk.TOLERANT) -> Frontend:
        """A new connection.

        Raises TargetGone when there is nobody to connect to within ``patience``, PeerTimeout when whoever
        listens accepts nobody within ``timeout`` seconds.
        """
        try:
            return Frontend.connect(self.path, timeout=timeout, retry_seconds=self.patience, quirks=quirks)
        except SocketError as error:
            _stuck(error)
            raise TargetGone(self._absence(error)) from error

    def _absence(self, error: SocketError) -> str:
        ended = "" if self._pid is None or _runs(self._pid) else f" (process {self._pid} has ended)"
        return f"nobody listens at {self.path}{ended}: {error}"

    def after_session(self, timeout: float) -> None:
        """Find out, once, whether the back-end goes on after a first and faultless session.

        To be called when such a session has just ended. Raises TargetGone when the back-end ended with it and
        is not ours to start again: nothing else can be found out about it.
        """
        if self.one_session is None:
            try:
                self.answers(timeout)
            except TargetGone as error:
                raise TargetGone(
                    f"{error}. It answered, and was gone when that front-end had left. To look at a back-end "
                    f"that serves one front-end and ends, give `-- COMMAND … {PLACEHOLDER}`, which starts it "
                    "anew for each session"
                ) from error
            self.one_session = False

    def answers(self, timeout: float) -> bool:
        """Whether a new connection is accepted and GET_FEATURES answered within ``timeout`` seconds.

        Raises TargetGone when there is nobody to connect to: that is another thing than no answer.
        """
        try:
            with self.connect(timeout=timeout) as frontend:
                frontend.get_features()
        except (VhostUserError, OSError):
            return False
        return True

    def death(self, wait: float = 0.0) -> str | None:
        """How the process died, in words, if it did since last asked; it may take ``wait`` seconds to die."""
        del wait
        return None

    def restart(self) -> None:
        """End the back-end, whatever it is doing, so that the next ``connect`` finds a new one.

        Raises TargetGone when that is not ours to do.
        """
        raise TargetGone(f"the back-end at {self.path} does not answer and is not ours to restart")

    def close(self) -> None:
        """End what was started. May be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CommandTarget(Target):
    """A back-end started by ``command``, in which ``{socket}`` stands for the path where it is to listen.

    It is started by the first ``connect`` and again whenever it is gone. ``output`` has what it printed.
    Raises ValueError when the command names no ``{socket}``.
    """

    restartable = True

    def __init__(self, command: Sequence[str], *, patience: float = START_SECONDS) -> None:
        if not any(PLACEHOLDER in word for word in command):
            raise ValueError(f"the command must contain {PLACEHOLDER} where the socket's path goes")
        self._folder = _short_folder()
        super().__init__(Path(self._folder, SOCKET), patience=patience)
        self.command = [word.replace(PLACEHOLDER, self.path) for word in command]
        self.output = Path(self._folder, "output")
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._said = 0
        self._last: Frontend | None = None
        self._usual_status = 0
        self._died: str | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the running command."""
        return None if self._process is None else self._process.pid

    def _start(self) -> None:
        self._bury()
        Path(self.path).unlink(missing_ok=True)
        self._last = None
        with self.output.open("ab") as output:
            self._said = output.tell()
            self._process = subprocess.Popen(  # noqa: S603  # the user's own command
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._starts += 1
        self.restarts = self._starts - 1

    def connect(self, *, timeout: float, quirks: Quirk = Quirk.TOLERANT) -> Frontend:
        """A new connection; starts the command if it does not run.

        Raises TargetGone when it ends at once or never listens, PeerTimeout when it ran before and accepts
        nobody for ``timeout`` seconds.
        """
        self._await_end()
        deadline = time.monotonic() + timeout
        started = 0
        while True:
            if self._process is None or self._process.poll() is not None:
                if started == 2:
                    raise TargetGone(f"the command ends before it listens; it said:\n{self.last_words()}")
                self._start()
                started += 1
                deadline = time.monotonic() + self.patience
            try:
                frontend = Frontend.connect(self.path, timeout=timeout, quirks=quirks)
            except SocketError as error:
                _stuck(error)
                if time.monotonic() > deadline:
                    if not started:
                        raise PeerTimeout(f"the command goes on but listens no more: {error}") from error
                    raise TargetGone(f"the command does not listen at {self.path}: {error}") from error
            else:
                self._last = frontend
                return frontend
            time.sleep(0.01)

    def _await_end(self) -> None:
        """Let a process that serves one front-end finish ending.

        Its listener may accept one more connection meanwhile, and nobody would answer there: a check would
        report what the back-end never did.
        """
        if not self.one_session or self._process is None or self._last is None or self._last.fileno() >= 0:
            return
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.restart()
        else:
            self._bury()

    def after_session(self, timeout: float) -> None:
        """Find out, once, whether the command ends when its front-end leaves, and with which exit status.

        That status is not a death afterwards.
        """
        del timeout
        if self.one_session is not None or self._process is None:
            return
        try:
            status = self._process.wait(ORDERLY_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.one_session = False
            return
        if status < 0:
            return  # killed by a signal: nobody ends like that on purpose
        self.one_session = True
        self._usual_status = status
        self._bury()

    def death(self, wait: float = 0.0) -> str | None:
        """How the process died, if it did.

        Exit status 0 is not a death, nor is the one with which a faultless session ended (some
        serve one session and end).
        """
        if self._process is not None and self._died is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait)
            self._bury()
        died, self._died = self._died, None
        return died

    def _bury(self) -> None:
        """Keep in mind how the process ended, if it did; a new one may be started before anybody asks."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return
        self._process = None
        if status not in (0, self._usual_status):
            how = (
                f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with exit status {status}"
            )
            words = self.last_words(3)
            self._died = f"the back-end {how}" + (f"; its last words: {words}" if words else "")

    def last_words(self, lines: int = 10) -> str:
        """The last lines that the command printed since it was started last."""
        return "\n".join(self._printed()[-lines:])

    def complaints(self) -> list[str]:
        """Lines with a warning or an error that the command printed since it was started last."""
        return [line for line in self._printed() if re.search("warn|error", line, re.IGNORECASE)]

    def _printed(self) -> list[str]:
        try:
            with self.output.open("rb") as output:
                output.seek(self._said)
                return output.read().decode(errors="replace").splitlines()
        except OSError:
            return []

    def restart(self) -> None:
        """Kill the process."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End the command and remove its folder."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)


def _short_folder() -> str:
    """A new folder in which a socket can be bound: its path must fit into 107 bytes.

    Raises SocketError when there is none: no usual folder for temporary files can be written to.
    """
    refused = ""
    for place in (tempfile.gettempdir(), *SHORT_FOLDERS):
        if len(os.fsencode(place)) + len("/vhost-user-12345678/") + len(SOCKET) > SOCKET_PATH_BYTES:
            refused = f"{place} has too long a name"
            continue
        try:
            return tempfile.mkdtemp(prefix="vhost-user-", dir=place)
        except OSError as error:
            refused = f"{place}: {error.strerror}"
    raise SocketError(
        errno.ENAMETOOLONG,
        f"there is no folder for the socket of the command ({refused}); set TMPDIR to one with a short name",
    )


def _runs(pid: int) -> bool:
    """Whether a process exists that is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _stuck(error: SocketError) -> None:
    """Raise PeerTimeout when the error means that the listener's backlog stays full."""
    if error.errno == errno.EAGAIN:
        raise PeerTimeout(str(error)) from error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
