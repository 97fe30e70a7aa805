"""Configuration, status, device state, and what devices of known types answer (C122 to C132)."""

from __future__ import annotations

import contextlib
import os
import struct
import threading

from vhost_user.conformance.bench import Bench, Verdict
from vhost_user.conformance.check import Deviation, Level, Skip, check
from vhost_user.conformance.profile import blk_request
from vhost_user.frontend.queue import Queue
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.blk import IDENTITY_SIZE, SECTOR_SIZE, BlkFeature, BlkRequestType, BlkStatus
from vhost_user.spec.features import DeviceStatus, ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Config, TransferState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
CONFIG = "Front-end message types: GET_CONFIG"


@check(
    "C128-echo",
    MUST,
    CONFIG,
    "The reply to GET_CONFIG has the offset, the size and as many bytes as were asked for.",
)
def echo(bench: Bench) -> None:
    """GET_CONFIG is answered with what was asked for."""
    bench.need(ProtocolFeature.CONFIG)
    frontend = bench.session()
    asked = [Config(0, bytes(8)), Config(4, bytes(4))]
    answers = []
    for payload in asked:
        frontend.raw(REQUEST.GET_CONFIG, payload.pack())
        reply = bench.receive(frontend)
        if reply is None:
            raise Deviation("the connection is closed instead of an answer")
        if len(reply[1]) != 12 + payload.size:
            raise Deviation(f"asked for {payload.size} bytes, the answer has {max(len(reply[1]) - 12, 0)}")
        answer = Config.unpack(reply[1])
        if answer.offset != payload.offset:
            raise Deviation(f"asked for offset {payload.offset}, the answer is for {answer.offset}")
        answers.append(answer.data)
    if answers[0][4:8] != answers[1]:
        raise Deviation(
            f"bytes 4 to 7 are {answers[0][4:8].hex()} at once and {answers[1].hex()} on their own"
        )


@check("C128-out-of-range", MUST, CONFIG, "A failed GET_CONFIG is answered with a payload of size 0.")
def out_of_range(bench: Bench) -> None:
    """GET_CONFIG that cannot be answered gets an empty reply."""
    bench.need(ProtocolFeature.CONFIG)
    frontend = bench.session()
    frontend.raw(REQUEST.GET_CONFIG, Config(0xFFFFFF00, bytes(64)).pack())
    reply = bench.receive(frontend)
    if reply is None:
        return  # closing the connection is a back-end's right in exceptional circumstances
    if not reply[1]:
        return
    if len(reply[1]) == 12:
        raise Deviation("the error has 12 bytes instead of none", quirk="config-error-header")
    raise Deviation(f"configuration at offset 0xffffff00 is answered with {len(reply[1]) - 12} bytes")


@check(
    "C129-read-only",
    MUST,
    "Front-end message types: SET_CONFIG",
    "Read-only fields cannot be set by the driver.",
)
def read_only(bench: Bench) -> None:
    """SET_CONFIG does not change a read-only field (the capacity of a block device)."""
    bench.need(ProtocolFeature.CONFIG)
    bench.need(ProtocolFeature.REPLY_ACK)
    if bench.profile.name != "blk":
        raise Skip("no read-only field of this device is known")
    frontend = bench.session()
    before = frontend.get_config(0, 8)
    verdict = bench.attempt(frontend, REQUEST.SET_CONFIG, Config(0, struct.pack("<Q", 12345)))
    if bench.session().get_config(0, 8) != before:
        raise Deviation("the capacity was changed by SET_CONFIG")
    if verdict is Verdict.ACCEPTED:
        raise Deviation(
            "SET_CONFIG of the capacity is acked as if it were carried out", quirk="acks-failures"
        )


@check(
    "C129-out-of-range",
    ROBUSTNESS,
    "Front-end message types: SET_CONFIG",
    "An access lies in the configuration space.",
)
def set_out_of_range(bench: Bench) -> None:
    """SET_CONFIG outside of the configuration space is refused."""
    bench.need(ProtocolFeature.CONFIG)
    bench.refusals(
        bench.session,
        [
            (REQUEST.SET_CONFIG, Config(0xFFFFFFF8, bytes(64)), "an offset at the end of 2^32"),
            (REQUEST.SET_CONFIG, Config(4000, bytes(200)), "bytes 4000 to 4199"),
        ],
    )


