"""A store in a process of its own that is killed in the middle of requests, and a driver that comes back."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.front_end import until
from vhost_user.frontend import VirtioDriver
from vhost_user.frontend.iommu import Iommu
from vhost_user.frontend.pending import Pending

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 16


class KilledStore:
    """The program of a slow store, at a socket."""

    def __init__(
        self, folder: Path, kind: str = "store", size: int = 1 << 16, *, iommu: bool = False
    ) -> None:
        self.kind = kind
        self.options = ["--iommu"] if iommu else []
        self.socket = folder / "store.sock"
        self.log = folder / "log"
        self.file = folder / "store"
        self.file.write_bytes(bytes(size))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["-m", "tests.support.slow_store", self.kind, str(self.socket), str(self.file), *self.options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        until(self.socket.exists, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def write(driver: VirtioDriver, chance: random.Random, position: int) -> tuple[int, bytes, Pending]:
    """Submit one block to some queue."""
    data = chance.randbytes(BLOCK)
    queue = driver.queue(chance.randrange(len(driver.queues)))
    message = [position.to_bytes(8, "little"), data]
    return position, data, queue.submit(message, 8, indirect=chance.random() < 0.5)


def kill_and_reconnect(
    folder: Path, rounds: Iterable[int], chance: random.Random, *, packed: bool, iommu: Iommu | None = None
) -> int:
    """A kill each round, with up to 24 new requests in flight; how many there were in all.

    Each request writes a place of its own, so that one that was carried out nowhere, or elsewhere, is seen:
    AssertionError.
    """
    every: list[tuple[int, bytes, Pending]] = []
    place = 0
    with (
        KilledStore(folder, iommu=iommu is not None) as served,
        VirtioDriver(
            served.socket,
            num_queues=2,
            queue_size=256,
            packed=packed,
            inflight=True,
            iommu=iommu,
            timeout=60,
        ) as driver,
    ):
        assert driver.inflight is not None
        for _ in rounds:
            for _ in range(24):
                every.append(write(driver, chance, place))
                place += BLOCK
            # Some have come back, in whatever order; the others are on their way.
            every[-chance.randrange(1, 24)][2].wait(60)
            served.kill()
            every.append(write(driver, chance, place))
            place += BLOCK
            served.start()
            driver.reconnect(retry_seconds=60)
        for position, _, pending in every:
            assert pending.wait(60) == position.to_bytes(8, "little")
        # The ring goes on at the right place.
        for index in range(2):
            assert len(driver.queue(index).request((0).to_bytes(8, "little"), 16)) == BLOCK
        content = served.file.read_bytes()
    for position, data, _ in every:
        assert content[position : position + BLOCK] == data
    return len(every)
