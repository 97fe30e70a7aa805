"""The example that logs in over a console passes as a test of somebody else's would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import passing

EXAMPLE = Path(__file__).parents[2] / "examples" / "serial_login.py"

pytestmark = pytest.mark.guest


def test_it_is_short_and_passes(tmp_path: Path) -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40
    assert "1 passed" in passing(tmp_path, "-p", "no:cacheprovider", EXAMPLE)
