"""The lesson of docs/board.md: its test passes, and its board lives without a guest."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.support.examples import EXAMPLES
from tests.support.live_page import LivePage
from tests.support.programs import COMMAND, passing, programs, serving

EXAMPLE = EXAMPLES / "board_traffic_light.py"
LIGHTS = ["red", "yellow", "green"]


def test_its_test_passes(tmp_path: Path) -> None:
    assert "1 passed" in passing(tmp_path, "-p", "no:cacheprovider", EXAMPLE)


def lit(page: LivePage) -> list[str]:
    return [light for light in LIGHTS if page.values.get(f"lights/{light}")]


def test_it_lives_without_a_guest() -> None:
    with programs() as running:
        process = running.python(EXAMPLE)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"the page: (http://\S+)\n", line)
        assert found, (line, *process.communicate())
        with LivePage(found[1]) as page:
            page.until(lambda: lit(page) == ["green"])
            page.act("lights/Let me cross", 1)
            page.act("lights/Let me cross", 0)
            page.until(lambda: lit(page) == ["yellow"])
            page.until(lambda: lit(page) == ["red"])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


def test_it_is_a_board_for_a_guest(tmp_path: Path) -> None:
    with serving([COMMAND, "board", EXAMPLE, f"--socket-dir={tmp_path}"], "the page: ", quiet=True) as said:
        for name in ("lights", "bus", "terminal"):
            assert f"{name}: listening on {tmp_path}/{name}.sock" in said
