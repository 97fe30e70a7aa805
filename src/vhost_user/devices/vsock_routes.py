"""Where connections of a guest go, and where those to it come from.

A connection of the guest to port P of the host (cid 2) goes to whoever ``answer`` named; else to the Unix
socket ``PATH_P``; else to port P of the AF_VSOCK of this machine at ``forward_cid``. One to another guest of
its group goes there. The other way a Unix socket listens at PATH: who connects says ``CONNECT PORT`` and a
newline, and gets ``OK PORT``. That is the convention of Firecracker ("hybrid vsock"), Cloud Hypervisor and
vhost-device-vsock.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from vhost_user.devices.unix_listener import unix_listener
from vhost_user.spec.vsock import HOST_CID, VsockHeader, VsockType

_log = logging.getLogger(__name__)

Streams: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"
StreamFunction: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]"
Answer: TypeAlias = "StreamFunction | Callable[[], asyncio.BaseProtocol]"
LONGEST_LINE = 32
"""Bytes of ``CONNECT PORT``."""
LINE_PATIENCE = 5.0
"""Seconds to say it."""
CHUNK = 1 << 16


class Stream(asyncio.Protocol):
    """One connection as an object: derive from it, or give functions.

        vsock.answer(7, lambda: Stream(data=lambda stream, data: stream.send(data.upper())))

    ``connected`` when it is there, ``data`` for what the guest sends, ``closed`` at its end, with the error
    or None. All are called on the device's loop and must not block.
    """

    def __init__(
        self,
        connected: Callable[[Stream], object] | None = None,
        data: Callable[[Stream, bytes], object] | None = None,
        closed: Callable[[Stream, Exception | None], object] | None = None,
    ) -> None:
        self._functions = (connected, data, closed)
        self.transport: Any = None

    def connected(self) -> None:
        """The connection is there."""
        if self._functions[0] is not None:
            self._functions[0](self)

    def data(self, data: bytes) -> None:
        """The guest sent this: some bytes of a stream, a message of a SEQPACKET socket."""
        if self._functions[1] is not None:
            self._functions[1](self, data)

    def closed(self, error: Exception | None) -> None:
        """The connection is over."""
        if self._functions[2] is not None:
            self._functions[2](self, error)

    def send(self, data: bytes) -> None:
        """Send bytes, or a message."""
        self.transport.write(data)

    def shutdown(self) -> None:
        """Nothing more will be sent; the guest may still."""
        self.transport.write_eof()

    def close(self) -> None:
        """End it when everything has been sent."""
        self.transport.close()

    def reset(self) -> None:
        """End it at once (RST)."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio: ``connected``."""
        self.transport = transport
        self.connected()

    def data_received(self, data: bytes) -> None:
        """Of asyncio: ``data``."""
        self.data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio: ``closed``."""
        self.closed(exc)


async def protocol_of(made: object) -> asyncio.BaseProtocol:
    """What a route gives: a protocol, or a coroutine that reaches for one."""
    protocol = await made if inspect.isawaitable(made) else made
    if not isinstance(protocol, asyncio.BaseProtocol):
        raise TypeError(f"{protocol!r} is not a Stream, or another protocol of asyncio")
    return protocol


def _for_streams(function: StreamFunction) -> Callable[[], asyncio.BaseProtocol]:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await function(reader, writer)
        except ConnectionError as error:
            _log.info("a connection of the guest ended: %s", error)
        except Exception:  # noqa: BLE001  # whatever an author's function raises, the device goes on
            _log.exception("what answers connections of the guest failed: %s", function)
            writer.transport.abort()
        finally:
            writer.close()

    return lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), session)


class Guest(Protocol):
    """What the routes need of their device."""

    cid: int
    group: str | None
    routes: Routes

    def siblings_of(self) -> dict[int, Self]:
        """The guests of its group by cid."""

    async def open_connection(self, port: int, *, cid: int = HOST_CID) -> Streams:
        """Connect to the guest."""

    def background(self, coroutine: Coroutine[Any, Any, Any], /) -> Future[Any]:
        """Run it on the device's loop."""


