"""A guest with verified load on its disk that migrates between two back-ends on one image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.programs import COMMAND
from tests.support.verified_load import Counts, VerifiedLoad
from vhost_user.devices import FileStorage
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess
from vhost_user.testing.guest_migration import Migration

SLOW = 4 << 20
"""Bytes a second at which a migration takes long enough to be looked at."""


def traces(pid: int) -> tuple[int, int]:
    """How many open files and how many shared mappings a process has."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return len(os.listdir(f"/proc/{pid}/fd")), sum(line.split()[1].endswith("s") for line in maps)  # noqa: PTH208


class TravellingGuest:
    """Use with ``with``. Both back-ends are up all the time, with the one image open."""

    def __init__(
        self,
        folder: Path,
        *,
        packed: bool = False,
        queues: int = 2,
        options: Sequence[str] = (),
        size: int = 64 << 20,
    ) -> None:
        self.image = folder / "disk.img"
        self.packed = packed
        self.queues = queues
        self.migrations = 0
        self.longest = 0.0
        """Seconds that the longest migration took."""
        with self.image.open("wb") as file:
            file.truncate(size)
        self._backends = [self._backend(folder, name, options) for name in ("here", "there")]
        self._stack = ExitStack()

    def _backend(self, folder: Path, name: str, options: Sequence[str]) -> BackendProcess:
        socket = folder / f"{name}.sock"
        command: list[str | Path] = [COMMAND, "serve", "blk"]
        command += [f"--socket-path={socket}", f"--blk-file={self.image}"]
        command += [f"--num-queues={self.queues}", *options]
        return BackendProcess(command, socket, folder / f"{name}.log", announcement="listening")

    def __enter__(self) -> Self:
        try:
            for backend in self._backends:
                self._stack.enter_context(backend)
            self.guest = self._stack.enter_context(
                Guest(devices=self._devices(0), cpus=2, files=VerifiedLoad.files())
            )
            self.load = VerifiedLoad(self.guest)
            self.load.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def source(self) -> BackendProcess:
        """The back-end that serves the guest now."""
        return self._backends[self.migrations % 2]

    @property
    def destination(self) -> BackendProcess:
        """The other."""
        return self._backends[(self.migrations + 1) % 2]

    def _devices(self, which: int) -> list[VhostUserBlk]:
        # The guest cannot choose write-through, so nobody has to guess after a migration whether it did.
        properties = {"config-wce": False}
        backend = self._backends[which]
        return [
            VhostUserBlk(backend.socket, num_queues=self.queues, packed=self.packed, properties=properties)
        ]

    @contextmanager
    def _migration(self) -> Iterator[Migration]:
        with self.guest.migration(self._devices((self.migrations + 1) % 2)) as migration:
            yield migration

    def move(self, *, postcopy: int = 0) -> Counts:
        """One migration under load; the load goes on at the destination.

        With ``postcopy`` before the guest's memory, of which so many bytes a second follow unasked.
        """
        began = time.monotonic()
        with self._migration() as migration:
            migration.start(postcopy=bool(postcopy), bandwidth=postcopy or None)
            migration.finish()
        self.longest = max(self.longest, time.monotonic() - began)
        self.migrations += 1
        return self.load.progress()

    def cancel_and_move(self) -> Counts:
        """A migration that is cancelled half-way, and one that is not, to the same destination."""
        with self._migration() as migration:
            migration.start(bandwidth=SLOW)
            migration.wait_for("active")
            self.load.progress()
            migration.cancel()
            self.load.progress()
            migration.start()
            migration.finish()
        self.migrations += 1
        return self.load.progress()

    def cancel(self) -> Counts:
        """A migration that is cancelled half-way, and nothing else."""
        with self._migration() as migration:
            migration.start(bandwidth=SLOW)
            migration.wait_for("active")
            self.load.progress()
            migration.cancel()
        return self.load.progress()

    def cancel_at_switchover(self) -> Counts:
        """A migration that is cancelled when the guest stands still already, and its devices are stopped."""
        with self._migration() as migration:
            migration.start(pause=True)
            migration.wait_for("pre-switchover")
            other = FileStorage(self.image)
            try:
                assert other.obstacle() is None, "the source has the image although its rings are stopped"
            finally:
                other.close()
            migration.cancel()
        return self.load.progress()

    def finish(self) -> Counts:
        """End the load, compare everything, power the guest off."""
        counts = self.load.finish(self.image)
        self.guest.shutdown()
        return counts

    def logs(self) -> str:
        """What both back-ends said."""
        return "".join(backend.log for backend in self._backends)
