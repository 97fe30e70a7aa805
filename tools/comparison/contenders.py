"""Who is compared: back-ends of ours and of others, each a process that listens on a socket."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.frontend import Frontend
from vhost_user.protocol.errors import SocketError

QEMU_STORAGE_DAEMON = "qemu-storage-daemon"
START_SECONDS = 20.0
STOP_SECONDS = 5.0
LARGEST_QUEUE_COUNT = 2
CPUS = tuple(sorted(os.sched_getaffinity(0)))[:LARGEST_QUEUE_COUNT]
CPU_LIST = ",".join(map(str, CPUS))


class ContenderError(Exception):
    """A back-end cannot be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the run happens: a folder on tmpfs for sockets and images, the size of every disk in bytes."""

    folder: Path
    disk_size: int
    queues: int = LARGEST_QUEUE_COUNT
    owner: str = ""
    """Goes into the names of images, so that two back-ends which are the same otherwise have their own."""

    def image(self, name: str) -> Path:
        """The disk of one back-end: two of them do not open the same image. Made when it is not there."""
        path = self.folder / f"{name}{self.owner}.img"
        with path.open("ab") as file:
            file.truncate(self.disk_size)
        return path


@dataclass(frozen=True, slots=True)
class Contender:
    """A back-end to be measured. ``command`` gets the place and the socket's path."""

    name: str
    title: str
    command: Callable[[Place, str], Sequence[str]]
    ours: bool = True
    packed: bool = True
    program: str = ""
    """What must be installed for it, with the Debian package that has it."""
    python: str = ""
    """For a back-end of ours: the interpreter to run it with, if it is not that of this process."""
    python_path: str = ""
    """Where that imports ``vhost_user`` from; another checkout's."""

    def missing(self) -> str | None:
        """What is missing to run it, in words; None when it can run."""
        if self.program and shutil.which(self.program) is None:
            return f"{self.program} (Debian package qemu-system-common)"
        return None


def _device(name: str) -> Callable[[Place, str], Sequence[str]]:
    return lambda place, path: [
        sys.executable,
        "-m",
        "vhost_user.bench.devices",
        name,
        f"--size={place.disk_size}",
        f"--queues={place.queues}",
        f"--socket-path={path}",
    ]


def _serve(*options: str, image: str = "") -> Callable[[Place, str], Sequence[str]]:
    return lambda place, path: [
        sys.executable,
        "-m",
        "vhost_user.cli",
        "serve",
        "blk",
        f"--blk-file={place.image(image)}" if image else f"--memory={place.disk_size}",
        f"--num-queues={place.queues}",
        f"--socket-path={path}",
        *options,
    ]


def _storage_daemon(image: str = "") -> Callable[[Place, str], Sequence[str]]:
    def command(place: Place, path: str) -> Sequence[str]:
        if image:
            node = f"driver=file,node-name=disk,filename={place.image(image)}"
        else:
            node = f"driver=null-co,node-name=disk,size={place.disk_size},read-zeroes=on"
        export = "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,writable=on"
        export += f",addr.path={path},num-queues={place.queues}"
        return [QEMU_STORAGE_DAEMON, "--blockdev", node, "--export", export]

    return command


def peer(text: str) -> Contender:
    """A back-end of somebody else's, as ``NAME=COMMAND`` (``--peer``); ContenderError if that is wrong."""
    name, _, command = text.partition("=")
    words = shlex.split(command)
    if not name.strip() or not words or "{socket}" not in command:
        raise ContenderError(f"--peer {text!r}: NAME=COMMAND is needed, and {{socket}} in the command")

    def filled(place: Place, path: str) -> Sequence[str]:
        known = {
            "socket": path,
            "bytes": place.disk_size,
            "mib": place.disk_size >> 20,
            "queues": place.queues,
        }
        try:
            return [word.format_map(known) for word in words]
        except (KeyError, ValueError, IndexError) as error:
            names = ", ".join(f"{{{key}}}" for key in known)
            raise ContenderError(f"--peer {name}: {error} cannot be filled in; {names} can") from error

    return Contender(name.strip(), name.strip(), filled, ours=False, packed=False)


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "qsd-null",
            "qemu-storage-daemon null-co",
            _storage_daemon(),
            ours=False,
            packed=False,
            program=QEMU_STORAGE_DAEMON,
        ),
        Contender(
            "qsd-file",
            "qemu-storage-daemon file",
            _storage_daemon("qsd-file"),
            ours=False,
            packed=False,
            program=QEMU_STORAGE_DAEMON,
        ),
        Contender("null", "ours: null device", _device("null")),
        Contender("zeroes", "ours: Python handle, zeroes", _device("zeroes")),
        Contender("handle", "ours: Python handle, RAM", _device("handle")),
        Contender("handle_batch", "ours: Python handle_batch, RAM", _device("handle_batch")),
        Contender("fast", "ours: blk fast path, RAM", _serve()),
        Contender("fast-by-cpu", "ours: blk fast path, RAM", _serve("--workers=2", f"--cpu={CPU_LIST}")),
        Contender("fast-file", "ours: blk fast path, file", _serve(image="fast-file")),
        Contender("blk", "ours: blk in Python, RAM", _serve("--no-fast-path")),
        Contender("blk-file", "ours: blk in Python, file", _serve("--no-fast-path", image="blk-file")),
    )
}


class RunningContender:
    """A contender's process, from ``with`` to its end. Raises ContenderError when it does not come up."""

    def __init__(self, contender: Contender, place: Place, *, cpus: Sequence[int] = ()) -> None:
        self.contender = contender
        self.socket = str(place.folder / f"{contender.name}.sock")
        self._log = place.folder / f"{contender.name}.log"
        self._cpus = cpus
        command = list(contender.command(place, self.socket))
        environment = dict(os.environ)
        if contender.python and command[0] == sys.executable:
            command[0] = contender.python
            environment["PYTHONPATH"] = contender.python_path
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(  # noqa: S603  # the commands of this file
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                raise ContenderError(f"{contender.title}: {error}") from error
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        try:
            self._await_socket()
            self._pin()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_socket(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                Frontend.connect(self.socket, timeout=START_SECONDS).close()
            except SocketError as error:
                if self._process.poll() is not None:
                    raise ContenderError(f"{self.contender.title} ended at once: {self.output()}") from error
                if time.monotonic() > deadline:
                    raise ContenderError(
                        f"{self.contender.title} does not listen: {self.output()}"
                    ) from error
                time.sleep(0.01)
            else:
                return

    def _pin(self) -> None:
        if self._cpus:
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), self._cpus)

    def output(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-2000:].strip() or "(it printed nothing)"

    def stop(self) -> None:
        """End it: kindly, then not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class TemporaryPlace:
    """A place for the time of a ``with`` block, on tmpfs where there is one."""

    def __init__(self, disk_size: int) -> None:
        tmpfs = Path("/dev/shm")  # noqa: S108  # the folder made in it is ours alone
        self._folder = tempfile.TemporaryDirectory(
            prefix="vhost-user-bench-", dir=tmpfs if tmpfs.is_dir() else None
        )
        self.place = Place(Path(self._folder.name), disk_size)

    def __enter__(self) -> Place:
        return self.place

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