class Routes:
    """The table of one device."""

    def __init__(
        self, device: Guest, uds_path: str | None, forward_cid: int | None, forward_listen: tuple[int, ...]
    ) -> None:
        if forward_listen and forward_cid is None:
            raise ValueError("forward_listen needs forward_cid: that is where the connections come from")
        self._device = device
        self._uds_path = uds_path
        self._forward_cid = forward_cid
        self._forward_listen = forward_listen
        self._listening: dict[tuple[int, VsockType], Callable[[], object]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def answer(self, port: int, answer: Answer, kind: VsockType) -> None:
        """See ``Vsock.answer``."""
        if inspect.iscoroutinefunction(answer):
            if kind != VsockType.STREAM:
                raise ValueError(f"port {port}: a SEQPACKET socket has messages, not streams: give a Stream")
            self._listening[port, kind] = _for_streams(answer)
        else:
            self._listening[port, kind] = answer  # type: ignore[assignment]  # what it makes is looked at there

    def find(self, header: VsockHeader) -> Callable[[], object] | None:
        """What makes the other end of a connection that the guest asks for, if anything does."""
        port, kind = header.dst_port, VsockType(header.type)
        if header.dst_cid == HOST_CID and (port, kind) in self._listening:
            return self._listening[port, kind]
        if kind != VsockType.STREAM:
            return None
        if header.dst_cid == HOST_CID and self._uds_path is not None:
            path = f"{self._uds_path}_{port}"
            return lambda: self._proxy(lambda: asyncio.open_unix_connection(path))
        if header.dst_cid == HOST_CID and self._forward_cid is not None:
            return lambda: self._proxy(lambda: _connect_to_machine(self._forward_cid or 0, port))
        sibling = self._sibling(header.dst_cid)
        if sibling is not None:
            return lambda: self._proxy(lambda: self._connect_to_sibling(sibling, port))
        return None

    def _sibling(self, cid: int) -> Guest | None:
        found = self._device.siblings_of().get(cid)
        return None if found is self._device else found

    # From the guest to a socket

    async def _proxy(self, connect: Callable[[], Awaitable[Streams]]) -> asyncio.BaseProtocol:
        outside = await connect()

        async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await join((reader, writer), outside)

        return _for_streams(both_ways)()

    async def _connect_to_sibling(self, sibling: Guest, port: int) -> Streams:
        """A socket pair between two guests: each half is on the loop of its own device."""
        ours, theirs = socket.socketpair()

        async def there() -> OSError | None:
            try:
                inside = await sibling.open_connection(port, cid=self._device.cid)
            except OSError as error:
                return error  # nobody listens: that is an answer, and not a failed task
            sibling.routes.keep(asyncio.get_running_loop().create_task(_join_socket(inside, theirs)))
            return None

        try:
            refused = await asyncio.wrap_future(sibling.background(there()))
            if refused is not None:
                raise refused  # noqa: TRY301  # the sockets are closed below
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return await asyncio.open_connection(sock=ours)

    # From outside to the guest

    def listeners(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What listens for connections to the guest."""
        if self._uds_path is not None:
            yield self._serve(unix_listener(self._uds_path), self._hybrid)
        for port in self._forward_listen:
            listener = _listener_of_machine(port)

            async def forward(client: socket.socket, port: int = port) -> None:
                await _join_socket(await self._device.open_connection(port), client)

            yield self._serve(listener, forward)

    async def _serve(
        self, listener: socket.socket, session: Callable[[socket.socket], Coroutine[Any, Any, None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            listener.setblocking(False)
            while True:
                client, _ = await loop.sock_accept(listener)
                self.keep(loop.create_task(_closing(session(client), client)))

    async def _hybrid(self, client: socket.socket) -> None:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        line = b""
        async with asyncio.timeout(LINE_PATIENCE):
            while not line.endswith(b"\n"):
                # A byte at a time: what follows the line belongs to the guest.
                byte = await loop.sock_recv(client, 1)
                line += byte
                if not byte or len(line) > LONGEST_LINE:
                    return
        word, _, port = line.strip().partition(b" ")
        if word != b"CONNECT" or not port.isdigit() or int(port) > 0xFFFF_FFFF:
            return
        inside = await self._device.open_connection(int(port))
        local = inside[1].get_extra_info("sockname")[1]
        await loop.sock_sendall(client, b"OK %d\n" % local)
        await _join_socket(inside, client)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """The loop itself keeps no hold of a task."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed: %s", task.get_name(), error, exc_info=error)

    def close(self) -> None:
        """Leave no socket in the file system."""
        if self._uds_path is not None:
            Path(self._uds_path).unlink(missing_ok=True)


async def join(one: Streams, other: Streams) -> None:
    """Carry bytes both ways until both directions have ended; an error ends both."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_one_way(one[0], other[1]))
            group.create_task(_one_way(other[0], one[1]))
    except* OSError as errors:
        _log.info("a connection between the guest and outside broke: %s", errors.exceptions[0])
        one[1].transport.abort()
        other[1].transport.abort()
    finally:
        one[1].close()
        other[1].close()


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _join_socket(inside: Streams, client: socket.socket) -> None:
    await join(inside, await asyncio.open_connection(sock=client))


async def _closing(session: Coroutine[Any, Any, None], client: socket.socket) -> None:
    with client:
        try:
            await session
        except OSError as error:  # TimeoutError too: nobody in the guest listens there, or it is not up
            _log.info("a connection to the guest was not made: %s", error)


async def _connect_to_machine(cid: int, port: int) -> Streams:
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (cid, port))
        return await asyncio.open_connection(sock=client)
    except BaseException:
        client.close()
        raise


def _listener_of_machine(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
