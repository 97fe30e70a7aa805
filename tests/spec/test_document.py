"""docs/messages.md is written from the request table and current."""

import sys
from pathlib import Path

from tests.support.programs import run_program
from vhost_user.spec.document import messages
from vhost_user.spec.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "messages.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == messages(), "run: python -m vhost_user.spec.document > docs/messages.md"


def test_the_document_names_every_message() -> None:
    text = messages()
    for row in (*FRONTEND_REQUESTS, *BACKEND_REQUESTS):
        assert f"| {row.id} | {row.name} |" in text


def test_the_module_prints_it() -> None:
    command = [sys.executable, "-m", "vhost_user.spec.document"]
    printed = run_program(command, check=True)
    assert (printed.stdout, printed.stderr) == (messages(), "")
