"""``vhost-user serve`` as a program, and one that is killed again and again under the same driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.front_end import FrontEnd
from tests.support.programs import COMMAND
from vhost_user.protocol.listener import connect
from vhost_user.testing.guest_backend import BackendProcess


def served(folder: Path, *words: object) -> BackendProcess:
    """``vhost-user serve`` with these words, at the socket ``s`` of the folder; it is not started yet."""
    command = [str(COMMAND), "serve", *map(str, words), f"--socket-path={folder / 's'}"]
    return BackendProcess(command, folder / "s", folder / "log", announcement="listening")


@contextmanager
def lives(program: BackendProcess, queues: Iterable[int]) -> Iterator[Iterator[tuple[int, FrontEnd]]]:
    """Three lives of a program, each with its number and a front-end whose ``queues`` run.

    The memory and the rings are the same each time and go on where they were; a life ends with SIGKILL.
    """
    front: FrontEnd | None = None

    def each() -> Iterator[tuple[int, FrontEnd]]:
        nonlocal front
        for life in range(3):
            program.start()
            before, front = front, FrontEnd(connect(program.socket, timeout=10))
            if before is not None:
                front.memory.close()
                front.memory, front.rings = before.memory, before.rings
            front.negotiate()
            front.share_memory()
            for queue in queues:
                ring = front.rings.get(queue)
                front.start_ring(queue, base=0 if ring is None else ring.used_index)
            yield life, front
            program.kill()
            front.connection.close()

    try:
        yield each()
    finally:
        program.kill()
        if front is not None:
            front.close()
