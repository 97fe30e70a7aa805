"""Back-ends for the guest tests: every kind of block back-end is started in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.programs import COMMAND
from vhost_user.testing.guest import VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

# Nothing of this may appear in the log of a back-end of ours that served well-behaved guests only.
ALARMS = ("Traceback", "WARNING", "ERROR", "Warning:", "warning:", "Fatal Python error")


def _ours_blk(
    image: Path,
    socket: Path,
    log: Path,
    num_queues: int,
    *,
    read_only: bool,
    options: Sequence[str] = (),
) -> BackendProcess:
    command: list[str | Path] = [COMMAND, "serve", "blk", f"--socket-path={socket}", f"--blk-file={image}"]
    command.extend([f"--num-queues={num_queues}", *options])
    if read_only:
        command.append("--read-only")
    return BackendProcess(command, socket, log, announcement="listening")


def _peer_blk(image: Path, socket: Path, log: Path, num_queues: int, *, read_only: bool) -> BackendProcess:
    options = f"writable={'off' if read_only else 'on'},num-queues={num_queues}"
    command = [
        "qemu-storage-daemon",
        "--blockdev",
        f"driver=file,node-name=file,filename={image},read-only={'on' if read_only else 'off'}",
        "--export",
        f"type=vhost-user-blk,id=export,node-name=file,addr.type=unix,addr.path={socket},{options}",
    ]
    return BackendProcess(command, socket, log)


@pytest.fixture
def watched() -> Iterator[Callable[[BackendProcess], BackendProcess]]:
    """Start back-ends; after the test each must stop cleanly with nothing bad in its log."""
    started: list[BackendProcess] = []

    def start(backend: BackendProcess) -> BackendProcess:
        backend.start()
        started.append(backend)
        return backend

    try:
        yield start
        for backend in started:
            backend.stop()
            if backend.command[0] != "qemu-storage-daemon":
                assert not [line for line in backend.log.splitlines() if any(word in line for word in ALARMS)]
    finally:
        for backend in started:
            backend.kill()


@pytest.fixture(params=["vhost-user", "vhost-user packed", "vhost-user from Python", "qemu-storage-daemon"])
def start_blk(
    request: pytest.FixtureRequest, tmp_path: Path, watched: Callable[[BackendProcess], BackendProcess]
) -> Callable[..., BackendProcess]:
    """Return what starts a block back-end on an image: ours, or the peer that shows the test to be right.

    Ours is there with the guest's rings packed (see ``attach_blk``) and without its fast path too.
    """
    makers: dict[str, Callable[..., BackendProcess]] = {
        "vhost-user": _ours_blk,
        "vhost-user packed": _ours_blk,
        "vhost-user from Python": partial(_ours_blk, options=("--no-fast-path",)),
        "qemu-storage-daemon": _peer_blk,
    }
    make = makers[request.param]

    def start(image: Path, *, num_queues: int = 1, read_only: bool = False) -> BackendProcess:
        log = tmp_path / "backend.log"
        return watched(make(image, tmp_path / "blk.sock", log, num_queues, read_only=read_only))

    return start


@dataclass(frozen=True)
class AttachBlk:
    """Makes the guest's device for the back-end that ``start_blk`` started."""

    packed: bool

    def __call__(self, backend: BackendProcess, *, num_queues: int = 1) -> VhostUserBlk:
        """Attach it with so many queues."""
        return VhostUserBlk(backend.socket, num_queues=num_queues, packed=self.packed)


@pytest.fixture
def attach_blk(request: pytest.FixtureRequest) -> AttachBlk:
    """Return what makes the guest's device, with packed rings where it is their turn."""
    return AttachBlk(packed=request.node.callspec.params["start_blk"] == "vhost-user packed")


@pytest.fixture
def start_program(
    tmp_path: Path, watched: Callable[[BackendProcess], BackendProcess]
) -> Callable[..., BackendProcess]:
    """Return what starts one of our own programs with a socket path as its last argument."""

    def start(*command: str | Path) -> BackendProcess:
        socket = tmp_path / "device.sock"
        return watched(
            BackendProcess(
                [*command, f"--socket-path={socket}"],
                socket,
                tmp_path / "backend.log",
                announcement="listening",
            )
        )

    return start


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A raw disk image of 64 MiB, empty."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path
