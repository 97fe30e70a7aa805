"""The socket device (virtio 1.4, 5.10): connections between programs in the guest and programs outside.

    vsock = Vsock(cid=3)
    vsock.answer(1234, echo)             # async def echo(reader, writer), as for asyncio.start_server
    vsock.start("/tmp/vsock.sock")
    reader, writer = await vsock.open_connection(22)   # on the loop of the device: see ``background``

Other ends are functions of streams, classes like ``Stream``, Unix sockets, the AF_VSOCK of this machine and
other guests: see ``vhost_user.devices.vsock_routes``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from vhost_user.backend import U64, BufferQueue, Config, Device, Queue
from vhost_user.devices.intake import Intake
from vhost_user.devices.vsock_routes import Answer, Routes, Streams, protocol_of
from vhost_user.devices.vsock_transport import CREDIT, VsockTransport
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.vsock import (
    EVENT_QUEUE,
    HOST_CID,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    VsockFeature,
    VsockHeader,
    VsockOperation,
    VsockType,
)

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

MOST_CONNECTIONS = 4096
"""Of one guest at a time; more are refused."""
MOST_DATA = 64 << 10
"""Bytes of data in a packet, as in Linux."""
ROOM = 1 << 20
"""Bytes of packets on their way to the loop; then the guest waits."""
ANSWERS = 4096
"""Packets without data that wait for buffers of the guest."""
CONNECT_PATIENCE = 8.0
"""Seconds that a guest has to answer a request for a connection."""
IN_HAND_PATIENCE = 0.05
"""Seconds that a queue which stops waits for a packet that is being read at this moment."""
FIRST_PORT = 1 << 30


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.vsock.VsockConfig` has it."""

    guest_cid = U64()


