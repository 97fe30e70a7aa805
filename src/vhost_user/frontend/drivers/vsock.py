"""Driver of the socket device (virtio 1.4 section 5.10): streams to the host, with credit."""

import time
from collections import deque
from types import TracebackType
from typing import Any, ClassVar, Self

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.vsock import (
    HOST_CID,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    VsockConfig,
    VsockFeature,
    VsockHeader,
    VsockOperation,
    VsockSeqpacketFlag,
    VsockShutdown,
    VsockType,
)

BUFFER_SIZE = 4096
BUFFERS = 64
CREDIT = 256 << 10
"""Bytes that we let a peer send ahead on one stream."""
FIRST_PORT = 49152


class VsockStream:
    """One stream connection; made by ``VsockDriver.connect`` and ``accept``."""

    def __init__(
        self,
        driver: "VsockDriver",
        local_port: int,
        peer_port: int,
        peer_cid: int = HOST_CID,
        kind: VsockType = VsockType.STREAM,
    ) -> None:
        self._driver = driver
        self.local_port = local_port
        self.peer_port = peer_port
        self.peer_cid = peer_cid
        self.established = False
        self.reset = False
        self.peer_sends = True
        self.kind = kind
        self.buffer = bytearray()
        self.messages: deque[int] = deque()
        """Where in ``buffer`` the messages of a SEQPACKET socket end."""
        self._consumed = 0
        self._sent = 0
        self._peer_buffer = 0
        self._peer_forwarded = 0

    @property
    def credit(self) -> int:
        """Bytes that the peer has room for."""
        return self._peer_buffer - ((self._sent - self._peer_forwarded) & 0xFFFF_FFFF)

    def take(self, header: VsockHeader, data: bytes) -> None:
        """A packet of this stream came: called by the driver."""
        self._peer_buffer, self._peer_forwarded = header.buf_alloc, header.fwd_cnt
        match header.op:
            case VsockOperation.RESPONSE:
                self.established = True
            case VsockOperation.RW:
                if len(self.buffer) + len(data) > CREDIT:
                    self._driver.send_packet(self.header(VsockOperation.RST))
                    self.reset = True
                    raise DeviceError(f"port {self.local_port}: more data than the credit of {CREDIT} bytes")
                self.buffer += data
                if header.flags & VsockSeqpacketFlag.END_OF_MESSAGE:
                    self.messages.append(len(self.buffer))
            case VsockOperation.SHUTDOWN:
                if header.flags & VsockShutdown.SEND:
                    self.peer_sends = False
            case VsockOperation.RST:
                self.reset = True
                self.peer_sends = False
            case VsockOperation.CREDIT_REQUEST:
                self._driver.send_packet(self.header(VsockOperation.CREDIT_UPDATE))

    def header(self, operation: VsockOperation, *, flags: int = 0, length: int = 0) -> VsockHeader:
        """The header of a packet of this stream."""
        return VsockHeader(
            self._driver.cid,
            self.peer_cid,
            self.local_port,
            self.peer_port,
            length,
            self.kind,
            operation,
            flags,
            CREDIT,
            self._consumed & 0xFFFF_FFFF,
        )

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send everything, waiting for credit; on a SEQPACKET socket it is one message.

        Raises PeerTimeout, DeviceError when the peer reset the stream.
        """
        deadline = self._driver.deadline(timeout)
        rest = memoryview(data)
        while rest:
            self._driver.pump_until(lambda: self.credit > 0 or self.reset, deadline, "no credit")
            if self.reset:
                raise DeviceError(f"port {self.local_port}: the peer reset the stream")
            piece = bytes(rest[: min(self.credit, BUFFER_SIZE - VsockHeader.SIZE)])
            self._sent += len(piece)
            rest = rest[len(piece) :]
            last = self.kind == VsockType.SEQPACKET and not rest
            flags = VsockSeqpacketFlag.END_OF_MESSAGE if last else 0
            self._driver.send_packet(self.header(VsockOperation.RW, length=len(piece), flags=flags), piece)

    def receive_message(self, *, timeout: float | None = None) -> bytes:
        """The next message of a SEQPACKET socket. Raises PeerTimeout."""
        self._driver.pump_until(lambda: bool(self.messages), self._driver.deadline(timeout), "no message")
        end = self.messages.popleft()
        self.messages = deque(each - end for each in self.messages)
        data = bytes(self.buffer[:end])
        del self.buffer[:end]
        self._consumed += len(data)
        self._driver.send_packet(self.header(VsockOperation.CREDIT_UPDATE))
        return data

    def receive(self, size: int = 65536, *, timeout: float | None = None) -> bytes:
        """Up to ``size`` bytes; b"" at the end of the stream. Raises PeerTimeout."""
        self._driver.pump_until(
            lambda: bool(self.buffer) or not self.peer_sends, self._driver.deadline(timeout), "no data"
        )
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        self._consumed += len(data)
        if data and not self.reset:
            self._driver.send_packet(self.header(VsockOperation.CREDIT_UPDATE))
        return data

    def shutdown(self) -> None:
        """Say that nothing more will be sent."""
        self._driver.send_packet(self.header(VsockOperation.SHUTDOWN, flags=VsockShutdown.SEND))

    def close(self) -> None:
        """End the stream in both directions. May be called again."""
        if self._driver.streams.pop((self.local_port, self.peer_port), None) is not None and not self.reset:
            both = VsockShutdown.SEND | VsockShutdown.RECEIVE
            self._driver.send_packet(self.header(VsockOperation.SHUTDOWN, flags=both))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VsockDriver(DeviceDriver):
    """``with VsockDriver(socket) as vsock, vsock.connect(1234) as stream: stream.send(b"hello")``.

    For one thread. ``cid`` is the guest's context id. QEMU keeps the event queue to itself, so two queues are
    used.
    """

    FEATURES: ClassVar[int] = VsockFeature.STREAM | VsockFeature.SEQPACKET
    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.cid = 0
        self.streams: dict[tuple[int, int], VsockStream] = {}
        self._listening: dict[int, deque[VsockStream]] = {}
        self._next_port = FIRST_PORT
        self._sending: list[Pending] = []
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the context id, leave receive buffers with the device."""
        self.cid = VsockConfig.unpack(self.read_config(0, VsockConfig.SIZE)).guest_cid
        self.queues[RECEIVE_QUEUE].post(BUFFER_SIZE, count=min(BUFFERS, self.queue_size))

    def connect(
        self,
        port: int,
        *,
        cid: int = HOST_CID,
        kind: VsockType = VsockType.STREAM,
        timeout: float | None = None,
    ) -> VsockStream:
        """Connect to a port of the host, or of another guest.

        Raises DeviceError when nobody listens there, PeerTimeout.
        """
        stream = VsockStream(self, self._next_port, port, cid, kind)
        self._next_port += 1
        self.streams[stream.local_port, port] = stream
        self.send_packet(stream.header(VsockOperation.REQUEST))
        self.pump_until(lambda: stream.established or stream.reset, self.deadline(timeout), "no answer")
        if stream.reset:
            del self.streams[stream.local_port, port]
            raise DeviceError(f"port {port}: connection refused")
        return stream

    def listen(self, port: int) -> None:
        """Let the host connect to ``port``; see ``accept``."""
        self._listening.setdefault(port, deque())

    def accept(self, port: int, *, timeout: float | None = None) -> VsockStream:
        """The next connection to ``port``. Raises PeerTimeout."""
        waiting = self._listening[port]
        self.pump_until(lambda: bool(waiting), self.deadline(timeout), "no connection")
        return waiting.popleft()

    def send_packet(self, header: VsockHeader, data: bytes = b"") -> None:
        """Send any packet at all; does not wait for the device to take it."""
        parts = [header.pack(), data] if data else [header.pack()]
        pending = self.queues[TRANSMIT_QUEUE].submit_when_free(parts, 0, self.timeout)
        pending.publish()

    def deadline(self, timeout: float | None) -> float:
        """When ``timeout`` seconds (None: the driver's) are over."""
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def pump_until(self, ready: Any, deadline: float, what: str) -> None:
        """Take packets until ``ready`` says so. Raises PeerTimeout naming ``what``."""
        while not ready():
            left = deadline - time.monotonic()
            if left <= 0:
                raise PeerTimeout(f"vsock: {what} in time")
            try:
                self.pump(left)
            except PeerTimeout:
                continue

    def pump(self, timeout: float) -> None:
        """Take at least one packet. Raises PeerTimeout, DeviceError for a packet that makes no sense."""
        queue = self.queues[RECEIVE_QUEUE]
        done = queue.completed(minimum=1, timeout=timeout)
        packets = [pending.written for pending in done]
        for pending in done:
            pending.release()
        queue.post(BUFFER_SIZE, count=len(done))
        for packet in packets:
            if len(packet) < VsockHeader.SIZE:
                raise DeviceError(f"a packet of {len(packet)} bytes")
            header, data = VsockHeader.unpack(packet[: VsockHeader.SIZE]), packet[VsockHeader.SIZE :]
            if header.len != len(data):
                raise DeviceError(f"a packet says {header.len} bytes and has {len(data)}")
            self._dispatch(header, data)

    def _dispatch(self, header: VsockHeader, data: bytes) -> None:
        if header.dst_cid != self.cid:
            return
        key = (header.dst_port, header.src_port)
        stream = self.streams.get(key)
        if stream is not None:
            stream.take(header, data)
            return
        kind = VsockType.SEQPACKET if header.type == VsockType.SEQPACKET else VsockType.STREAM
        unknown = VsockStream(self, header.dst_port, header.src_port, header.src_cid, kind)
        waiting = self._listening.get(header.dst_port)
        if header.op == VsockOperation.REQUEST and waiting is not None:
            unknown.take(header, b"")
            unknown.established = True
            self.streams[key] = unknown
            waiting.append(unknown)
            self.send_packet(unknown.header(VsockOperation.RESPONSE))
        elif header.op not in (VsockOperation.RST, VsockOperation.SHUTDOWN):
            self.send_packet(unknown.header(VsockOperation.RST))
