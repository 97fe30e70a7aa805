"""Many blocks at once through the block driver: read, compared, and what can go wrong meanwhile."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vhost_user import Device, Request
from vhost_user.engine.driver.block_transfer import BlockTransfer
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import EngineError
from vhost_user.frontend import BlockDriver, DeviceError, Disconnected, PeerTimeout
from vhost_user.spec.blk import BlkConfig

Serve = Callable[[Device], socket.socket]
Daemon = Callable[..., Path]
SIZE = 1 << 20
CONTENT = random.Random(4).randbytes(SIZE)


class Disk(Device, type="blk"):
    """Reads of CONTENT; ``bad``, ``short`` and ``hold`` name the sector where it errs or never answers."""

    header = "<IIQ"
    packed = True

    def __init__(self) -> None:
        super().__init__()
        self.config = BlkConfig(capacity=SIZE // 512).pack()
        self.bad = self.short = self.hold = -1
        self.lengths: set[int] = set()
        self.held: list[Request] = []
        self.arrived = threading.Event()

    def handle(self, request: Request) -> None:
        _, _, sector = request.header
        length = request.writable - 1
        self.lengths.add(length)
        if sector == self.hold:
            self.held.append(request)
            self.arrived.set()
            request.hold()
            return
        request.write(CONTENT[sector * 512 : sector * 512 + length])
        request.write_last(struct.pack("<B", 1 if sector == self.bad else 0))
        if sector == self.short:
            request.complete(1)

    def close(self) -> None:
        self.held.clear()
        super().close()


@pytest.fixture
def device() -> Disk:
    return Disk()


@pytest.fixture
def disk(serve: Serve, device: Disk) -> Iterator[BlockDriver]:
    with BlockDriver(serve(device), packed=False, timeout=10) as disk:
        yield disk


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_disk_is_read_whole(
    serve: Serve, device: Disk, polling: bool, packed: bool, event_idx: bool
) -> None:
    with BlockDriver(serve(device), packed=packed, event_idx=event_idx) as disk:
        allocated = disk.memory.allocated
        for depth, block_size in ((32, 4096), (1, 1 << 16), (1000, 512)):
            buffer = bytearray(SIZE)
            assert disk.read_blocks(0, buffer, depth=depth, block_size=block_size, polling=polling) == SIZE
            assert buffer == CONTENT
            assert disk.first_difference(0, CONTENT, depth=depth, block_size=block_size) is None
        assert device.lengths == {512, 4096, 1 << 16}
        assert disk.memory.allocated >= allocated
        assert disk.queue().ring.outstanding == 0
        assert disk.read(7, 3) == CONTENT[7 * 512 : 10 * 512]


def test_the_last_block_may_be_a_part(disk: BlockDriver, device: Disk) -> None:
    buffer = bytearray(5 * 512)
    assert disk.read_blocks(3, buffer, block_size=1024) == len(buffer)
    assert buffer == CONTENT[3 * 512 : 8 * 512]
    assert device.lengths == {1024, 512}


@pytest.mark.parametrize("at", [0, 4095, 4096, 500_001, SIZE - 1])
def test_the_first_difference_is_found(disk: BlockDriver, at: int) -> None:
    expected = bytearray(CONTENT)
    expected[at] ^= 1
    expected[-1] ^= 0x80
    assert disk.first_difference(0, expected) == at
    assert disk.first_difference(0, expected, depth=1) == at


def test_a_block_that_fails_is_named_and_the_queue_goes_on(disk: BlockDriver, device: Disk) -> None:
    device.bad = 800
    allocated = disk.memory.allocated
    with pytest.raises(DeviceError, match="IN at sector 800: the device reports an I/O error") as caught:
        disk.read_blocks(0, bytearray(SIZE))
    assert caught.value.status == 1
    assert disk.memory.allocated == allocated
    assert disk.read(800 - 8, 8) == CONTENT[(800 - 8) * 512 : 800 * 512]
    assert disk.first_difference(808, memoryview(CONTENT)[808 * 512 :]) is None


def test_V014_a_block_whose_length_is_wrong_is_an_error(disk: BlockDriver, device: Disk) -> None:
    device.short = 16
    with pytest.raises(DeviceError, match=r"sector 16: the device says it wrote 1 bytes \[V014\]"):
        disk.read_blocks(0, bytearray(SIZE))


def test_a_device_that_never_answers_ends_the_transfer(serve: Serve, device: Disk) -> None:
    device.hold = 8
    with BlockDriver(serve(device), timeout=0.25) as disk:
        with pytest.raises(PeerTimeout, match="did not answer in time"):
            disk.read_blocks(0, bytearray(64 << 10))
        assert disk.queue().ring.outstanding == 1
        with pytest.raises(EngineError):  # its memory is still the device's
            disk.read(0, 1)
    device.held.clear()


def test_C138_a_back_end_that_goes_away_ends_the_transfer(serve: Serve, device: Disk) -> None:
    device.hold = 8
    ours = serve(device)
    with BlockDriver(ours, timeout=60) as disk:

        def cut() -> None:
            device.arrived.wait()
            disk.frontend.connection.shutdown()

        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises(Disconnected, match="went away"):
            disk.read_blocks(0, bytearray(64 << 10))
        thread.join()
    device.held.clear()


def test_a_queue_in_use_is_refused(disk: BlockDriver, device: Disk) -> None:
    device.hold = 8
    pending = disk.queue().submit(struct.pack("<IIQ", 0, 0, 8), (512, 1))
    with pytest.raises(RuntimeError, match="somebody else"):
        disk.read_blocks(0, bytearray(SIZE))
    assert device.arrived.wait(10)
    request = device.held.pop()
    request.write(bytes(512) + b"\0")
    request.complete()
    assert len(pending.wait(10)) == 513
    pending.release()
    device.hold = -1
    assert disk.first_difference(0, CONTENT) is None


@pytest.mark.parametrize(
    ("options", "size"),
    [({"block_size": 100}, 512), ({"block_size": 0}, 512), ({"depth": 0}, 512), ({}, 100), ({}, 0)],
)
def test_sizes_that_make_no_sense_are_refused(disk: BlockDriver, options: dict[str, Any], size: int) -> None:
    allocated = disk.memory.allocated
    with pytest.raises(ValueError, match=r"sense|whole number"):
        disk.read_blocks(0, bytearray(size), **options)
    assert disk.memory.allocated == allocated


def test_a_buffer_that_cannot_be_written_is_refused(disk: BlockDriver) -> None:
    with pytest.raises(BufferError):
        disk.read_blocks(0, bytes(512))
    with pytest.raises(MemoryError):
        disk.read_blocks(0, bytearray(512), block_size=1 << 30)


def test_a_transfer_can_be_stopped_and_is_used_once(disk: BlockDriver) -> None:
    buffer = bytearray(SIZE)
    transfer = BlockTransfer(disk.queue().ring, buffer, depth=4)
    transfer.stop()
    assert transfer.run(1)
    assert transfer.completed == 0
    transfer.close()
    transfer.close()
    buffer.clear()  # nobody holds it any more
    with pytest.raises(RuntimeError, match="closed"):
        transfer.run(1)
    assert disk.read(0, 1) == CONTENT[:512]


@pytest.mark.parametrize("packed", [False, True])
def test_V018_V049_no_call_is_lost_while_half_is_waited_for(serve: Serve, device: Disk, packed: bool) -> None:
    """A lost call would end the only sleep of a run much later than the device answered."""
    with BlockDriver(serve(device), packed=packed) as disk:
        begun = time.monotonic()
        for depth in (1, 2, 3, 8, 32):
            for _ in range(20):
                transfer = BlockTransfer(disk.queue().ring, CONTENT[: 64 << 10], compare=True, depth=depth)
                assert transfer.run(60)
                transfer.close()
                assert (transfer.completed, transfer.differs) == (16, False)
        assert time.monotonic() - begun < 50


def test_a_descriptor_that_was_tampered_with_is_written_again(disk: BlockDriver) -> None:
    ring = disk.queue().ring
    assert isinstance(ring, SplitDriverQueue)
    for _ in range(2):
        assert disk.first_difference(0, CONTENT[:4096]) is None
        for number in range(ring.size):
            ring.write_descriptor(number, 0, 0)


@pytest.mark.parametrize("use_indirect", [False, True])
def test_an_image_is_read_and_verified_through_qemu(
    storage_daemon: Daemon, tmp_path: Path, use_indirect: bool
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    with BlockDriver(storage_daemon(image), use_indirect=use_indirect) as disk:
        buffer = bytearray(SIZE)
        disk.read_blocks(0, buffer, depth=128)
        assert buffer == CONTENT
        assert disk.first_difference(0, CONTENT) is None
        with pytest.raises(DeviceError, match="an I/O error"):
            disk.read_blocks(disk.capacity - 1, bytearray(1024))
