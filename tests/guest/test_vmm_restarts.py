"""A VMM that is killed under load and started anew on the same running back-end: nothing of it is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from tests.support.programs import COMMAND
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

pytestmark = pytest.mark.guest

BLOCK = 16 << 10
COUNT = 1500
# One block after the other past the cache: when block n is there, the guest was told that all before it are.
WRITER = b"""#!/bin/sh -e
n=0
while [ $n -lt $2 ]; do
    dd if=/pattern of=/dev/vda bs=$1 skip=$n seek=$n count=1 oflag=direct conv=notrunc 2>/dev/null
    n=$((n + 1))
done
"""
PATTERN = b"".join((f"block {number:8}\n".encode() * BLOCK)[:BLOCK] for number in range(COUNT))


def written(image: Path) -> int:
    """How many blocks are there, whole, from the first on. Fails if one is missing in between."""
    data = image.read_bytes()[: len(PATTERN)]
    whole = 0
    while whole < COUNT and data[whole * BLOCK : (whole + 1) * BLOCK] == PATTERN[whole * BLOCK :][:BLOCK]:
        whole += 1
    # The one that the guest was waiting for when it was killed may be there in part.
    rest = data[(whole + 1) * BLOCK :]
    assert rest.count(0) == len(rest), f"block {whole} is not whole, and something after it is there"
    return whole


@pytest.fixture
def served(tmp_path: Path, image: Path) -> Iterator[BackendProcess]:
    """A disk with four queues."""
    socket = tmp_path / "s"
    backend = BackendProcess(
        [COMMAND, "serve", "blk", f"--socket-path={socket}", f"--blk-file={image}", "--num-queues=4"],
        socket,
        tmp_path / "log",
        announcement="listening",
    )
    backend.start()
    yield backend
    backend.kill()


SECOND = [
    pytest.param({"num_queues": 4, "packed": True, "queue_size": 64}, "384M", id="packed"),
    pytest.param({"num_queues": 2, "packed": False, "queue_size": 256}, "192M", id="split"),
]


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize(("second", "memory"), SECOND)
def test_C134_qemu_is_killed_under_load_and_started_anew(
    served: BackendProcess, image: Path, packed: bool, second: dict[str, Any], memory: str
) -> None:
    """The second QEMU has other queues, rings and memory than the first."""
    with Guest(
        devices=[VhostUserBlk(served.socket, packed=packed)], files={"/pattern": PATTERN, "/write": WRITER}
    ) as guest:
        guest.start(f"/write {BLOCK} {COUNT}")
        until(lambda: written(image) >= 100, "writing", 60)
        os.kill(guest.pid, signal.SIGKILL)
    before = written(image)
    assert 100 <= before < COUNT, "it was not killed under load"
    with Guest(
        devices=[VhostUserBlk(served.socket, **second)], memory=memory, files={"/pattern": PATTERN}
    ) as guest:
        size = before * BLOCK
        assert guest.run(f"head -c {size} /dev/vda | cmp - /pattern -n {size} && echo equal") == "equal\n"
        # And it works: the rest is written by the new one, on all of its queues.
        guest.run(
            f"for cpu in $(seq 0 {second['num_queues'] - 1}); do taskset $((1 << cpu)) "
            f"dd if=/pattern of=/dev/vda bs={BLOCK} skip={before} seek={before} oflag=direct conv=notrunc; "
            "done"
        )
        guest.shutdown()
    served.stop()
    assert image.read_bytes()[: len(PATTERN)] == PATTERN
    assert "Traceback" not in served.log


def test_C136_a_back_end_that_connects_finds_the_next_qemu(tmp_path: Path, image: Path) -> None:
    """QEMU listens, is killed, and listens again: the back-end comes back to it."""
    socket = tmp_path / "qemu"
    backend = BackendProcess(
        [
            COMMAND,
            "serve",
            "blk",
            f"--connect={socket}",
            "--reconnect",
            f"--blk-file={image}",
            f"--control={tmp_path / 'c'}",
        ],
        tmp_path / "c",
        tmp_path / "log",
        announcement="connecting",
    )
    backend.start()
    try:
        for word in ("first", "second"):
            device = Listening(socket)
            with Guest(devices=[device]) as guest:
                if word == "second":
                    assert guest.run("head -c 5 /dev/vda") == "first"
                guest.run(f"echo {word} | dd of=/dev/vda conv=notrunc,fsync")
                os.kill(guest.pid, signal.SIGKILL)
        assert image.read_bytes()[:6] == b"second"
        backend.stop()
    finally:
        backend.kill()


class Listening(VhostUserBlk):
    """QEMU's side listens."""

    def arguments(self, name: str, reconnect: int | None) -> list[str]:
        chardev, rest = "-chardev", super().arguments(name, reconnect)
        place = rest.index(chardev) + 1
        rest[place] += ",server=on,wait=on"
        return rest