@check(
    "C131-status",
    MUST,
    "Front-end message types: GET_STATUS",
    "GET_STATUS tells the status that SET_STATUS set; 0 resets.",
)
def status(bench: Bench) -> None:
    """The device status is told as it was set."""
    bench.need(ProtocolFeature.STATUS)
    driver = bench.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    frontend = driver.frontend
    told = frontend.get_status()
    wanted = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK
    if told & wanted != wanted:
        raise Deviation(f"ACKNOWLEDGE, DRIVER and FEATURES_OK were set, the status is {told:#x}")
    frontend.set_status(0)
    if told := frontend.get_status():
        raise Deviation(f"after a reset the status is {told:#x}")


@check("C131-wide", ROBUSTNESS, "Front-end message types: SET_STATUS", "The status has eight bits.")
def wide(bench: Bench) -> None:
    """A status above 255 is refused."""
    bench.need(ProtocolFeature.STATUS)
    bench.refusals(bench.session, [(REQUEST.SET_STATUS, U64(0x100), "0x100")])


@check(
    "C122-running",
    MUST,
    "Migrating device state",
    "Device state is transferred only while all rings are stopped.",
)
def state_running(bench: Bench) -> None:
    """SET_DEVICE_STATE_FD is refused while a ring runs."""
    bench.need(ProtocolFeature.DEVICE_STATE)
    driver = bench.driver()
    _read, write = bench.tell_tale()
    bench.refused(
        driver.frontend, REQUEST.SET_DEVICE_STATE_FD, TransferState(0, 0), "a running ring", (write,)
    )


@check("C122-numbers", ROBUSTNESS, "Migrating device state", "Direction is 0 or 1, phase is 0.")
def state_numbers(bench: Bench) -> None:
    """SET_DEVICE_STATE_FD with an unknown direction or phase is refused."""
    bench.need(ProtocolFeature.DEVICE_STATE)
    _read, write = bench.tell_tale()
    bench.refusals(
        bench.session,
        [
            (REQUEST.SET_DEVICE_STATE_FD, TransferState(2, 0), "direction 2"),
            (REQUEST.SET_DEVICE_STATE_FD, TransferState(0, 1), "phase 1"),
        ],
        write,
    )


@check("C124-save-and-load", MUST, "Migrating device state", "What a device saves it can load again.")
def save_and_load(bench: Bench) -> None:
    """Device state that was saved can be loaded, and both are reported as done."""
    bench.need(ProtocolFeature.DEVICE_STATE)
    state = _transfer(bench, direction=0)
    _transfer(bench, direction=1, data=state)


@check("C125-no-transfer", SHOULD, "Migrating device state", "CHECK_DEVICE_STATE tells how a transfer went.")
def no_transfer(bench: Bench) -> None:
    """CHECK_DEVICE_STATE without a transfer reports a failure."""
    bench.need(ProtocolFeature.DEVICE_STATE)
    bench.refusals(bench.session, [(REQUEST.CHECK_DEVICE_STATE, b"", "no transfer before")])


@check("BLK-write", MUST, "virtio 1.4, 5.2.6", "What was written can be read.")
def blk_write(bench: Bench) -> None:
    """A block device gives back what was written (the old contents are restored)."""
    if bench.profile.name != "blk":
        raise Skip("this is not a block device")
    if bench.facts.features & BlkFeature.RO:
        raise Skip("the device is read-only")
    driver = bench.driver(features=int(BlkFeature.FLUSH))
    queue = bench.queue(driver)
    before = _blk(bench, queue, BlkRequestType.IN, writable=SECTOR_SIZE)[0]
    pattern = bytes(range(256)) * 2
    try:
        _blk(bench, queue, BlkRequestType.OUT, data=pattern)
        read = _blk(bench, queue, BlkRequestType.IN, writable=SECTOR_SIZE)[0]
    finally:
        _blk(bench, queue, BlkRequestType.OUT, data=before)
    if read != pattern:
        raise Deviation("sector 0 reads as something else than what was written")


