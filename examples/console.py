"""A console by the trait alone. Its line is a Unix datagram socket: what comes there, the guest reads."""

import contextlib
import os
import select
import socket
import sys
from collections.abc import Sequence

from vhost_user import ServedBy, VhostUserBackend, Vring, serve
from vhost_user.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.spec.features import ProtocolFeature

RECEIVE, TRANSMIT = 0, 1  # the queues, as the guest calls them
LINE = 3  # the listener's id: those up to num_queues() are the framework's
ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Console(VhostUserBackend):
    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.exits = [os.eventfd(0), os.eventfd(0)]

    def num_queues(self) -> int:
        return 2

    def max_queue_size(self) -> int:
        return 256

    def features(self) -> int:
        return DEFAULT_FEATURES

    def protocol_features(self) -> int:
        return DEFAULT_PROTOCOL_FEATURES & ~ProtocolFeature.CONFIG

    def queues_per_thread(self) -> list[set[int]]:
        return [{RECEIVE}, {TRANSMIT}]  # a worker for each direction

    def exit_event(self, thread_index: int) -> int:
        return self.exits[thread_index]  # whoever writes it ends that worker

    def attached(self, daemon: ServedBy) -> None:
        self.receiver = daemon.get_epoll_handlers()[0]
        self.receiver.register_listener(self.line, ONCE, LINE)

    def handle_event(self, device_event: int, events: int, vrings: Sequence[Vring], thread_id: int) -> None:
        # New buffers, or device_event is LINE. vrings are those of this worker: vrings[0].index tells which.
        (self.receive if thread_id == 0 else self.transmit)(vrings[0])

    def close(self) -> None:
        for event in self.exits:
            os.close(event)

    def transmit(self, vring: Vring) -> None:
        again = True
        while again:
            vring.disable_notification()
            while (request := vring.pop()) is not None:
                with contextlib.suppress(OSError):  # nobody listens
                    self.line.send(request.read(4096), socket.MSG_DONTWAIT)
                vring.add_used(request)
            vring.signal_used_queue()
            again = vring.enable_notification()  # true: more came meanwhile

    def receive(self, vring: Vring) -> None:
        while select.select([self.line], [], [], 0)[0]:
            if (request := vring.pop()) is None:
                return  # the driver kicks when there are buffers again; until then the line may wait
            request.write(self.line.recv(request.writable))
            request.complete()  # add_used and signal_used_queue in one
        self.receiver.modify_listener(self.line, ONCE, LINE)


if __name__ == "__main__":
    ours, theirs = sys.argv.pop(1), sys.argv.pop(1)  # console.py ADDRESS PEER --socket-path=PATH
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(ours)
        line.connect(theirs)
        serve(Console(line))
