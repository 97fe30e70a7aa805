"""``Device``: declarations, sync, batch and async requests, failures, configuration space."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.devices import Dice, Resettable
from vhost_user import Batch, Device, Request, RequestRefused, VhostUserDaemon
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Config, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


def test_a_first_device_answers_requests(stage: Stage) -> None:
    _, front = stage.serve(Dice())
    front.bring_up()
    assert front.request(writable=10) == bytes([6]) * 10


def test_declarations_of_the_class_statement_are_attributes() -> None:
    class Wide(Device, type="blk", queues=4, queue_size=64, workers=2, device_features=1 << 5):
        def handle(self, request: Request) -> None: ...

    device = Wide()
    assert (device.device_type, device.num_queues(), device.max_queue_size()) == ("blk", 4, 64)
    assert device.queues_per_thread() == [2, 2]
    assert device.features() & 1 << 5


def test_an_unknown_declaration_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="'quues' is not a declaration"):
        type("Bad", (Device,), {}, quues=4)


def test_a_device_without_handle_is_refused_when_the_daemon_is_made() -> None:
    with pytest.raises(TypeError, match="defines neither handle"):
        VhostUserDaemon("test", Device())


def test_an_exception_fails_the_request_and_the_device_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(Device):
        def handle(self, request: Request) -> None:
            if request.read(1) == b"!":
                raise ValueError("no such thing")
            request.write(b"fine")

    _, front = stage.serve(Moody())
    front.bring_up()
    assert front.request(readable=b"!", writable=4) == b""
    assert front.request(readable=b"?", writable=4) == b"fine"
    assert "no such thing" in caplog.text
    assert "queue 0" in caplog.text


def test_fail_answers_in_the_way_of_the_device_type(stage: Stage) -> None:
    class WithStatus(Device):
        def handle(self, request: Request) -> None:
            raise OSError(f"broken disk, {request.readable} bytes")

        def fail(self, request: Request, exception: BaseException) -> None:
            assert "broken disk" in str(exception)
            request.write_last(b"\x01")
            request.complete()

    _, front = stage.serve(WithStatus())
    front.bring_up()
    _, address = front.post(readable=b"x", writable=3)
    front.collect()
    assert front.memory.read(address, 3) == b"\0\0\x01"


def test_a_held_request_is_completed_later_from_another_thread_and_out_of_order(stage: Stage) -> None:
    held: list[Request] = []
    there = threading.Event()

    class Later(Device):
        def handle(self, request: Request) -> None:
            request.hold()
            held.append(request)
            if len(held) == 2:
                there.set()

    _, front = stage.serve(Later())
    front.bring_up()
    first, _ = front.post(writable=4)
    second, _ = front.post(writable=4)
    assert there.wait(10)
    for request in reversed(held):
        request.write(b"done")
        request.complete()
    held.clear()
    assert [front.collect()[0], front.collect()[0]] == [second, first]


@pytest.mark.parametrize(("batch_size", "expected"), [(16, [5]), (3, [3, 2])])
def test_a_batch_is_handled_at_once(stage: Stage, batch_size: int, expected: list[int]) -> None:
    sizes = []

    class Batches(Device, batch_size=batch_size):
        def handle_batch(self, requests: Batch) -> None:
            sizes.append(len(requests))
            requests.fill(0x62)

    _, front = stage.serve(Batches())
    front.negotiate()
    front.share_memory()
    front.configure_ring()
    for _ in range(5):
        front.post(writable=1, kick=False)
    front.kick()
    front.enable()
    assert [front.collect()[1] for _ in range(5)] == [1] * 5
    assert sizes == expected


@pytest.mark.parametrize("batch_size", [0, 65])
def test_a_batch_size_that_is_impossible(batch_size: int) -> None:
    class Batches(Device):
        def handle_batch(self, requests: Batch) -> None:
            requests.fill(0)

    device = Batches()
    device.batch_size = batch_size
    with pytest.raises(ValueError, match=f"class Batches: batch_size {batch_size} is outside of 1 … 64"):
        VhostUserDaemon("batches", device)


def test_H75_what_a_batch_cannot_do_for_a_request_fails_that_request(stage: Stage) -> None:
    failed: list[str] = []

    class Batches(Device):
        def handle_batch(self, requests: Batch) -> None:
            requests.write([b"four"] * len(requests))

        def fail(self, request: Request, exception: BaseException) -> None:
            failed.append(str(exception))
            super().fail(request, exception)

    _, front = stage.serve(Batches())
    front.bring_up()
    front.post(writable=2)
    assert front.collect()[1] == 0
    front.post(writable=4)
    assert front.collect()[1] == 4
    assert ["V014" in words for words in failed] == [True]


def test_coroutines_run_at_the_same_time_and_complete_out_of_order(stage: Stage) -> None:
    class Timed(Device):
        def __init__(self) -> None:
            self.gate: asyncio.Event | None = None

        async def handle(self, request: Request) -> None:
            if self.gate is None:
                self.gate = asyncio.Event()
                await self.gate.wait()
                request.write(b"first")
            else:
                request.write(b"second")
                self.gate.set()

    _, front = stage.serve(Timed())
    front.bring_up()
    first, at_first = front.post(writable=6)
    second, at_second = front.post(writable=6)
    assert [front.collect()[0], front.collect()[0]] == [second, first]
    assert front.memory.read(at_first, 5) == b"first"
    assert front.memory.read(at_second, 6) == b"second"


def test_an_exception_out_of_a_coroutine_fails_its_request(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(Device):
        async def handle(self, request: Request) -> None:
            await asyncio.sleep(0)
            raise ValueError(f"no such thing as {request.writable}")

    _, front = stage.serve(Moody())
    front.bring_up()
    assert front.request(writable=4) == b""
    assert "no such thing" in caplog.text


def test_coroutines_of_a_session_are_cancelled_with_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.RESET_DRAIN", 0.05)
    cancelled = threading.Event()
    begun = threading.Event()

    class Endless(Device):
        async def handle(self, request: Request) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
                request.write(b"never")
            except asyncio.CancelledError:
                cancelled.set()
                raise

    daemon, front = stage.serve(Endless())
    front.bring_up()
    front.post(writable=4)
    assert begun.wait(10)
    front.close()
    assert daemon.wait(10)
    assert cancelled.is_set()


def test_a_declared_header_is_decoded(stage: Stage) -> None:
    seen = []

    class WithHeader(Device, header="<IQ"):
        def handle(self, request: Request) -> None:
            seen.append(request.header)

    _, front = stage.serve(WithHeader())
    front.bring_up()
    front.request(readable=struct.pack("<IQ", 7, 1 << 40))
    assert seen == [(7, 1 << 40)]


def test_listen_calls_back_in_a_worker(stage: Stage) -> None:
    device = Dice()
    daemon, front = stage.serve(device)
    front.bring_up()
    event = os.eventfd(0, os.EFD_NONBLOCK)
    called = threading.Event()

    def callback(_events: int) -> None:
        os.eventfd_read(event)
        called.set()

    device.listen(event, callback)
    with pytest.raises(ValueError, match="listened to already"):
        device.listen(event, callback)
    os.eventfd_write(event, 1)
    assert called.wait(10)
    device.unlisten(event)
    os.close(event)
    assert device.vring(0) is daemon.vrings[0]


def test_reset_is_called_at_the_end_of_a_session(stage: Stage) -> None:
    device = Resettable()
    daemon, front = stage.serve(device)
    front.bring_up()
    assert device.driver_features
    front.close()
    assert daemon.wait(10)
    assert (device.resets, device.driver_features) == (1, 0)


@dataclass
class Space:
    capacity: int
    mode: int

    def pack(self) -> bytes:
        return struct.pack("<QB", self.capacity, self.mode)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*struct.unpack("<QB", data))


class Configured(Dice):
    config_writable = (range(8, 9),)

    def __init__(self) -> None:
        self.config: Space = Space(1234, 0)


def test_C128_configuration_is_read_with_zeroes_after_its_end(stage: Stage) -> None:
    _, front = stage.serve(Configured())
    front.negotiate()
    reply = front.call(FrontendRequest.GET_CONFIG, Config(4, bytes(12)))
    assert reply == Config(4, struct.pack("<QB", 1234, 0)[4:] + bytes(7))


def test_C129_read_only_fields_are_refused_and_writable_ones_written(stage: Stage) -> None:
    device = Configured()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(FrontendRequest.SET_CONFIG, Config(8, b"\x05"))
    assert device.config.mode == 5
    for offset, data in ((0, b"\x01"), (0, struct.pack("<Q", 1234)), (8, b"\x01\x02"), (4, b"\1" * 5)):
        with pytest.raises(RequestRefused):
            front.call(FrontendRequest.SET_CONFIG, Config(offset, data))
    assert device.config == Space(1234, 5)


def test_C129_the_whole_space_may_be_written_when_read_only_bytes_stay(stage: Stage) -> None:
    device = Configured()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(FrontendRequest.SET_CONFIG, Config(0, struct.pack("<QB", 1234, 9)))
    assert device.config == Space(1234, 9)


def test_C129_a_migration_may_write_read_only_fields(stage: Stage) -> None:
    device = Configured()
    _, front = stage.serve(device)
    front.negotiate()
    front.call(FrontendRequest.SET_CONFIG, Config(0, struct.pack("<Q", 99), 1))
    assert device.config.capacity == 99
    with pytest.raises(RequestRefused):
        front.call(FrontendRequest.SET_CONFIG, Config(4, bytes(8), 1))


def test_C054_a_coroutine_in_flight_ends_before_get_vring_base_answers(stage: Stage) -> None:
    begun = threading.Event()

    class Slow(Device):
        async def handle(self, request: Request) -> None:
            begun.set()
            await asyncio.sleep(0.2)
            request.write(b"late")

    _, front = stage.serve(Slow())
    front.bring_up()
    front.post(writable=4)
    assert begun.wait(10)
    assert front.call(FrontendRequest.GET_VRING_BASE, VringState(0)).num == 1
    assert front.rings[0].used_index == 1


def test_C128_a_read_that_lies_beyond_the_configuration_is_refused(stage: Stage) -> None:
    _, front = stage.serve(Configured())
    front.negotiate()
    for offset in (9, 200, 0xFF, 0x109, 0x200):
        with pytest.raises(RequestRefused):
            front.call(FrontendRequest.GET_CONFIG, Config(offset, bytes(4)))
    front.call(FrontendRequest.GET_FEATURES)


def test_C128_zeroes_beyond_the_configuration_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vhost_user.backend"):
        assert Configured().get_config(8, 4) == bytes(4)
    assert "3 bytes beyond the configuration of 9 are read: they are zero" in caplog.text


def test_C128_C129_byte_n_at_0x100_and_n_is_byte_n(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    # Older Cloud Hypervisor asks so, and took 60 zero bytes for an empty disk.
    device = Configured()
    _, front = stage.serve(device)
    front.negotiate()
    whole = struct.pack("<QB", 1234, 0)
    with caplog.at_level(logging.WARNING, "vhost_user.backend"):
        for offset in (0, 3, 8):
            size = len(whole) - offset
            reply = front.call(FrontendRequest.GET_CONFIG, Config(0x100 + offset, bytes(size)))
            assert reply == Config(0x100 + offset, whole[offset:])
    assert "means byte 3 of the configuration by 0x103" in caplog.text
    front.call(FrontendRequest.SET_CONFIG, Config(0x108, b"\x05"))
    assert device.config.mode == 5
    with pytest.raises(RequestRefused):
        front.call(FrontendRequest.SET_CONFIG, Config(0x100, b"\x05"))


def test_C128_a_configuration_of_more_than_0x100_bytes_is_read_as_it_is() -> None:
    device = Dice()
    device.config = bytes(range(256)) * 2
    assert device.get_config(0x101, 2) == b"\1\2"
