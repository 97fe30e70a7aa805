"""./demo: what it shows, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES
from tests.support.front_end import until
from tests.support.programs import programs

pytestmark = pytest.mark.guest

FOLDER = "demo-"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with programs() as running:
        yield running.python(
            "-u", EXAMPLES / "demo.py", stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip


def left(folder: Path) -> list[str]:
    """Programs that speak of the demo's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/{FOLDER}" in words:
            found.append(words)
    return found


def test_it_shows_a_disk_dice_a_terminal_and_a_thermometer(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    for text in (
        "Hello from the host.",
        "Hello from the guest.",
        "Same text, same checksum.",
        "/dev/hvc0\n",
        "37 100\n",
        "21500\n",
        "-10250\n",
    ):
        assert text in output, output
    assert left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_interrupted(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if "boots with both" in line:
            break
    until(lambda: any("qemu" in words for words in left(tmp_path)), "the second guest starts")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate()
    assert demo.returncode == 130, output
    assert "guests and back-ends are gone" in output
    assert left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
