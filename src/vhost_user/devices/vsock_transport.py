"""One connection of a socket device (virtio 1.4, 5.10.6) as a transport of asyncio, used in its loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from vhost_user.spec.vsock import VsockHeader, VsockOperation, VsockSeqpacketFlag, VsockShutdown, VsockType

CREDIT = 256 << 10
"""Bytes that the guest may send ahead on one connection (``buf_alloc``)."""
REPORT = CREDIT // 4
"""Bytes that are consumed before the guest is told without being asked."""
HIGH_WATER = 64 << 10
"""Bytes that wait to be sent before whoever writes is asked to pause."""
CLOSE_PATIENCE = 8.0
"""Seconds that the guest has to answer a SHUTDOWN of both directions with RST; Linux gives as many."""
BOTH = VsockShutdown.RECEIVE | VsockShutdown.SEND
_WRAP = 0xFFFF_FFFF


class Carrier(Protocol):
    """What a connection needs of its device."""

    def packet(self, header: VsockHeader) -> None:
        """Give the guest a packet without data."""

    def ready(self, transport: VsockTransport) -> None:
        """The connection has something to send."""

    def over(self, transport: VsockTransport) -> None:
        """The connection does not exist any more."""


class VsockTransport(asyncio.Transport):
    """A connection to a port of the guest: a ``Transport`` whose protocol gets what the guest sends.

    On a SEQPACKET socket each ``write`` is a message, and ``data_received`` gets a message at a time.
    """

    def __init__(
        self, device: Carrier, cids: tuple[int, int], ports: tuple[int, int], kind: VsockType
    ) -> None:
        """``cids`` and ``ports`` are ours and the guest's."""
        super().__init__()
        self._device = device
        self.cids = cids
        self.ports = ports
        self.kind = kind
        self.established = False
        self._protocol: Any = None
        self._messages: deque[memoryview] = deque()
        self._waiting = 0
        """Bytes in them."""
        self._sent = self._peer_room = self._peer_forwarded = 0
        self._asked = False
        self._received = bytearray()
        self._message_ends: deque[int] = deque()
        self._taken = self._forwarded = self._reported = 0
        self._reading = True
        self._writing_paused = False
        self._eof = self._closing = self._lost = False
        self._shutdown_sent = self._shutdown_got = VsockShutdown(0)
        self._eof_told = False
        self._end: asyncio.TimerHandle | None = None

    # What the guest sends

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Both sides agree: the protocol hears of it."""
        self.established = True
        self._protocol = protocol
        protocol.connection_made(self)
        self._deliver()

    def credit_of(self, header: VsockHeader) -> None:
        """Every packet says what room the guest has."""
        self._peer_room, self._peer_forwarded = header.buf_alloc, header.fwd_cnt
        self._asked = False
        if self._messages:
            self._device.ready(self)

    def take(self, header: VsockHeader, data: bytes) -> None:
        """A packet of an established connection. One that breaks the rules of credit ends it."""
        match header.op:
            case VsockOperation.RW:
                if self._taken + len(data) - self._forwarded > CREDIT:
                    self.refuse(f"the guest sent {len(data)} bytes more than it had credit for")
                    return
                if self._shutdown_got & VsockShutdown.SEND:
                    self.refuse("the guest sent data after it had said that it would not")
                    return
                self._taken += len(data)
                self._received += data
                if header.flags & VsockSeqpacketFlag.END_OF_MESSAGE:
                    self._message_ends.append(len(self._received))
                self._deliver()
            case VsockOperation.CREDIT_REQUEST:
                self._tell_credit()
            case VsockOperation.SHUTDOWN:
                self._shutdown_got |= VsockShutdown(header.flags & BOTH)
                if self._shutdown_got & VsockShutdown.RECEIVE:
                    self._forget_what_waits()
                self._deliver()
            case VsockOperation.RST:
                ended = BOTH in {self._shutdown_sent, self._shutdown_got}
                self._lose(None if ended else ConnectionResetError("the guest reset the connection"))

    def _deliver(self) -> None:
        """To the protocol, as long as it reads."""
        while self._reading and not self._lost and self._protocol is not None:
            if self.kind == VsockType.STREAM:
                length = len(self._received)
            else:
                length = self._message_ends[0] if self._message_ends else 0
            if not length and not self._message_ends:
                break
            if self._message_ends:
                self._message_ends = deque(end - length for end in list(self._message_ends)[1:])
            data = bytes(self._received[:length])
            del self._received[:length]
            self._forwarded += length
            self._protocol.data_received(data)
        if self._forwarded - self._reported >= REPORT and not self._lost:
            self._tell_credit()
        if self._reading and self._shutdown_got & VsockShutdown.SEND and not self._received:
            self._tell_eof()
        if self._shutdown_got == BOTH and not self._received and not self._lost:
            self._packet(VsockOperation.RST)
            self._lose(None)

    def _tell_eof(self) -> None:
        if not self._eof_told and not self._lost and self._protocol is not None:
            self._eof_told = True
            if not self._protocol.eof_received() or self._eof:
                self.close()

    # What is sent to the guest

    @property
    def credit(self) -> int:
        """Bytes that the guest has room for."""
        return self._peer_room - (self._sent - self._peer_forwarded & _WRAP)

    def next_packet(self, room: int) -> tuple[VsockHeader, memoryview] | None:
        """The next data packet of at most ``room`` bytes, or None: there is nothing, or no credit."""
        if not self._messages or self._lost:
            return None
        message = self._messages[0]
        length = min(len(message), room, max(0, self.credit))
        if not length and message:
            if not self._asked:
                self._asked = True
                self._packet(VsockOperation.CREDIT_REQUEST)
            return None
        piece, rest = message[:length], message[length:]
        flags = 0
        if rest:
            self._messages[0] = rest
        else:
            self._messages.popleft()
            flags = int(VsockSeqpacketFlag.END_OF_MESSAGE) if self.kind == VsockType.SEQPACKET else 0
        self._sent += length
        self._waiting -= length
        return self.header(VsockOperation.RW, flags=flags, length=length), piece

    def sent(self) -> None:
        """A packet went out: writers may go on, and a shutdown that waited for the last byte is due."""
        if self._writing_paused and self._waiting <= HIGH_WATER // 4:
            self._writing_paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()
        self._shut_down_if_due()

    @property
    def has_data(self) -> bool:
        """Something waits to be sent."""
        return bool(self._messages) and not self._lost

    def header(self, operation: VsockOperation, *, flags: int = 0, length: int = 0) -> VsockHeader:
        """The header of a packet of this connection; it always tells our credit."""
        self._reported = self._forwarded
        return VsockHeader(
            *self.cids, *self.ports, length, self.kind, operation, flags, CREDIT, self._forwarded & _WRAP
        )

    def _packet(self, operation: VsockOperation, flags: int = 0) -> None:
        self._device.packet(self.header(operation, flags=flags))

    def _tell_credit(self) -> None:
        self._packet(VsockOperation.CREDIT_UPDATE)

    def _shut_down_if_due(self) -> None:
        if self._messages or self._lost:
            return
        wanted = BOTH if self._closing else VsockShutdown.SEND if self._eof else VsockShutdown(0)
        if wanted & ~self._shutdown_sent:
            self._shutdown_sent |= wanted
            self._packet(VsockOperation.SHUTDOWN, int(wanted))
            if wanted == BOTH:
                self._end = asyncio.get_running_loop().call_later(CLOSE_PATIENCE, self.abort)

    def _forget_what_waits(self) -> None:
        self._messages.clear()
        self._waiting = 0
        self.sent()

    def refuse(self, why: str) -> None:
        """The guest broke a rule: the connection is over."""
        if not self._lost:
            self._packet(VsockOperation.RST)
            self._lose(ConnectionError(why))

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._messages.clear()
        if self._end is not None:
            self._end.cancel()
        self._device.over(self)
        if self._protocol is not None:
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)

    def vanish(self, error: Exception) -> None:
        """The guest is gone: nothing is sent."""
        self._lose(error)

    # The transport, as asyncio has it

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it as the guest has room: on a SEQPACKET socket a message."""
        if self._closing or self._eof or self._shutdown_got & VsockShutdown.RECEIVE:
            return
        if data or self.kind == VsockType.SEQPACKET:
            self._messages.append(memoryview(bytes(data)))
            self._waiting += len(data)
            if self._waiting > HIGH_WATER and not self._writing_paused:
                self._writing_paused = True
                self._protocol.pause_writing()
            self._device.ready(self)

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Nothing more will be sent (SHUTDOWN, SEND), once everything has been."""
        self._eof = True
        self._shut_down_if_due()
        if self._eof_told:
            self.close()

    def close(self) -> None:
        """Both directions end, once everything has been sent."""
        self._closing = True
        self._shut_down_if_due()

    def abort(self) -> None:
        """RST, at once."""
        if not self._lost:
            self._packet(VsockOperation.RST)
            self._lose(None)

    def is_closing(self) -> bool:
        """``close`` or ``abort`` was called, or the guest has ended it."""
        return self._closing

    def pause_reading(self) -> None:
        """Keep what comes; the guest may send as much as it has credit for."""
        self._reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self._reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def is_reading(self) -> bool:
        """Whether it is not paused."""
        return self._reading and not self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._waiting

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername`` is (context id, port) of the guest, ``sockname`` ours."""
        known = {
            "peername": (self.cids[1], self.ports[1]),
            "sockname": (self.cids[0], self.ports[0]),
        }
        return known.get(name, default)
