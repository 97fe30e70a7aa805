"""docs/messages.md is written from the request table and current."""

import runpy
from pathlib import Path

import pytest

from vhost_user.spec.document import messages
from vhost_user.spec.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "messages.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == messages(), "run: python -m vhost_user.spec.document > docs/messages.md"


def test_the_document_names_every_message() -> None:
    text = messages()
    for row in (*FRONTEND_REQUESTS, *BACKEND_REQUESTS):
        assert f"| {row.id} | {row.name} |" in text


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_the_module_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("vhost_user.spec.document", run_name="__main__")
    assert capsys.readouterr().out == messages()
