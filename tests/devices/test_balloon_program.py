"""A served balloon: the control socket, an upgrade and SIGKILL while it is inflated; C132, C134, C138."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from tests.support.programs import run_python
from tests.support.upgraded_program import PATIENCE, UpgradedProgram
from vhost_user.frontend import BalloonDriver
from vhost_user.spec.balloon import BalloonStat

MIB = 1 << 20


class ServedBalloon(UpgradedProgram):
    """``vhost-user serve balloon`` with a target of 2 MiB, its control socket, and a driver."""

    driver: BalloonDriver

    @property
    def device(self) -> str:
        return "balloon"

    def control(self, *words: str) -> Any:
        """What the control socket answers."""
        done = run_python("-m", "vhost_user.cli", "control", self.folder / "control", *words)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def report(self) -> Any:
        return self.control("balloon")


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServedBalloon]:
    options = ("--target=2M", f"--control={tmp_path / 'control'}")
    with ServedBalloon(tmp_path, *options, packed=request.param) as program:
        program.driver = BalloonDriver(
            str(program.socket), packed=request.param, inflight=True, timeout=PATIENCE
        )
        yield program


def test_an_operator_sees_it_and_sets_its_target(served: ServedBalloon) -> None:
    served.driver.follow()
    served.driver.give_statistics({BalloonStat.MEMFREE: 5 * MIB})
    until(lambda: served.report()["stats"] == {"memfree": 5 * MIB}, "statistics come")
    assert served.report() == {
        "target": 2 * MIB,
        "actual": 2 * MIB,
        "given_back": 2 * MIB,
        "stats": {"memfree": 5 * MIB},
    }
    assert served.control("set-target", f"size={4 * MIB}") == {"target": 4 * MIB}
    assert served.driver.follow() == 1024
    assert served.report()["actual"] == 4 * MIB
    assert "whole pages of 4096 bytes" in served.control("set-target", "size=1")
    assert "needs size" in served.control("set-target")


def test_C132_an_upgrade_leaves_it_as_large_as_it_was(served: ServedBalloon) -> None:
    served.control("set-target", f"size={4 * MIB}")
    served.driver.follow()
    served.driver.give_statistics({BalloonStat.MEMFREE: 5 * MIB})
    for pages in (1024, 1280):
        served.upgrade()
        assert served.report()["target"] == served.report()["actual"] == pages * 4096
        until(lambda: served.report()["stats"] == {"memfree": 5 * MIB}, "the statistics come again")
        served.control("set-target", f"size={5 * MIB}")
        assert served.driver.follow() == 1280
        assert served.report()["actual"] == 5 * MIB


def test_C134_C138_a_program_that_was_killed_has_the_guest_follow_its_target(served: ServedBalloon) -> None:
    served.control("set-target", f"size={4 * MIB}")
    served.driver.follow()
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait()
    served.start()
    served.driver.reconnect(str(served.socket))
    assert served.report()["target"] == 2 * MIB
    assert served.driver.follow() == 512
    assert served.report()["actual"] == 2 * MIB
