"""How the command says that something broke: one line on stderr, no traceback."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what was asked; the message names what broke and what to do. Exit status 1."""


class UsageError(CommandError):
    """The arguments make no sense. Exit status 2."""
