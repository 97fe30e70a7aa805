"""A back-end that is killed in the middle of requests, again and again (C111, C113, C138, C139)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhost_user.frontend import VirtioDriver
from vhost_user.frontend.pending import Pending

ROOT = Path(__file__).resolve().parents[2]
KILLS = 5
BLOCK = 16


class Served:
    """The program of a slow store, at a socket."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.socket = folder / "store.sock"
        self.file = folder / "store"
        self.file.write_bytes(bytes(1 << 16))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.slow_store", self.kind, self.socket, self.file], cwd=ROOT
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    server = Served(tmp_path, getattr(request, "param", "store"))
    server.start()
    deadline = time.monotonic() + 60
    while not server.socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield server
    server.kill()


def write(driver: VirtioDriver, chance: random.Random, position: int) -> tuple[int, bytes, Pending]:
    data = chance.randbytes(BLOCK)
    queue = driver.queue(chance.randrange(len(driver.queues)))
    message = [position.to_bytes(8, "little"), data]
    return position, data, queue.submit(message, 8, indirect=chance.random() < 0.5)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C139_no_request_is_lost_or_answered_twice(served: Served, packed: bool) -> None:
    chance = random.Random(1)
    every: list[tuple[int, bytes, Pending]] = []
    with VirtioDriver(
        served.socket, num_queues=2, queue_size=256, packed=packed, inflight=True, timeout=60
    ) as driver:
        assert driver.inflight is not None
        place = 0
        for _ in range(KILLS):
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


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("served", ["meter"], indirect=True)
def test_what_may_not_be_done_twice_is_asked_about(served: Served, packed: bool) -> None:
    chance = random.Random(2)
    with VirtioDriver(served.socket, queue_size=256, packed=packed, inflight=True, timeout=60) as driver:
        requests = [write(driver, chance, BLOCK * number) for number in range(21)]
        # The last one was taken after all others, and those at odd places are not going to end.
        requests[20][2].wait(60)
        before = {position for position, _, pending in requests if pending.done}
        served.kill()
        served.start()
        driver.reconnect(retry_seconds=60)
        later = write(driver, chance, 22 * BLOCK)
        answers = {position: pending.wait(60) for position, _, pending in (*requests, later)}
    assert answers.pop(later[0]) == later[0].to_bytes(8, "little")
    refused = {position for position, answer in answers.items() if answer == b"refused!"}
    assert refused >= {BLOCK * number for number in range(1, 20, 2)}
    assert not refused & before
    for position, answer in answers.items():
        assert answer in {b"refused!", position.to_bytes(8, "little")}
