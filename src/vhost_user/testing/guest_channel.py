"""The way commands go into the guest and their output comes back: lines over a serial port of their own."""

from __future__ import annotations

import base64
import binascii
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vhost_user.testing.guest_errors import GuestError, GuestTimeoutError

# Linux promises to keep no more than 4095 bytes of a terminal that nobody has read yet.
_LINE = 2048
# How often, in seconds, the health of the guest is looked at while an answer is awaited.
_GLANCE = 0.25
# How long, in seconds, QEMU may take to end after it closed its connections.
_END = 5.0


class Deadline:
    """A moment in the future by which something must have happened.

    Args:
        seconds: how far away the moment is.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._moment = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, 0 when the moment has passed."""
        return max(0.0, self._moment - time.monotonic())


@dataclass(frozen=True)
class CommandResult:
    """A command's exit status, and its standard output and standard error together."""

    status: int
    output: str


class CommandChannel:
    """The host's end of the command channel; process 1 of the initramfs has the other.

    Args:
        connection: the stream socket that carries the serial port.
        check_health: called now and then while an answer is awaited; raises if there is no hope of one. Its
            argument is how many seconds to wait for QEMU's end, for when the connection broke.
    """

    def __init__(self, connection: socket.socket, check_health: Callable[[float], None]) -> None:
        self._connection = connection
        self._check_health = check_health
        self._received = bytearray()
        self._next_id = 1
        self._unanswered: int | None = None

    def wait_until_ready(self, deadline: Deadline) -> None:
        """Wait until the guest has booted so far that it takes commands."""
        for line in self._lines(deadline, "the guest to finish booting"):
            if line == "@ready":
                self._unanswered = None
                return

    def send(self, command: str, deadline: Deadline) -> int:
        """Start a command and return the number under which `answer` finds its result.

        Raises:
            GuestError: the command before this one is still running.
        """
        if self._unanswered is not None:
            raise GuestError(
                f"guest command {self._unanswered} has not ended; wait for it, or reboot the guest"
            )
        text = base64.b64encode(command.encode() + b"\n").decode()
        for start in range(0, len(text), _LINE):
            self._transmit(f"+{text[start : start + _LINE]}\n", deadline)
            for line in self._lines(deadline, "the guest to take a command"):
                if line == "@+":
                    break
        number = self._next_id
        self._next_id += 1
        self._unanswered = number
        self._transmit(f"!{number}\n", deadline)
        return number

    def answer(self, number: int, deadline: Deadline) -> CommandResult:
        """Wait for the end of a command and return its result.

        Raises:
            GuestTimeoutError: it did not end in time. It may be waited for again.
            GuestError: the answer is not one; the guest rebooted, say, while the command ran.
        """
        for line in self._lines(deadline, f"guest command {number} to end"):
            if line == f"@begin {number}":
                break
            if line == "@ready":
                self._unanswered = None
                raise GuestError(f"the guest rebooted while command {number} ran")
        # The answer comes in one piece after the command has ended, so now the command's own time no longer
        # counts: only a dead guest stops in the middle of an answer.
        output: list[str] = []
        for line in self._lines(Deadline(30.0), f"the output of guest command {number}"):
            if line.startswith(f"@end {number} "):
                self._unanswered = None
                return CommandResult(int(line.split()[2]), _decoded(output))
            output.append(line)
        raise AssertionError("the lines of a channel end only in an exception")

    def move(self, connection: socket.socket) -> None:
        """The guest runs in another QEMU, whose serial port ``connection`` is.

        What it wrote in the one before is read first. No command may be on its way into it.
        """
        while select.select([self._connection], [], [], 0)[0] and (received := self._connection.recv(65536)):
            self._received += received
        self._connection = connection

    def _transmit(self, text: str, deadline: Deadline) -> None:
        self._connection.settimeout(max(deadline.remaining(), _GLANCE))
        try:
            self._connection.sendall(text.encode())
        except OSError as error:
            self._check_health(_END)
            raise GuestError(f"the guest's command channel broke: {error}") from error

    def _lines(self, deadline: Deadline, awaited: str) -> Iterator[str]:
        """Yield lines without their end; raise when none has come by the deadline."""
        while True:
            line, separator, rest = self._received.partition(b"\n")
            if separator:
                self._received = rest
                yield line.decode("ascii", "replace").strip("\r")
                continue
            wait = min(deadline.remaining(), _GLANCE)
            if select.select([self._connection], [], [], wait)[0]:
                try:
                    received = self._connection.recv(65536)
                except ConnectionError:
                    received = b""
                if not received:
                    self._check_health(_END)
                    raise GuestError(f"the guest's command channel closed while waiting for {awaited}")
                self._received += received
                continue
            self._check_health(0.0)
            if not deadline.remaining():
                raise GuestTimeoutError(f"waited {deadline.seconds:g} s for {awaited}")


def _decoded(lines: list[str]) -> str:
    try:
        return base64.b64decode("".join(lines), validate=True).decode(errors="replace")
    except binascii.Error as error:
        raise GuestError(f"the guest's answer is not base64: {lines!r}") from error
