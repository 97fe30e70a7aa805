"""Small network devices for tests: a host that answers ARP and pings, and ends that count or send back."""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter

from vhost_user import Device, Request
from vhost_user.engine.device.vring import Vring

HEADER = bytes(10) + b"\1\0"
"""The virtio header before a frame that goes to the driver: no offloads, one buffer (virtio 1.4, 5.1.6)."""
RECEIVE, TRANSMIT = 0, 1
ARP, IPV4 = 0x0806, 0x0800
ECHO_REQUEST, ECHO_REPLY = 8, 0
ETHERNET = struct.Struct(">6s6sH")


def internet_checksum(data: bytes) -> int:
    """The ones' complement sum that IPv4 and ICMP have."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class NetPort(Device, type="net", queues=2, in_order=True):
    """One pair of queues: ``frame`` gets what the driver sends, ``send`` gives it a frame."""

    def __init__(self) -> None:
        self.dropped = 0
        """Frames for which the driver had no buffer."""

    def queue_event(self, vring: Vring) -> None:
        """Receive buffers stay in the ring until there is a frame for them."""
        if vring.index % 2 == TRANSMIT:
            vring.process(self._transmitted)
        else:
            self.room()

    def _transmitted(self, request: Request) -> None:
        self.frame(request.read()[len(HEADER) :])

    def frame(self, frame: bytes) -> None:
        """A frame from the driver."""

    def room(self) -> None:
        """The driver may have made buffers available."""

    def send(self, frame: bytes) -> bool:
        """Give the driver a frame; False where it has no buffer for one."""
        vring = self.vring(RECEIVE)
        request = vring.pop()
        if request is None:
            self.dropped += 1
            return False
        request.write(HEADER + frame)
        vring.add_used(request)
        vring.signal_used_queue()
        return True


class PingHost(NetPort):
    """A host of one address that answers ARP and ICMP echo, and pings who asked for its address."""

    MAC = bytes.fromhex("525400000001")

    def __init__(self, address: str = "10.0.2.2") -> None:
        super().__init__()
        self.address = bytes(map(int, address.split(".")))
        self.answered = 0
        """Pings of the driver that were answered."""
        self.replies: Counter[bytes] = Counter()
        """What came back to pings of ours."""
        self.peer: tuple[bytes, bytes] | None = None
        """Hardware and IPv4 address of who asked for ours."""
        self._wishes: list[bytes] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._listening = False

    def ping(self, payload: bytes) -> None:
        """Send an echo request from any thread; the worker does it."""
        with self._lock:
            self._wishes.append(payload)
            if not self._listening:
                self.listen(self._wake, self._send_wishes)
                self._listening = True
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """See Device."""
        super().close()
        os.close(self._wake)

    def _send_wishes(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        with self._lock:
            wishes, self._wishes = self._wishes, []
        assert self.peer is not None, "the driver's address is not known yet"
        for number, payload in enumerate(wishes):
            self._echo(*self.peer, ECHO_REQUEST, struct.pack(">HH", 7, number) + payload)

    def frame(self, frame: bytes) -> None:
        """Answer it, if it is for us."""
        _to, source, kind = ETHERNET.unpack_from(frame)
        packet = frame[ETHERNET.size :]
        if kind == ARP and packet[6:8] == b"\0\1" and packet[24:28] == self.address:
            self.peer = source, packet[14:18]
            answer = packet[:6] + b"\0\2" + self.MAC + self.address + source + packet[14:18]
            self.send(ETHERNET.pack(source, self.MAC, ARP) + answer)
        elif kind == IPV4 and packet[9] == 1 and packet[16:20] == self.address:
            header = (packet[0] & 15) * 4
            message = packet[header : int.from_bytes(packet[2:4], "big")]
            assert internet_checksum(message) == 0, "the checksum of an ICMP message is wrong"
            if message[0] == ECHO_REQUEST:
                self._echo(source, packet[12:16], ECHO_REPLY, message[4:])
                self.answered += 1
            elif message[0] == ECHO_REPLY:
                self.replies[message[8:]] += 1

    def _echo(self, mac: bytes, address: bytes, kind: int, rest: bytes) -> None:
        message = bytes([kind, 0, 0, 0]) + rest
        message = message[:2] + internet_checksum(message).to_bytes(2, "big") + rest
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0) + self.address + address
        header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
        self.send(ETHERNET.pack(mac, self.MAC, IPV4) + header + message)


class Sink(NetPort):
    """Counts what the driver sends, and keeps one frame of each kind to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0
        self.kinds: Counter[bytes] = Counter()

    def frame(self, frame: bytes) -> None:
        """Count it."""
        self.frames += 1
        self.kinds[frame] += 1


class Reflector(Sink):
    """Sends back what it gets, as far as the driver has buffers for it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def frame(self, frame: bytes) -> None:
        """Count it and send it back."""
        super().frame(frame)
        self.sent += self.send(frame)
