"""A back-end that is killed at random while a guest writes and reads what it wrote: C114, C117, C138, C139.

`./soak` runs the same for hours.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.conftest import COMMAND
from tests.guest.test_blk_in_guest import wait_until
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

pytestmark = pytest.mark.guest

KILLS = int(os.environ.get("VHOST_USER_KILLS", "3"))
SEED = int(os.environ.get("VHOST_USER_SEED", "1"))
THREADS, BLOCKS = 12, 128
SLOW_DISK = Path(__file__).with_name("slow_disk.py")


@pytest.fixture(scope="session")
def verified_load(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The load, as a program that needs no library in the guest."""
    program = tmp_path_factory.mktemp("load") / "verified_load"
    source = Path(__file__).with_name("verified_load.c")
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-O2", "-static", "-pthread", "-o", program, source], check=True)
    return program.read_bytes()


def command(kind: str, image: Path) -> list[str | Path]:
    match kind:
        case "fast path":
            return [COMMAND, "serve", "blk", f"--blk-file={image}"]
        case "Python":
            return [COMMAND, "serve", "blk", f"--blk-file={image}", "--no-fast-path"]
    return [sys.executable, SLOW_DISK, image]


def running(image: Path) -> None:
    """Wait until the guest's writes arrive."""
    before = image.stat().st_mtime_ns
    wait_until(lambda: image.stat().st_mtime_ns != before, "the guest writes")


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("kind", ["fast path", "Python", "slow and out of order"])
def test_C139_nothing_is_lost_torn_or_doubled(
    kind: str, packed: bool, image: Path, tmp_path: Path, verified_load: bytes
) -> None:
    chance = random.Random(SEED)
    socket = tmp_path / "disk.sock"
    backend = BackendProcess(
        [*command(kind, image), f"--socket-path={socket}", "--verbose"],
        socket,
        tmp_path / "log",
        announcement="listening",
    )
    backend.start()
    recovered = 0
    try:
        with Guest(
            devices=[VhostUserBlk(socket, packed=packed)], reconnect=1, files={"/load": verified_load}
        ) as guest:
            assert guest.run("cat /sys/block/vda/device/features")[34] == str(int(packed))
            load = f"/load /dev/vda {THREADS} {BLOCKS} /stop"
            guest.run(f"({load} >/out 2>&1; echo $? >/status) </dev/null >/dev/null 2>&1 &")
            for _ in range(KILLS):
                running(image)
                time.sleep(chance.random())
                backend.kill()
                time.sleep(chance.choice([0, 0.5]))
                backend.start()
            running(image)
            output = guest.run("touch /stop; until [ -e /status ]; do sleep 0.1; done; cat /out", timeout=120)
            assert guest.run("cat /status").strip() == "0", output
            assert "written" in output
            assert "I/O error" not in guest.run("dmesg")
            guest.shutdown()
        backend.stop()
        recovered = backend.log.count("are taken up again")
        assert "WARNING" not in backend.log, backend.log
        assert "Traceback" not in backend.log, backend.log
    finally:
        backend.kill()
    print(f"{KILLS} kills, {recovered} times with requests in flight; {output.strip()}")
