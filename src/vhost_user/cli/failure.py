"""How the command says that something broke: one line on stderr, no traceback."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what was asked; the message names what broke and what to do.

    ``status`` is the exit status that it leads to.
    """

    def __init__(self, text: str, *, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class UsageError(CommandError):
    """The arguments make no sense."""

    def __init__(self, text: str) -> None:
        super().__init__(text, status=2)
