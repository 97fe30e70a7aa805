"""A served device that is upgraded: its program, the code that changes, and a driver that counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.front_end import until
from vhost_user.frontend import VirtioDriver
from vhost_user.program.upgrade import steps

CODE = """\
from vhost_user import Device, Request

class Dice(Device, type="rng"):
    count = 0

    def handle(self, request: Request) -> None:
        self.count += 1
        request.write(bytes([{version}]) + self.count.to_bytes(7, "little"))

    def save_state(self) -> object:
        return self.count

    def load_state(self, state: object, version: int) -> None:
        self.count = int(state)
"""
PATIENCE = 60.0

STATE, START = 0, 19
"""Places in /proc/PID/stat, behind the name of the program (proc(5))."""


class UpgradedProgram:
    """``vhost-user serve dice.py:Dice`` in ``folder``, and a driver of it. A context manager."""

    code_of_the_device = CODE

    def __init__(self, folder: Path, *options: str, packed: bool = False) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.code = folder / "dice.py"
        self.log = folder / "log"
        self.steps = folder / "steps"
        self.steps.mkdir()
        self.options = options
        self.packed = packed
        self.expected = 0
        self.killed: set[int] = set()
        self.write(1)

    def write(self, version: int, code: str | None = None) -> None:
        """The code of the device from now on."""
        new = self.code.with_suffix(".new")
        new.write_text((code or self.code_of_the_device).format(version=version))
        new.rename(self.code)

    def start(self) -> None:
        """Start the program (again), and wait until it listens."""
        command = [
            sys.executable, "-m", "vhost_user.cli", "serve", self.device,
            f"--socket-path={self.socket}", "--verbose", *self.options,
        ]  # fmt: skip
        environment = {**os.environ, steps.VARIABLE: str(self.steps), "PYTHONDONTWRITEBYTECODE": "1"}
        before = self.said.count("listening on")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.wait_for("listening on", before + 1)

    @property
    def device(self) -> str:
        return f"{self.code}:Dice"

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + PATIENCE
        while self.said.count(text) < times:
            assert time.monotonic() < end, f"{text!r} was not said {times} times:\n{self.said}"
            time.sleep(0.01)

    def pids(self) -> list[int]:
        """The processes that serve or wait, the newest last."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if f"--socket-path={self.socket}".encode() in words and fields[STATE] != "Z":
                    found.append((int(fields[START]), int(entry.name)))
        return [pid for _, pid in sorted(found)]

    def serving(self) -> int:
        """The process that serves."""
        if "goes on in place of" not in self.said:
            return self.process.pid
        return int(self.said.rpartition(" goes on in place of")[0].rpartition("process ")[2])

    def ask(self) -> None:
        """Ask the program for an upgrade, as an operator does."""
        os.kill(self.process.pid, signal.SIGUSR2)

    def upgrade(self) -> None:
        """Ask, and wait until it is done."""
        before = self.said.count("goes on in place of")
        self.ask()
        self.wait_for("goes on in place of", before + 1)

    def stop_at(self, step: str) -> None:
        (self.steps / f"{step}.pid").unlink(missing_ok=True)
        (self.steps / f"{step}.stop").touch()

    def stopped(self, step: str) -> int:
        """The process that has come to the step."""
        place = self.steps / f"{step}.pid"
        until_exists = time.monotonic() + PATIENCE
        while not place.exists() or not place.read_text():
            assert time.monotonic() < until_exists, f"step {step} was not reached:\n{self.said}"
            time.sleep(0.005)
        return int(place.read_text())

    def kill_at(self, step: str) -> int:
        """Ask for an upgrade, and kill the process that comes to this step."""
        self.stop_at(step)
        self.ask()
        pid = self.stopped(step)
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        (self.steps / f"{step}.stop").unlink()
        return pid

    def connect(self) -> VirtioDriver:
        self.driver = VirtioDriver(
            str(self.socket), num_queues=1, queue_size=16, packed=self.packed, timeout=PATIENCE
        ).bring_up()
        return self.driver

    def request(self) -> int:
        """One request; the version that served it. Each has the next number: none lost, none done twice."""
        answer = self.driver.request(writable=8)
        self.expected += 1
        assert int.from_bytes(answer[1:], "little") == self.expected, self.said
        return answer[0]

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "driver"):
            self.driver.close()
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not self.pids())
