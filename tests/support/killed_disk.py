"""A disk of a real guest whose back-end is killed under verified load, and started again."""

from __future__ import annotations

import functools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.programs import COMMAND
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

SUPPORT = Path(__file__).parent
SIZE = 64 << 20
THREADS, BLOCKS = 12, 128

KINDS: dict[str, Callable[[Path], list[str]]] = {
    "fast path": lambda image: [str(COMMAND), "serve", "blk", f"--blk-file={image}"],
    "Python": lambda image: [str(COMMAND), "serve", "blk", f"--blk-file={image}", "--no-fast-path"],
    "slow and out of order": lambda image: [sys.executable, str(SUPPORT / "slow_disk.py"), str(image)],
}
"""Commands of back-ends, without the socket."""


@functools.cache
def load() -> bytes:
    """The load, as a program that needs no library in the guest."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "load"
        compiler = shutil.which("cc") or "gcc"
        source = SUPPORT / "killed_disk_load.c"
        subprocess.run([compiler, "-O2", "-static", "-pthread", "-o", built, source], check=True)
        return built.read_bytes()


class KilledDisk:
    """Use with ``with``. The guest writes from the start, with twelve requests in flight."""

    def __init__(self, folder: Path, kind: str, *, packed: bool) -> None:
        self.recovered = 0
        """How often a new process found requests in flight. Known when all is over."""
        self.packed = packed
        self.image = folder / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        self._socket = folder / "disk.sock"
        self.backend = BackendProcess(
            [*KINDS[kind](self.image), f"--socket-path={self._socket}", "--verbose"],
            self._socket,
            folder / "log",
            announcement="listening",
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.backend.start()
        self._stack.callback(self.backend.kill)
        with ExitStack() as undo:
            undo.push(self._stack)
            disk = VhostUserBlk(self._socket, packed=self.packed)
            self.guest = self._stack.enter_context(
                Guest(devices=[disk], reconnect=1, files={"/load": load()})
            )
            # VIRTIO_F_RING_PACKED is bit 34, and this a line of bits.
            assert self.guest.run("cat /sys/block/vda/device/features")[34] == str(int(self.packed))
            command = f"/load /dev/vda {THREADS} {BLOCKS} /stop"
            self.guest.run(f"({command} >/out 2>&1; echo $? >/status) </dev/null >/dev/null 2>&1 &")
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def kill(self, chance: random.Random) -> None:
        """Kill the back-end at a random moment under load, and start it again, at once or a little later."""
        self._wait_for_writes()
        time.sleep(chance.random())
        self.backend.kill()
        time.sleep(chance.choice([0, 0.5]))
        self.backend.start()

    def finish(self) -> int:
        """End the load and look at everything: blocks written. AssertionError for whatever was lost."""
        self._wait_for_writes()
        output = self.guest.run(
            "touch /stop; until [ -e /status ]; do sleep 0.1; done; cat /out", timeout=120
        )
        assert self.guest.run("cat /status").strip() == "0", output
        assert "I/O error" not in self.guest.run("dmesg")
        self.guest.shutdown()
        self.backend.stop()
        said = self.backend.log
        self.recovered = said.count("are taken up again")
        assert "WARNING" not in said, said
        assert "Traceback" not in said, said
        return int(output.removeprefix("written "))

    def _wait_for_writes(self) -> None:
        """Until the guest's writes arrive; if they do not, whatever the load found is in the error."""
        before = self.image.stat().st_mtime_ns
        end = time.monotonic() + 60
        while self.image.stat().st_mtime_ns == before:
            assert time.monotonic() < end, (
                f"the guest does not write any more: {self.guest.run('cat /out')!r}"
            )
            time.sleep(0.02)
