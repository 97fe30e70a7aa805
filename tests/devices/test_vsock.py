"""The socket device driven in this process; C053, C054, C075, C134; virtio 1.4, 5.10.6."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.drivers import resume
from tests.support.front_end import until
from tests.support.vsock_streams import echo, talk
from vhost_user.devices import Stream, Vsock
from vhost_user.devices.vsock_transport import CREDIT
from vhost_user.frontend import DeviceError, PeerTimeout, VsockDriver
from vhost_user.spec.vsock import VsockHeader, VsockOperation, VsockShutdown, VsockType
from vhost_user.testing.virtio import Virtio

PROMPT = 0.5


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., VsockDriver]:
    def up(vsock: Vsock) -> VsockDriver:
        return virtio.attach(vsock, packed=packed, num_queues=2).drive(VsockDriver)

    return up


def test_a_megabyte_each_way(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock(cid=42)
    vsock.answer(7, echo)
    driver = drive(vsock)
    assert driver.cid == 42
    data = random.Random(3).randbytes(1 << 20)
    with driver.connect(7) as stream:
        assert talk(stream, data) == data
    until(lambda: not vsock.connections, "the connection ends")


def test_the_host_connects_to_the_guest(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    driver = drive(vsock)
    driver.listen(22)
    got = bytearray()

    async def client() -> None:
        reader, writer = await vsock.open_connection(22)
        writer.write(b"hello")
        writer.write_eof()
        while data := await reader.read(100):
            got.extend(data)
        writer.close()

    future = vsock.background(client())
    stream = driver.accept(22)
    assert stream.receive(5) == b"hello"
    assert stream.receive() == b""  # SHUTDOWN of one direction
    stream.send(b"good bye")
    stream.shutdown()
    future.result(10)
    assert got == b"good bye"


def test_half_closed_both_ways(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    told: list[str] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # until the guest says that it sends no more
        told.append(f"{len(data)} bytes")
        writer.write(b"%d" % len(data))
        await writer.drain()

    vsock.answer(7, count)
    driver = drive(vsock)
    with driver.connect(7) as stream:
        stream.send(b"x" * 10_000)
        stream.shutdown()
        assert stream.receive() == b"10000"
    assert told == ["10000 bytes"]


def test_streams_as_objects_and_functions(drive: Callable[..., VsockDriver]) -> None:
    told: list[object] = []
    vsock = Vsock()
    vsock.answer(
        7,
        lambda: Stream(
            connected=lambda stream: told.append(stream.transport.get_extra_info("peername")[0]),
            data=lambda stream, data: stream.send(data.upper()),
            closed=lambda _stream, error: told.append(error),
        ),
    )

    class Counter(Stream):
        def data(self, data: bytes) -> None:
            self.send(b"%d" % len(data))
            self.close()

    vsock.answer(8, Counter)
    driver = drive(vsock)
    with driver.connect(7) as stream:
        stream.send(b"abc")
        assert stream.receive() == b"ABC"
    with driver.connect(8) as stream:
        stream.send(b"abcd")
        assert stream.receive() == b"4"
        assert stream.receive() == b""
    until(lambda: told == [3, None], "it is told")


def test_messages_of_a_seqpacket_socket_stay_whole(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    vsock.answer(7, lambda: Stream(data=lambda stream, data: stream.send(data)), kind=VsockType.SEQPACKET)
    driver = drive(vsock)
    stream = driver.connect(7, kind=VsockType.SEQPACKET)
    for length in (1, 5, 4052, 4053, 20_000, 100_000):
        message = os.urandom(length)
        stream.send(message)
        assert stream.receive_message() == message
    with pytest.raises(DeviceError, match="refused"):
        driver.connect(7)  # of the other kind
    with pytest.raises(ValueError, match="messages, not streams"):
        vsock.answer(8, echo, kind=VsockType.SEQPACKET)


def test_a_thousand_connections_at_once(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    vsock.answer(7, echo)
    driver = drive(vsock)
    streams = [driver.connect(7) for _ in range(1000)]
    assert len(vsock.connections) == 1000
    for number, stream in enumerate(streams):
        stream.send(b"%d" % number)
    for number, stream in enumerate(streams):
        assert stream.receive() == b"%d" % number
    for stream in streams:
        stream.close()
    until(lambda: not vsock.connections, "all are over")


def test_a_peer_that_never_reads_stops_the_guest_at_its_credit_and_nobody_else(
    drive: Callable[..., VsockDriver],
) -> None:
    reading = threading.Event()
    got = bytearray()

    async def later(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while not reading.is_set():  # noqa: ASYNC110  # it is set by another thread
            await asyncio.sleep(0.01)
        while data := await reader.read(65536):
            got.extend(data)

    vsock = Vsock()
    vsock.answer(7, later)
    vsock.answer(8, echo)
    driver = drive(vsock)
    data = os.urandom(1 << 20)
    with driver.connect(7) as slow, driver.connect(8) as quick:
        with pytest.raises(PeerTimeout, match="no credit"):
            slow.send(data, timeout=0.2)
        assert slow.credit == 0
        taken = slow._sent
        assert CREDIT <= taken <= 2 * CREDIT  # what the reader had taken, and what waits
        assert talk(quick, b"still here") == b"still here"
        reading.set()
        slow.send(data[taken:])
        until(lambda: len(got) == len(data), "everything")
    assert got == data


def test_a_guest_that_never_reads_stops_the_peer_at_its_credit(drive: Callable[..., VsockDriver]) -> None:
    sent = 0

    async def source(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(10_000))
            await writer.drain()
            sent += 10_000

    vsock = Vsock()
    vsock.answer(7, source)
    vsock.answer(8, echo)
    driver = drive(vsock)
    with driver.connect(7) as stream:
        with pytest.raises(PeerTimeout, match="enough"):
            driver.pump_until(lambda: len(stream.buffer) > CREDIT, driver.deadline(0.3), "enough")
        assert len(stream.buffer) == CREDIT  # to the last byte, and no more
        with driver.connect(8) as quick:
            assert talk(quick, b"still here") == b"still here"
        assert sent < 2 * CREDIT
        stream.receive(100_000)
        driver.pump_until(lambda: len(stream.buffer) == CREDIT, driver.deadline(10), "the rest")


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        (VsockOperation.RESPONSE, "to nobody"),
        (VsockOperation.RW, "to nobody"),
        (VsockOperation.SHUTDOWN, "to nobody"),
        (VsockOperation.CREDIT_UPDATE, "to nobody"),
        (VsockOperation.CREDIT_REQUEST, "to nobody"),
    ],
)
def test_what_belongs_to_no_connection_is_answered_with_RST(
    drive: Callable[..., VsockDriver], operation: VsockOperation, what: str
) -> None:
    driver = drive(Vsock())
    driver.send_packet(VsockHeader(driver.cid, 2, 5000, 6000, 0, VsockType.STREAM, operation))
    (done,) = driver.queues[0].completed(minimum=1, timeout=10)
    answer = VsockHeader.unpack(done.written[: VsockHeader.SIZE])
    assert (answer.op, answer.src_port, answer.dst_port) == (VsockOperation.RST, 6000, 5000), what


def test_RST_is_not_answered_and_a_refused_connection_is(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    vsock.answer(8, echo)
    driver = drive(vsock)
    driver.send_packet(VsockHeader(driver.cid, 2, 5000, 6000, 0, VsockType.STREAM, VsockOperation.RST))
    with pytest.raises(DeviceError, match="refused"):
        driver.connect(7)
    with pytest.raises(DeviceError, match="refused"):
        driver.connect(8, cid=77)
    with pytest.raises(DeviceError, match="refused"):
        driver.connect(8, kind=VsockType.SEQPACKET)

    async def fails() -> None:
        with pytest.raises(ConnectionRefusedError, match="nobody in the guest listens on port 99"):
            await vsock.open_connection(99)

    future = vsock.background(fails())
    until(lambda: _pumped(driver) and future.done(), "it is refused")
    future.result(0)


def _pumped(driver: VsockDriver) -> bool:
    with contextlib.suppress(PeerTimeout):
        driver.pump(0.01)
    return True


def test_a_guest_that_resets_is_told_to_the_other_end(drive: Callable[..., VsockDriver]) -> None:
    told: list[Exception | None] = []
    vsock = Vsock()
    vsock.answer(7, lambda: Stream(closed=lambda _stream, error: told.append(error)))
    driver = drive(vsock)
    stream = driver.connect(7)
    driver.send_packet(stream.header(VsockOperation.RST))
    until(lambda: told, "it is told")
    assert isinstance(told[0], ConnectionResetError)


@pytest.mark.alone
def test_C054_stops_and_starts_lose_and_double_nothing(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    vsock.answer(7, echo)
    driver = drive(vsock)
    data = random.Random(4).randbytes(60_000)
    with driver.connect(7) as stream:
        for start in range(0, len(data), 10_000):
            stream.send(data[start : start + 10_000])
            before = time.monotonic()
            for queue in (0, 1):
                driver.stop_queue(queue)
            assert time.monotonic() - before < PROMPT
            for queue in (0, 1):
                resume(driver, queue)
        driver.pump_until(lambda: len(stream.buffer) >= len(data), driver.deadline(10), "all of it")
        assert stream.buffer == data


def test_C075_C134_connections_end_with_their_driver(virtio: Virtio, packed: bool) -> None:
    told: list[Exception | None] = []
    vsock = Vsock()
    vsock.answer(7, lambda: Stream(closed=lambda _stream, error: told.append(error)))
    attached = virtio.attach(vsock, packed=packed, num_queues=2)
    for number in range(1, 4):
        driver = attached.drive(VsockDriver)
        driver.connect(7)
        if number == 2:
            driver.frontend.reset_device(need_reply=True)
        attached.disconnect()
        until(functools.partial(_long_as, told, number), "it is told")
    assert all(isinstance(error, ConnectionResetError) for error in told)
    assert not vsock.connections


def _long_as(told: list[Any], length: int) -> bool:
    return len(told) == length


def test_what_makes_no_sense_is_refused_in_words() -> None:
    for cid in (0, 1, 2, 0xFFFF_FFFF):
        with pytest.raises(ValueError, match="the context id of a guest is 3 or more"):
            Vsock(cid=cid)
    with pytest.raises(ValueError, match="forward_listen needs forward_cid"):
        Vsock(forward_listen=(1,))


def test_packets_that_break_the_rules_end_their_connection(drive: Callable[..., VsockDriver]) -> None:
    vsock = Vsock()
    vsock.answer(7, lambda: Stream(data=lambda stream, _data: stream.transport.pause_reading()))
    driver = drive(vsock)
    stream = driver.connect(7)
    for _ in range(CREDIT // 4000 + 2):
        driver.send_packet(stream.header(VsockOperation.RW, length=4000), bytes(4000))
    driver.pump_until(lambda: stream.reset, driver.deadline(10), "reset for more than there was credit for")
    stream = driver.connect(7)
    driver.send_packet(stream.header(VsockOperation.SHUTDOWN, flags=VsockShutdown.SEND))
    driver.send_packet(stream.header(VsockOperation.RW, length=1), b"x")
    driver.pump_until(lambda: stream.reset, driver.deadline(10), "reset for data after the end")
    stream = driver.connect(7)
    driver.send_packet(stream.header(VsockOperation.REQUEST))
    driver.pump_until(lambda: stream.reset, driver.deadline(10), "reset for a second request")
    stream = driver.connect(7)
    driver.send_packet(stream.header(VsockOperation.RW, length=1000), b"short")
    driver.pump_until(lambda: stream.reset, driver.deadline(10), "reset for a length that is not there")
    until(lambda: not vsock.connections, "the connections end")