class Vsock(Device, type="vsock"):
    """Sockets of address family AF_VSOCK in the guest, whose context id is ``cid`` (3 or more).

    ``uds_path``, ``forward_cid`` and ``group`` are where connections go that no ``answer`` is for, and come
    from: see ``vhost_user.devices.vsock_routes``. Raises ValueError for a cid that a guest cannot have, or
    that another of its group has.
    """

    config = Space()
    device_features = VsockFeature.STREAM | VsockFeature.SEQPACKET
    to_guest = BufferQueue(RECEIVE_QUEUE, backlog=ANSWERS)
    from_guest = Queue(TRANSMIT_QUEUE)
    events = BufferQueue(EVENT_QUEUE)
    siblings: ClassVar[dict[str, dict[int, Vsock]]] = {}
    """The guests of this process by group and cid."""

    def __init__(
        self,
        cid: int = 3,
        *,
        uds_path: str | None = None,
        forward_cid: int | None = None,
        forward_listen: tuple[int, ...] = (),
        group: str | None = None,
    ) -> None:
        if not HOST_CID < cid < 0xFFFF_FFFF:
            raise ValueError(f"the context id of a guest is 3 or more, and below 2³²-1, not {cid}")
        self.cid = cid
        self.config.guest_cid = cid
        self.connections: dict[tuple[int, int, int], VsockTransport] = {}
        """By the guest's port, ours and our cid."""
        self._asking: dict[VsockTransport, asyncio.Future[None]] = {}
        self._to_send: deque[VsockTransport] = deque()
        self._ports = itertools.cycle(range(FIRST_PORT, FIRST_PORT << 1))
        self._intake = Intake(self._arrived, room=ROOM, most=VsockHeader.SIZE + MOST_DATA, whole=True)
        self.routes = Routes(self, uds_path, forward_cid, forward_listen)
        self.group = group
        if group is not None and self.siblings.setdefault(group, {}).setdefault(cid, self) is not self:
            raise ValueError(f"there is a guest with context id {cid} in group {group!r} already")

    # What a program uses

    def answer(self, port: int, answer: Answer, *, kind: VsockType = VsockType.STREAM) -> None:
        """Answer connections of the guest to ``port`` of the host (cid 2); from any thread.

        ``answer`` is an async function of a reader and a writer, or something that makes a ``Stream`` or any
        protocol of asyncio. A SEQPACKET port takes the latter, whose ``data`` gets a message at a time.
        """
        self.routes.answer(port, answer, kind)

    def siblings_of(self) -> dict[int, Vsock]:
        """The guests of its group by cid, itself among them."""
        return {} if self.group is None else self.siblings[self.group]

    async def connect(
        self,
        port: int,
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        kind: VsockType = VsockType.STREAM,
        cid: int = HOST_CID,
    ) -> VsockTransport:
        """Connect to ``port`` of the guest; on the device's loop. ``cid`` is whom the guest sees.

        Raises ConnectionRefusedError when nobody listens there, TimeoutError, ConnectionError when there is
        no guest.
        """
        if not self.driver_features:
            raise ConnectionError("no guest is there")
        local = next(each for each in self._ports if (port, each, cid) not in self.connections)
        transport = VsockTransport(self, (cid, self.cid), (local, port), kind)
        self.connections[port, local, cid] = transport
        future = self._asking[transport] = self.loop.create_future()
        try:
            self.packet(transport.header(VsockOperation.REQUEST))
            await asyncio.wait_for(future, CONNECT_PATIENCE)
        except BaseException:
            transport.abort()
            raise
        finally:
            self._asking.pop(transport, None)
        transport.begin(factory())
        return transport

    async def open_connection(self, port: int, *, cid: int = HOST_CID) -> Streams:
        """Connect to a port of a guest as ``connect`` does; gives a reader and a writer of asyncio."""
        reader = asyncio.StreamReader(loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        transport = await self.connect(port, lambda: protocol, cid=cid)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)

    # The life of the device

    def setup(self) -> None:
        """Packets are dealt with on the loop."""
        self._intake.begin(self.loop)
        for coroutine in self.routes.listeners():
            self.background(coroutine)

    def shutdown(self) -> None:
        """The guest's place in its group is free."""
        self._intake.end()
        self.routes.close()
        if self.group is not None and self.siblings[self.group].get(self.cid) is self:
            del self.siblings[self.group][self.cid]

    def queue_stopping(self, queue: int) -> float | None:
        """Packets that were not read go back as they are (C054)."""
        if queue != TRANSMIT_QUEUE:
            return None
        waiting = self._intake.set_aside()
        return IN_HAND_PATIENCE if self.vring(queue).in_flight > waiting else 0.0

    def reset(self) -> None:
        """The connections of this driver are over."""
        if self._loop_thread is not None:  # otherwise there were none
            self.loop.call_soon_threadsafe(self._all_over)

    @from_guest.handler
    def packet_sent(self, request: Request) -> None:
        """In the worker."""
        self._intake.offer(request)

    @to_guest.on_available
    def room_again(self) -> None:
        """In the worker: the guest has buffers."""
        self.loop.call_soon_threadsafe(self._pump)

    # On the loop

    def _all_over(self) -> None:
        for transport in list(self.connections.values()):
            transport.vanish(ConnectionResetError("the guest has gone"))

    def _arrived(self, data: bytes) -> None:
        try:
            self._handle(data)
        finally:
            self._intake.done(len(data))

    def _handle(self, packet: bytes) -> None:
        if len(packet) < VsockHeader.SIZE:
            _report.warning("a packet of %d bytes is left alone", len(packet))
            return
        header, data = VsockHeader.unpack(packet[: VsockHeader.SIZE]), packet[VsockHeader.SIZE :]
        if header.src_cid != self.cid:
            _report.warning("the guest speaks as context id %d, and is %d", header.src_cid, self.cid)
            return
        transport = self.connections.get((header.src_port, header.dst_port, header.dst_cid))
        carries = header.len if header.op == VsockOperation.RW else 0
        if carries > len(data) or (transport is not None and header.type != transport.kind):
            _report.warning("a packet says %d bytes and has %d, or is of another kind", header.len, len(data))
            if transport is not None:
                transport.refuse("a packet makes no sense")
            else:
                self._refuse(header)
        elif transport is None:
            if header.op == VsockOperation.REQUEST and header.type in set(VsockType):
                self._requested(header)
            else:
                self._refuse(header)
        elif not transport.established:
            self._answered(transport, header)
        elif header.op == VsockOperation.REQUEST:
            transport.refuse("the guest asked for a connection that there is")
        else:
            transport.credit_of(header)
            transport.take(header, data[:carries])

    def _requested(self, header: VsockHeader) -> None:
        route = self.routes.find(header)
        if route is None or len(self.connections) >= MOST_CONNECTIONS:
            self._refuse(header)
            return
        transport = VsockTransport(
            self,
            (header.dst_cid, self.cid),
            (header.dst_port, header.src_port),
            VsockType(header.type),
        )
        self.connections[header.src_port, header.dst_port, header.dst_cid] = transport
        transport.credit_of(header)
        task = self.loop.create_task(self._accept(transport, route), name=f"vsock port {header.dst_port}")
        self.routes.keep(task)

    async def _accept(self, transport: VsockTransport, route: Callable[[], object]) -> None:
        """The other end may have to be reached first: only then the guest's connect() succeeds."""
        try:
            protocol = await protocol_of(route())
        except OSError as error:
            _report.info("port %d: %s", transport.ports[0], error)
            transport.refuse("nobody is there")
            return
        except BaseException:
            transport.refuse("the other end failed")
            raise
        if not transport.is_closing():
            self.packet(transport.header(VsockOperation.RESPONSE))
            transport.begin(protocol)

    def _answered(self, transport: VsockTransport, header: VsockHeader) -> None:
        future = self._asking.get(transport)
        if header.op == VsockOperation.RST:
            transport.vanish(ConnectionRefusedError("reset"))
            if future is not None and not future.done():
                future.set_exception(
                    ConnectionRefusedError(f"nobody in the guest listens on port {header.src_port}")
                )
        elif header.op == VsockOperation.RESPONSE and future is not None and not future.done():
            transport.credit_of(header)
            transport.established = True
            future.set_result(None)
        else:
            transport.refuse("the guest sent something before the connection was there")

    def _refuse(self, header: VsockHeader) -> None:
        if header.op != VsockOperation.RST:
            self.packet(
                VsockHeader(
                    header.dst_cid,
                    self.cid,
                    header.dst_port,
                    header.src_port,
                    0,
                    header.type,
                    VsockOperation.RST,
                )
            )

    def packet(self, header: VsockHeader) -> None:
        """Give the guest a packet without data."""
        if not self.to_guest.post(header.pack()):
            _report.warning("the guest takes no packets: one is lost")

    def ready(self, transport: VsockTransport) -> None:
        """A connection has data to send."""
        if transport not in self._to_send:
            self._to_send.append(transport)
        self._pump()

    def over(self, transport: VsockTransport) -> None:
        """A connection does not exist any more."""
        (cid, _), (ours, theirs) = transport.cids, transport.ports
        if self.connections.get((theirs, ours, cid)) is transport:
            del self.connections[theirs, ours, cid]

    def _pump(self) -> None:
        """Data into buffers, a packet of each connection in turn; packets that wait without data go first."""
        while self._to_send and not len(self.to_guest):
            transport = self._to_send[0]
            buffer = self.to_guest.take() if transport.has_data else None
            if buffer is None:
                if transport.has_data:
                    return  # room_again comes back here
                self._to_send.popleft()
                continue
            self._to_send.popleft()
            room = min(buffer.writable - VsockHeader.SIZE, MOST_DATA)
            packet = transport.next_packet(room) if room > 0 else None
            if packet is None:
                self.to_guest.put_back(buffer) if room > 0 else buffer.complete(0)
                if room <= 0:
                    self._to_send.appendleft(transport)
                continue
            header, data = packet
            try:
                buffer.write(header.pack())
                buffer.write(data)
                buffer.complete()
            except EngineError as error:  # the guest's mistake, or its session ended: the data is lost
                _report.warning("a packet for port %d is lost: %s", header.dst_port, error)
                transport.refuse("a packet could not be delivered")
                continue
            if transport.has_data:
                self._to_send.append(transport)
            transport.sent()


assert CREDIT <= 0xFFFF_FFFF
