"""Verified load in a guest: the program ``verified_load.c``, started, watched and ended from outside."""

from __future__ import annotations

import base64
import functools
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from vhost_user.testing.guest import Guest

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = "/usr/bin/verified-load"


@functools.cache
def program() -> bytes:
    """The program, compiled once for each run of the tests; static, so that guest and host both run it."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "verified-load"
        compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
        options = ["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *options, "-o", built, SOURCE], check=True)
        return built.read_bytes()


class Counts(NamedTuple):
    """What the load has done so far."""

    writes: int
    reads: int
    comparisons: int


class VerifiedLoad:
    """Load on one disk of a guest that was made with ``files=VerifiedLoad.files()``."""

    def __init__(
        self, guest: Guest, device: str = "/dev/vda", *, blocks: int = 4096, threads: int = 4
    ) -> None:
        self.guest = guest
        self.device = device
        self.blocks = blocks
        self.threads = threads
        self._place = f"/run/load-{Path(device).name}"

    @staticmethod
    def files() -> dict[str, bytes]:
        """What the guest needs."""
        return {PROGRAM: program()}

    def start(self) -> None:
        """Begin; the load goes on until ``finish``, or until it finds something wrong."""
        place = self._place
        command = f"{PROGRAM} run {self.device} {self.blocks} {self.threads} {place}.table {place}.counts"
        self.guest.run(
            f"(status=0; {command} || status=$?; echo $status >{place}.status) >{place}.log 2>&1 &"
        )
        self.progress(1)

    def counts(self) -> Counts:
        """What it has done by now. AssertionError if it ended, with what it found wrong."""
        place = self._place
        words = self.guest.run(
            f"cat {place}.counts; [ ! -e {place}.status ] || cat {place}.log {place}.status"
        )
        lines = words.splitlines()
        assert len(lines) == 1, f"the load ended: {words}"
        writes, reads, comparisons = map(int, lines[0].split())
        return Counts(writes, reads, comparisons)

    def progress(self, writes: int = 20, timeout: float = 120.0) -> Counts:
        """Wait until it has written so often more. AssertionError if it does not, or has ended."""
        end = time.monotonic() + timeout
        place = self._place
        self.guest.run(f"until [ -s {place}.counts ]; do sleep 0.1; done")
        first = self.counts()
        while (now := self.counts()).writes < first.writes + writes:
            assert time.monotonic() < end, f"the load stands still: {first}, and {now} after {timeout:g} s"
            time.sleep(0.1)
        return now

    def finish(self, image: Path) -> Counts:
        """End it: all that it wrote and read is compared in the guest, and then in the ``image`` as well."""
        place = self._place
        counts = self.counts()
        self.guest.run("killall -TERM verified-load")
        said = self.guest.run(
            f"until [ -e {place}.status ]; do sleep 0.1; done; cat {place}.log {place}.status", timeout=120
        )
        assert said == "0\n", f"the load failed: {said}"
        table = base64.b64decode(self.guest.run(f"base64 {place}.table"))
        with tempfile.TemporaryDirectory() as folder:
            checker, versions = Path(folder) / "verified-load", Path(folder) / "table"
            checker.write_bytes(program())
            checker.chmod(0o755)
            versions.write_bytes(table)
            done = subprocess.run(
                [checker, "check", image, str(self.blocks), versions],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, f"the image: {done.stderr}"
        return counts
