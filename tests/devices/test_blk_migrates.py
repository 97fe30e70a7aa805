"""A driver that moves between two back-ends on one image, with requests under way, as a migration has it."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.front_end import REQUEST, FrontEnd
from vhost_user.conformance.logged_driver import LOG_SIZE, LogFile
from vhost_user.devices import Blk
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.structs import U64, Log

SECTORS = 2048
SIZE = 8
"""Sectors of a request."""


class Guest:
    """Memory and a ring that move; writes under way, each to a place of its own until it came back."""

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end = front_end
        self.dice = random.Random(85)
        self.content = bytearray(SECTORS * 512)
        self.under_way: dict[int, tuple[int, bytes, int]] = {}
        self.number = 0

    def write(self, count: int, *, kick: bool = True) -> None:
        """Hand in so many writes; nobody waits for them."""
        busy = {place for place, _, _ in self.under_way.values()}
        free = [place for place in range(SECTORS // SIZE) if place not in busy]
        for place in self.dice.sample(free, count):
            self.number += 1
            data = struct.pack("<QQ", place, self.number) * (SIZE * 32)
            header = struct.pack("<IIQ", 1, 0, place * SIZE)
            token, status = self.front_end.post(0, header + data, 1, kick=False)
            self.under_way[token] = place, data, status
        if kick:
            self.front_end.rings[0].kick()

    def collect(self) -> None:
        """Wait until all of them came back, each once and well."""
        while self.under_way:
            token, _ = self.front_end.collect(0)
            place, data, status = self.under_way.pop(token)  # KeyError: it came back twice
            assert self.front_end.memory.read(status, 1) == b"\0"
            self.front_end.memory.free(status - 16 - len(data))
            start = place * SIZE * 512
            self.content[start : start + len(data)] = data

    def move(self, other: FrontEnd) -> None:
        """Stop here, go on there: the ring is where it was, and so is what was not served."""
        base = self.front_end.stop_ring()
        other.memory, other.rings = self.front_end.memory, self.front_end.rings
        self.front_end = other
        other.negotiate()
        other.share_memory()
        other.configure_ring(0, base=base)
        other.kick()
        other.enable()
        other.rings[0].kick(force=True)


def log_on_and_off(front_end: FrontEnd) -> None:
    """A migration that is cancelled, as the back-end sees it."""
    log = LogFile()
    features = front_end.session.negotiation.acked_features
    front_end.call(REQUEST.SET_LOG_BASE, Log(LOG_SIZE, 0), [log.region.fd])
    front_end.call(REQUEST.SET_FEATURES, U64(features | VirtioFeature.LOG_ALL))
    front_end.call(REQUEST.SET_VRING_ADDR, front_end.addresses(flags=1, log=0))
    front_end.call(REQUEST.SET_FEATURES, U64(features & ~int(VirtioFeature.LOG_ALL)))
    front_end.call(REQUEST.SET_VRING_ADDR, front_end.addresses())


def connect(path: Path) -> FrontEnd:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return FrontEnd(Connection(connection))


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "Python"])
def test_C053_C054_C056_C085_there_and_back_twenty_times_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, fast_path: bool
) -> None:
    image, paths = tmp_path / "disk.img", [tmp_path / "here", tmp_path / "there"]
    image.write_bytes(bytes(SECTORS * 512))
    disks = [Blk(image, fast_path=fast_path) for _ in paths]
    with ExitStack() as stack:
        for disk, path in zip(disks, paths, strict=True):
            stack.callback(disk.close)
            disk.start(path)
            stack.callback(disk.stop)
        first = connect(paths[0])
        first.negotiate()
        first.share_memory()
        first.start_ring(0, 64)
        guest = Guest(first)
        for hop in range(40):
            guest.write(12)
            if hop % 5 == 0:
                log_on_and_off(guest.front_end)
            # The destination's session begins while the source's ring runs.
            source, destination = guest.front_end, connect(paths[(hop + 1) % 2])
            guest.write(4, kick=False)
            guest.move(destination)
            assert not disks[hop % 2]._active
            guest.write(4)
            guest.collect()
            assert [disk._active for disk in disks] == [hop % 2 == 1, hop % 2 == 0]
            assert image.read_bytes() == guest.content, f"after {hop + 1} moves"
            source.session.close()
            source.connection.close()
        guest.front_end.close()
