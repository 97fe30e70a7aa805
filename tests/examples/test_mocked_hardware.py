"""The examples that mock hardware pass as tests of somebody else's would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES
from tests.support.programs import passing


@pytest.mark.parametrize(
    "name", ["button_led", "keyboard_and_led", "scmi_sensor", "spi_flash", "temperature_sensor"]
)
def test_it_is_short_and_passes(name: str, tmp_path: Path) -> None:
    example = EXAMPLES / f"{name}.py"
    lines = [line for line in example.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40
    assert " passed" in passing(tmp_path, "-p", "no:cacheprovider", example)
