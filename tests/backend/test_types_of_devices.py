"""What authors write passes ``mypy --strict``: async overrides of plain methods, filters, hooks, headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import run_python

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio
from collections.abc import Sequence

from vhost_user import (
    U16, Batch, BufferQueue, Config, Device, Header, Next, Queue, Refuse, Request, VhostUserBackend, Vring,
)
from vhost_user.devices import Blk, Rng
from vhost_user.spec.vsock import VsockHeader


class Plain(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(b"x")


class Async(Device, type="rng"):
    async def handle(self, request: Request) -> None:
        await asyncio.sleep(0)

    async def started(self) -> None:
        await asyncio.sleep(0)


class AsyncBatch(Device, type="rng"):
    async def handle_batch(self, requests: Batch) -> None:
        await asyncio.sleep(0)


class AsyncEvents(Device, type="rng"):
    def handle_batch(self, requests: Batch) -> None: ...

    def queue_event(self, vring: Vring) -> object:
        return super().queue_event(vring)


class Space(Config):
    cols = U16(80)


class Lived(Device, type="console", header=VsockHeader):
    config = Space()
    incoming = BufferQueue(0, header="<H", size=64)
    requests = Queue(1, header=VsockHeader)
    others = Queue(2, header=Header("<H", into=Space))

    def setup(self) -> None:
        timer = self.every(1.0, self.tick, 5)
        timer.cancel()
        self.background(self.watch())
        self.listen(0, self.ready, into=self.incoming)

    def tick(self, number: int) -> None: ...

    def ready(self, events: int) -> None: ...

    async def watch(self) -> int:
        buffer = await self.incoming.get()
        return buffer.writable

    def started(self) -> None:
        self.spawn(self.watch())

    def shutdown(self) -> None: ...

    def queue_started(self, queue: int) -> None: ...

    def queue_stopping(self, queue: int) -> None: ...

    def reset(self) -> None: ...

    @requests.handler
    async def request(self, request: Request) -> None:
        header: VsockHeader = request.header
        await asyncio.sleep(header.src_cid)

    @others.batch_handler
    def other(self, requests: Batch) -> None: ...

    @incoming.on_available
    def fill(self) -> None: ...


class Patient(Device, type="rng"):
    def queue_stopping(self, queue: int) -> float | None:
        return 0.5


@Blk.filter
async def slow(request: Request, proceed: Next) -> None:
    await proceed(request)


@Rng.filter
def count(request: Request, proceed: Next) -> None:
    proceed(request)


Lived().add_filter(slow)
Lived().add_filter(count)
"""
MISTAKES = """
from vhost_user import Device, Request


class Wrong(Device, type="rng"):
    def handle(self, request: int) -> None: ...

    async def reset(self) -> None: ...


Wrong().call_later("soon", print)
Wrong().add_filter(5)
"""


def checked(tmp_path: Path, program: str) -> str:
    pytest.importorskip("mypy")
    (tmp_path / "device.py").write_text(program)
    answer = run_python(
        "-m", "mypy", "--strict", "--python-version=3.11", "--explicit-package-bases",
        f"--cache-dir={ROOT / '.mypy_cache' / 'authors'}", "--config-file=", "device.py", cwd=tmp_path,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})  # fmt: skip
    return answer.stdout + answer.stderr


def test_what_authors_write_passes_mypy_strict(tmp_path: Path) -> None:
    assert checked(tmp_path, PROGRAM) == "Success: no issues found in 1 source file\n"


def test_mistakes_do_not(tmp_path: Path) -> None:
    told = checked(tmp_path, MISTAKES)
    for line in (6, 8, 11, 12):
        assert f"device.py:{line}: error" in told, told
