"""Attacks on one device of a process that has two: the other's heartbeat goes on, and nothing is left behind.

    def test_H87_a_full_eventfd(arena):
        with arena("rng") as attack:
            front = attack.front_end()
            ...

When the block ends, the attacker's connections are closed, and the fixture asserts that
- the bystander was never silent for longer than `SILENCE`, beyond what another process, which is left alone,
  was silent at the same time (a busy machine is no fault of ours),
- the victim serves a well-behaved front-end again,
- no descriptor, thread, mapping or memory is left behind,
- SIGTERM ends the process with status 0.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import PATIENCE, FrontEnd, until
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.frontend import RngDriver
from vhost_user.protocol.listener import connect
from vhost_user.protocol.transport import Connection
from vhost_user.testing.guest_backend import BackendProcess

SILENCE = 0.2
"""Seconds that the other device of the process may be silent."""
BEAT = 0.002
"""Seconds between two heartbeats."""
MEGABYTES_LEFT = 16
"""Resident memory that may stay: allocators keep some. Attacks that matter take hundreds."""
PROGRAM = Path(__file__).with_name("two_devices.py")


class Heartbeat:
    """Asks a device for bytes again and again, and notes when each answer came."""

    def __init__(self, socket: Path) -> None:
        self._driver = RngDriver(str(socket))
        self._ended = threading.Event()
        self.times = [(time.monotonic(), 0.0)]
        """When the answers came, and how long this side had waited for a CPU until then."""
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._driver.read_some(8, timeout=60)
            except Exception as error:  # noqa: BLE001  # told by `silences`
                self.error = error
                return
            waited = int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
            self.times.append((time.monotonic(), waited))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(90)
        self.times.append((time.monotonic(), self.times[-1][1]))
        self._driver.close()

    def silences(self) -> list[tuple[float, float]]:
        """Begin and end of each silence that is longer than it may be.

        Without the time in which an answer may have been there and we had no CPU to see it.
        """
        return [
            (before, after - (waited - already))
            for (before, already), (after, waited) in zip(self.times, self.times[1:], strict=False)
            if after - (waited - already) - before > SILENCE / 4
        ]


class Attack:
    """One process under attack."""

    def __init__(self, victim: Path, process: BackendProcess, stack: ExitStack) -> None:
        self.socket = victim
        """Where the device listens that is attacked."""
        self.process = process
        self._stack = stack

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def connect(self) -> Connection:
        """A connection that has sent nothing."""
        connection = connect(self.socket, timeout=PATIENCE)
        self._stack.callback(connection.close)
        return connection

    def front_end(self, **options: Any) -> FrontEnd:
        """A front-end that has sent nothing; `bring_up` makes it ordinary."""
        front = FrontEnd(connect(self.socket, timeout=PATIENCE), **options)
        self._stack.callback(front.close)
        return front

    def gigabytes(
        self, queues: Mapping[int, str] | None = None, *, size: int = 1024, await_one: bool = False
    ) -> None:
        """As many chains as a ring holds, nearly four gigabytes each, and the front-end is gone.

        Each chain names one region of 64 MiB again and again. ``queues`` says whether the device is to
        ``"read"`` them, to ``"write"`` them, or one after the other; without it does both on queue 0.
        With ``await_one`` the front-end stays until one was used.
        """
        front = self.front_end(regions=[DriverRegion(64 << 20, guest_address=1 << 30)])
        front.negotiate()
        front.share_memory()
        chain = [((1 << 30) + (4 << 20), 56 << 20)] * 70
        for queue, ways in (queues or {0: "read write"}).items():
            ring = front.start_ring(queue, size=size)
            for _, way in zip(range(size // len(chain)), itertools.cycle(ways.split()), strict=False):
                ring.add(chain if way == "read" else [], chain if way == "write" else [])
                ring.publish()
            ring.kick()
            if await_one:
                until(ring.poll, "the first one")
        front.close()

    def wait_in_log(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until the process has logged this."""
        end = time.monotonic() + timeout
        while text not in self.process.log:
            assert time.monotonic() < end, f"no {text!r} in the log:\n{self.process.log}"
            time.sleep(0.01)

    def holdings(self) -> dict[str, int]:
        """Counts of what the process has."""
        process = Path(f"/proc/{self.pid}")
        maps = (process / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
        return {
            "descriptors": len(list((process / "fd").iterdir())),
            "threads": len(list((process / "task").iterdir())),
            "shared mappings": sum("memfd:" in line or "/dev/shm" in line for line in maps),
        }

    def megabytes(self) -> int:
        """Resident memory of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024
        raise AssertionError("the process is gone")


def _overlap(silence: tuple[float, float], others: list[tuple[float, float]]) -> float:
    return sum(max(0.0, min(silence[1], end) - max(silence[0], begin)) for begin, end in others)


def _serve_well(attack: Attack) -> None:
    front = FrontEnd(connect(attack.socket, timeout=PATIENCE))
    try:
        front.negotiate()
        front.share_memory()
        front.start_ring()
        assert front.stop_ring() == 0
    finally:
        front.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Silences are measured: what else runs at the time is to be as little as can be."""
    for item in items:
        if "arena" in getattr(item, "fixturenames", ()):
            item.add_marker("alone")


@pytest.fixture(scope="module")
def _idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The process that is left alone, one beside the attacks of a file; gives the socket of its bystander."""
    place = tmp_path_factory.mktemp("idle")
    with BackendProcess(
        [sys.executable, PROGRAM, "rng", place / "idle", place / "control"], place / "idle", place / "log",
        announcement="listening",
    ):  # fmt: skip
        yield place / "control"


@pytest.fixture
def arena(tmp_path: Path, _idle: Path) -> Callable[..., Any]:
    """`with arena("rng") as attack:` starts the processes; see the top of this file."""
    number = 0

    @contextmanager
    def begin(
        victim: str = "rng", *, silence: float = SILENCE, check_memory: bool = True
    ) -> Iterator[Attack]:
        nonlocal number
        number += 1
        places = [tmp_path / f"{name}{number}" for name in ("victim", "bystander")]
        process = BackendProcess(
            [sys.executable, PROGRAM, victim, *places], places[0], tmp_path / f"attacked{number}.log",
            announcement="listening",
        )  # fmt: skip
        with ExitStack() as stack:
            process.start()
            stack.callback(process.kill)
            # One session each, so that what is made once is there before it is counted.
            warm = Attack(places[0], process, stack)
            _serve_well(warm)
            hearts = [Heartbeat(places[1]), Heartbeat(_idle)]
            try:
                # Once that is in the log, nothing is kept of the session.
                warm.wait_in_log("victim: the front-end's session ended")
                before, memory = _settled(warm), warm.megabytes()
                with ExitStack() as connections:
                    yield Attack(places[0], process, connections)
                _serve_well(warm)
                after = _settled(warm, before)
                assert after == before, f"left behind: {after}, was {before}\n{warm.process.log[-3000:]}"
                if check_memory:
                    assert warm.megabytes() - memory <= MEGABYTES_LEFT
            finally:
                for heart in hearts:
                    heart.stop()
            assert hearts[0].error is None, f"{hearts[0].error}\n{warm.process.log[-3000:]}"
            idle = hearts[1].silences()
            for gap in hearts[0].silences():
                length = gap[1] - gap[0] - _overlap(gap, idle)
                assert length <= silence, f"the other device was silent for {length:.3f} s"
            process.stop()  # raises if it does not end with status 0

    return begin


def _settled(attack: Attack, wanted: dict[str, int] | None = None) -> dict[str, int]:
    """What the process has, once it is what is wanted or does not change any more."""
    end = time.monotonic() + PATIENCE / 2
    last, since = attack.holdings(), time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.01)
        now = attack.holdings()
        if now != last:
            last, since = now, time.monotonic()
        if now == wanted or (wanted is None and time.monotonic() - since > 0.05):
            break
    return last