@check(
    "BLK-unknown-request",
    MUST,
    "virtio 1.4, 5.2.6.2",
    "A request type that the device does not know ends with UNSUPP.",
)
def blk_unknown_request(bench: Bench) -> None:
    """An unknown block request is answered with status UNSUPP."""
    if bench.profile.name != "blk":
        raise Skip("this is not a block device")
    driver = bench.driver()
    got = _blk(bench, bench.queue(driver), 0x7777, writable=0, checked=False)[1]
    if got != BlkStatus.UNSUPP:
        raise Deviation(f"request type 0x7777 ends with status {got}")


@check("BLK-beyond-end", MUST, "virtio 1.4, 5.2.6.2", "A request beyond the capacity fails.")
def blk_beyond_end(bench: Bench) -> None:
    """Reading and writing beyond the end of a block device fail."""
    if bench.profile.name != "blk":
        raise Skip("this is not a block device")
    bench.need(ProtocolFeature.CONFIG)
    driver = bench.driver()
    queue = bench.queue(driver)
    (capacity,) = struct.unpack("<Q", driver.read_config(0, 8))
    for sector in (capacity, (1 << 64) - 1, 1 << 55):
        for kind, data, size in ((BlkRequestType.IN, b"", SECTOR_SIZE), (BlkRequestType.OUT, bytes(512), 0)):
            got = _blk(bench, queue, kind, sector=sector, data=data, writable=size, checked=False)[1]
            if got == BlkStatus.OK:
                raise Deviation(f"{kind.name} at sector {sector:#x} of {capacity:#x} ends with status OK")


@check("BLK-identity", SHOULD, "virtio 1.4, 5.2.6", "GET_ID writes at most 20 bytes.")
def blk_identity(bench: Bench) -> None:
    """GET_ID is answered."""
    if bench.profile.name != "blk":
        raise Skip("this is not a block device")
    driver = bench.driver()
    got = _blk(bench, bench.queue(driver), BlkRequestType.GET_ID, writable=IDENTITY_SIZE, checked=False)[1]
    if got not in (BlkStatus.OK, BlkStatus.UNSUPP):
        raise Deviation(f"GET_ID ends with status {got}")


def _blk(
    bench: Bench,
    queue: Queue,
    kind: int,
    *,
    sector: int = 0,
    data: bytes = b"",
    writable: int = 0,
    checked: bool = True,
) -> tuple[bytes, int]:
    """One block request: what was read, and the status."""
    pending = queue.submit(blk_request(kind, sector) + data, writable + 1)
    try:
        pending.wait(bench.timeout)
    except TimeoutError:
        raise Deviation(f"request type {kind} is not completed within {bench.timeout} s") from None
    answer = pending.data
    if checked and answer[-1] != BlkStatus.OK:
        raise Deviation(f"request type {kind} at sector {sector} ends with status {answer[-1]}")
    return answer[:-1], answer[-1]


def _transfer(bench: Bench, *, direction: int, data: bytes = b"") -> bytes:
    frontend = bench.session()
    read, write = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (read, write) if direction == 0 else (write, read)
    try:
        other = frontend.set_device_state_fd(theirs, direction)
    except VhostUserError as error:
        os.close(ours)
        raise Deviation(f"direction {direction}: {error}") from error
    finally:
        os.close(theirs)
    if other is not None:
        os.close(ours)
        ours = other
    chunks: list[bytes] = []

    def move() -> None:
        with contextlib.suppress(OSError), os.fdopen(ours, "rb" if direction == 0 else "wb") as file:
            if direction == 0:
                chunks.append(file.read())
            else:
                file.write(data)

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    thread.join(bench.timeout)
    if thread.is_alive():
        frontend.close()
        raise Deviation(f"the transfer does not end within {bench.timeout} s")
    try:
        frontend.check_device_state()
    except VhostUserError as error:
        raise Deviation(f"CHECK_DEVICE_STATE after direction {direction}: {error}") from error
    return b"".join(chunks)
