"""Queues of one object: its arguments say how many there are (``Device.add_queue``)."""

from __future__ import annotations

import socket

import pytest

from vhost_user import BufferQueue, Device, Queue, Request, VhostUserDaemon
from vhost_user.frontend import VirtioDriver


class Lines(Device, type="console"):
    """Pairs of queues: what comes on the second of a pair is answered on the first."""

    first = Queue(0)

    @first.handler
    def asked(self, request: Request) -> None:
        request.write(b"declared by the class")

    def __init__(self, pairs: int) -> None:
        self.back = [
            self.add_queue(BufferQueue(2 * pair + 2, size=64), f"back {pair}") for pair in range(pairs)
        ]
        for pair in range(pairs):
            self.add_queue(Queue(2 * pair + 1), f"there {pair}", Lines.came)

    def came(self, request: Request) -> None:
        self.back[request.queue // 2].post(request.read()[::-1])


@pytest.mark.parametrize("pairs", [0, 1, 3])
def test_each_object_has_the_queues_it_wants(pairs: int) -> None:
    ours, theirs = socket.socketpair()
    device, other = Lines(pairs), Lines(pairs + 1)
    assert device.num_queues() == 1 + 2 * pairs
    assert other.num_queues() == 3 + 2 * pairs
    assert list(Lines.declared_queues) == [0]
    with VhostUserDaemon("lines", device) as daemon:
        daemon.start_connection(theirs)
        with VirtioDriver(ours, num_queues=None, queue_size=64) as driver:
            assert driver.queue(0).request(writable=64) == b"declared by the class"
            for pair in range(pairs):
                pending = driver.queue(2 * pair + 2).submit(writable=64)
                driver.queue(2 * pair + 1).request(b"abc%d" % pair)
                assert pending.wait(10) == b"%dcba" % pair
        assert device.max_queue_size_of(0) == 1024
        with pytest.raises(RuntimeError, match="is served already: add queues before that"):
            device.add_queue(Queue(9), "late")


def test_two_queues_of_one_number_are_refused() -> None:
    device = Lines(1)
    with pytest.raises(TypeError, match="Lines: again and back 0 both have number 2"):
        device.add_queue(Queue(2), "again")
