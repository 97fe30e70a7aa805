"""The messages that docs/errors.md explains are messages of the code."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = 4
"""Words in a row that nobody writes twice by chance."""
OF_THE_KERNEL = {"No space left on device", "Input/output error"}
PUT_TOGETHER = {
    "... it takes sides, name (give them as --option key=value)": "(give them as --option key=value)",
    "Dice.save_state: the state['device'][...] is a set: ...": "\0 is a \0: a state is made of",
    "aiohttp.web cannot be imported (...)": "\0 cannot be imported (\0",
    "the state is cut short: ...": "the state is \0: it has",
    "Dice.fail returned a coroutine: nobody awaits it": "\0.\0 returned a coroutine: ",
    "coin is left out: the program vhost-user-coin is neither beside ... nor in PATH": (
        " is left out: the program \0 is neither beside \0 nor in PATH"
    ),
    "handle_event failed for queue N in worker W": "handle_event failed for \0 in worker \0",
    "--filter=mine:slow: ...": "--filter=\0: \0",
}
"""Messages of words that stand apart in the code, each with what makes it; a NUL is what is put in."""
VARYING = re.compile(
    r"\.\.\.|'[^']*'|\[[CVH]\d*\.*\]|\([^)]*\)|\b(?:N|K|L|M|W|H|\d[\d,*]*)\b|\b[Dd]ice\b|\b(?:watch|VRING_CALL)\b|[:;,=.]"
)
"""What a message on the page has an example in, or leaves out; and where a sentence may be put together."""


def messages(page: str) -> Iterator[str]:
    """What stands in the first column of the two tables of our own messages."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        if section.startswith(("When the program starts", "While it runs")):
            for row in re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE):
                for text in re.findall(r"`([^`]+)`", re.sub(r"\(`[^)]*\)|\(with `[^)]*\)", "", row)):
                    if " " in text:
                        yield text


@functools.cache
def said_by_the_code() -> str:
    """Every string of the package, a line each; what is put into it is a NUL."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else "\0"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                value = node.value
                text = value if isinstance(value, str) else value.decode(errors="replace")
            else:
                continue
            found.append(" ".join(re.sub(r"%[-.\d]*[sdrfgx]", "\0", text).split()))
    return "\n".join(found)


def is_said(message: str) -> bool:
    """Whether four words of it, or all if it has no four together, stand in the code one after the other."""
    if (made_by := PUT_TOGETHER.get(message)) is not None:
        return made_by in said_by_the_code()
    pieces = [words for piece in VARYING.split(message) if len(words := piece.split()) >= 2]
    long = [words for words in pieces if len(words) >= RUN]
    runs = [
        " ".join(words[first : first + RUN])
        for words in long or pieces
        for first in range(max(1, len(words) - RUN + 1))
    ]
    return any(run in said_by_the_code() for run in runs)


MESSAGES = sorted(set(messages((ROOT / "docs" / "errors.md").read_text())) - OF_THE_KERNEL)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_one_of_the_code(message: str) -> None:
    assert is_said(message)


def test_the_page_has_many() -> None:
    assert len(MESSAGES) > 100


@pytest.mark.parametrize(
    "wrong", ["the disk is on fire", "queue N: gone with the wind", "Dice.handle was never there"]
)
def test_what_the_code_does_not_say_is_seen(wrong: str) -> None:
    assert not is_said(wrong)
