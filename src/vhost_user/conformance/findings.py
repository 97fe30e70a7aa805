"""How a check says what it found."""

from __future__ import annotations


class Deviation(Exception):  # noqa: N818  # named after what was found
    """The back-end does not do what the rule says.

    ``quirk`` names the known quirk that this is. ``silent``: an answer is still owed on the connection, which
    is of no more use.
    """

    def __init__(self, text: str, *, quirk: str | None = None, silent: bool = False) -> None:
        super().__init__(text)
        self.quirk = quirk
        self.silent = silent


class Skip(Exception):  # noqa: N818  # an outcome
    """The rule cannot be observed on this back-end; the message says why."""
