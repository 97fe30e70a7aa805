"""The flaky disk: a filter in code, and the same one given to ``vhost-user serve``."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, load
from tests.support.programs import run_program, serving
from vhost_user.frontend import BlockDriver, DeviceError, VirtioDriver
from vhost_user.testing.virtio import Virtio

ROOT = EXAMPLES.parent


def failures(disk: BlockDriver, reads: int) -> list[int]:
    failed = []
    for number in range(1, reads + 1):
        try:
            assert disk.read(0, 1) == b"x" * 512
        except DeviceError:
            failed.append(number)
    return failed


def test_it_is_short() -> None:
    lines = (EXAMPLES / "flaky_disk.py").read_text().splitlines()
    assert len(lines) <= 40


def test_every_hundredth_read_fails(virtio: Virtio) -> None:
    disk = virtio.attach(load("flaky_disk").Flaky()).block()
    disk.write(0, b"x" * 512)
    assert failures(disk, 201) == [100, 200]
    assert virtio.errors == []  # refused, not broken


def served(path: Path, *arguments: str) -> AbstractContextManager[str]:
    return serving(
        [sys.executable, "-m", "vhost_user.cli", "serve", *arguments, f"--socket-path={path}"],
        "listening",
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )


def test_a_filter_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    with (
        served(path, "blk", "--memory=1M", "--filter=examples/flaky_disk.py:flaky"),
        BlockDriver(path) as disk,
    ):
        disk.write(0, b"x" * 512)
        assert failures(disk, 101) == [100]


def test_filters_of_the_command_line_stack_on_own_devices(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def shout(request, proceed):\n    request.write(b'!')\n    proceed(request)\n"
    )
    path = tmp_path / "disk.sock"
    filters = [f"--filter={tmp_path}/mine.py:shout"] * 2
    with served(path, "examples/dice.py:Dice", *filters), VirtioDriver(path) as driver:
        answer = driver.queue(0).request(writable=6)
    assert answer[:2] == b"!!"
    assert set(answer[2:]) <= set(range(1, 7))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "does not name a function: use module:name"),
        ("no_such_module:f", "there is no module 'no_such_module'"),
        ("no_such_file.py:f", "there is no file"),
        ("examples/flaky_disk.py:flakey", "has no 'flakey'; it has flaky"),
        ("examples/flaky_disk.py:READ", "is int, not a function"),
        ("os:getpid", "must take a request and the next handler"),
    ],
)
def test_a_filter_that_is_none_is_said_in_words(tmp_path: Path, name: str, reason: str) -> None:
    command = [sys.executable, "-m", "vhost_user.cli", "serve", "blk", "--memory=1M", f"--filter={name}"]
    answer = run_program(
        [*command, f"--socket-path={tmp_path}/disk.sock"], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert answer.returncode in {1, 2}
    assert f"--filter={name}: " in answer.stderr
    assert reason in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
