"""What can go wrong with a guest, in words that say what to do about it."""

from __future__ import annotations


class GuestError(RuntimeError):
    """The guest, or the QEMU that runs it, did not do what was asked.

    The message ends with the last lines of the guest's console and of QEMU's own output.
    """


class GuestUnavailableError(GuestError):
    """Something a guest needs is not on this machine; the message says which package or command brings it."""


class GuestTimeoutError(GuestError):
    """The guest did not answer within the time given."""


class GuestCommandError(GuestError):
    """A command in the guest ended with a status other than zero.

    Attributes:
        command: the shell text that ran.
        status: its exit status (128 + signal when a signal ended it).
        output: what it printed, standard output and standard error together.
    """

    def __init__(self, command: str, status: int, output: str, evidence: str = "") -> None:
        self.command = command
        self.status = status
        self.output = output
        shown = output.rstrip() or "(it printed nothing)"
        super().__init__(f"guest command ended with status {status}: {command}\n{shown}{evidence}")
