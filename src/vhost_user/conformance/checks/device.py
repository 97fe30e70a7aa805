"""Configuration, status, and what devices of known types answer (C128 to C132)."""

from __future__ import annotations

import struct

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.profile import blk_request
from vhost_user.conformance.refusals import Verdict, attempt, receive_message, refusals, refused
from vhost_user.frontend.frontend import Frontend
from vhost_user.frontend.queue import Queue
from vhost_user.spec.blk import IDENTITY_SIZE, SECTOR_SIZE, BlkFeature, BlkRequestType, BlkStatus
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, Config

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
CONFIG = "Front-end message types: GET_CONFIG"
LEGACY_OFFSET = 0x100
WRITEBACK = 32
"""Where ``writeback`` is in the configuration of a block device."""


@check(
    "C128-echo",
    MUST,
    CONFIG,
    "The reply to GET_CONFIG has the offset, the size and as many bytes as were asked for.",
)
def echo(context: CheckContext) -> None:
    """GET_CONFIG is answered with what was asked for."""
    context.need(ProtocolFeature.CONFIG)
    frontend = context.session()
    asked = [Config(0, bytes(8)), Config(4, bytes(4))]
    answers = []
    for payload in asked:
        frontend.raw(REQUEST.GET_CONFIG, payload.pack())
        reply = receive_message(frontend)
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
def out_of_range(context: CheckContext) -> None:
    """GET_CONFIG that cannot be answered gets an empty reply."""
    context.need(ProtocolFeature.CONFIG)
    frontend = context.session()
    frontend.raw(REQUEST.GET_CONFIG, Config(0xFFFFFF00, bytes(64)).pack())
    reply = receive_message(frontend)
    if reply is None:
        return  # closing the connection is a back-end's right in exceptional circumstances
    if not reply[1]:
        return
    if len(reply[1]) == 12:
        raise Deviation("the error has 12 bytes instead of none", quirk="config-error-header")
    raise Deviation(f"configuration at offset 0xffffff00 is answered with {len(reply[1]) - 12} bytes")


@check(
    "C128-legacy-offset",
    SHOULD,
    CONFIG,
    "The configuration space begins at 0. Older versions of Cloud Hypervisor read it at 0x100, where "
    "virtio-mmio has it: a silent zero there is a disk without sectors.",
)
def legacy_offset(context: CheckContext) -> None:
    """GET_CONFIG at 0x100 is answered as at 0, or refused, and not with zeros."""
    context.need(ProtocolFeature.CONFIG)
    first = _config_at(context, 0)
    if not first or not any(first):
        raise Skip("the first eight bytes of the configuration are zero: the two cannot be told apart")
    other = _config_at(context, LEGACY_OFFSET)
    if other and not any(other):
        raise Deviation(f"at 0 it is {first.hex()}, at {LEGACY_OFFSET:#x} it is silently {other.hex()}")


def _config_at(context: CheckContext, offset: int) -> bytes:
    """Eight bytes of the configuration; none when they are refused, with or without the connection."""
    frontend = context.session()
    frontend.raw(REQUEST.GET_CONFIG, Config(offset, bytes(8)).pack())
    reply = receive_message(frontend)
    frontend.close()
    return reply[1][12:] if reply else b""


@check(
    "C129-read-only",
    MUST,
    "Front-end message types: SET_CONFIG",
    "Read-only fields cannot be set by the driver.",
)
def read_only(context: CheckContext) -> None:
    """SET_CONFIG does not change a read-only field (the capacity of a block device)."""
    context.need(ProtocolFeature.CONFIG)
    context.need(ProtocolFeature.REPLY_ACK)
    if context.profile.name != "blk":
        raise Skip("no read-only field of this device is known")
    frontend = context.session()
    before = frontend.get_config(0, 8)
    verdict = attempt(frontend, REQUEST.SET_CONFIG, Config(0, struct.pack("<Q", 12345)))
    if context.session().get_config(0, 8) != before:
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
def set_out_of_range(context: CheckContext) -> None:
    """SET_CONFIG outside of the configuration space is refused."""
    context.need(ProtocolFeature.CONFIG)
    refusals(
        context.session,
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
def status(context: CheckContext) -> None:
    """The device status is told as it was set."""
    context.need(ProtocolFeature.STATUS)
    driver = context.driver(up=False)
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
def wide(context: CheckContext) -> None:
    """A status above 255 is refused."""
    context.need(ProtocolFeature.STATUS)
    refusals(context.session, [(REQUEST.SET_STATUS, U64(0x100), "0x100")])


@check("BLK-write", MUST, "virtio 1.4, 5.2.6", "What was written can be read.")
def blk_write(context: CheckContext) -> None:
    """A block device gives back what was written (the old contents are restored)."""
    if context.profile.name != "blk":
        raise Skip("this is not a block device")
    if context.facts.features & BlkFeature.RO:
        raise Skip("the device is read-only")
    driver = context.driver(features=int(BlkFeature.FLUSH))
    queue = context.queue(driver)
    before = _blk(context, queue, BlkRequestType.IN, writable=SECTOR_SIZE)[0]
    pattern = bytes(range(256)) * 2
    try:
        _blk(context, queue, BlkRequestType.OUT, data=pattern)
        read = _blk(context, queue, BlkRequestType.IN, writable=SECTOR_SIZE)[0]
    finally:
        _blk(context, queue, BlkRequestType.OUT, data=before)
    if read != pattern:
        raise Deviation("sector 0 reads as something else than what was written")


@check(
    "BLK-unknown-request",
    MUST,
    "virtio 1.4, 5.2.6.2",
    "A request type that the device does not know ends with UNSUPP.",
)
def blk_unknown_request(context: CheckContext) -> None:
    """An unknown block request is answered with status UNSUPP."""
    if context.profile.name != "blk":
        raise Skip("this is not a block device")
    driver = context.driver()
    got = _blk(context, context.queue(driver), 0x7777, writable=0, checked=False)[1]
    if got != BlkStatus.UNSUPP:
        raise Deviation(f"request type 0x7777 ends with status {got}")


@check("BLK-beyond-end", MUST, "virtio 1.4, 5.2.6.2", "A request beyond the capacity fails.")
def blk_beyond_end(context: CheckContext) -> None:
    """Reading and writing beyond the end of a block device fail."""
    if context.profile.name != "blk":
        raise Skip("this is not a block device")
    context.need(ProtocolFeature.CONFIG)
    driver = context.driver()
    queue = context.queue(driver)
    (capacity,) = struct.unpack("<Q", driver.read_config(0, 8))
    for sector in (capacity, (1 << 64) - 1, 1 << 55):
        for kind, data, size in ((BlkRequestType.IN, b"", SECTOR_SIZE), (BlkRequestType.OUT, bytes(512), 0)):
            got = _blk(context, queue, kind, sector=sector, data=data, writable=size, checked=False)[1]
            if got == BlkStatus.OK:
                raise Deviation(f"{kind.name} at sector {sector:#x} of {capacity:#x} ends with status OK")


@check(
    "BLK-writeback-start",
    MUST,
    "virtio 1.4, 5.2.5.2",
    "With CONFIG_WCE and without FLUSH a block device starts with writeback at 0: the driver cannot flush.",
)
def blk_writeback_start(context: CheckContext) -> None:
    """Without FLUSH a block device starts in write-through mode."""
    frontend = _with_write_cache(context, BlkFeature.CONFIG_WCE)
    (value,) = frontend.get_config(WRITEBACK, 1)
    if value:
        raise Deviation(f"FLUSH was not negotiated, and writeback is {value}")


@check("BLK-writeback-value", ROBUSTNESS, "virtio 1.4, 5.2.5.2", "The driver sets writeback to 0 or to 1.")
def blk_writeback_value(context: CheckContext) -> None:
    """Another value than 0 and 1 is not taken for the cache mode of a block device."""
    context.need(ProtocolFeature.REPLY_ACK)
    for wrong in (2, 0xFF):
        frontend = _with_write_cache(context, BlkFeature.CONFIG_WCE | BlkFeature.FLUSH)
        refused(frontend, REQUEST.SET_CONFIG, Config(WRITEBACK, bytes([wrong])), f"writeback {wrong}")
        frontend = _with_write_cache(context, BlkFeature.CONFIG_WCE | BlkFeature.FLUSH)
        if frontend.get_config(WRITEBACK, 1)[0] == wrong:
            raise Deviation(f"writeback is {wrong} afterwards")


def _with_write_cache(context: CheckContext, features: int) -> Frontend:
    """A session with a block device that has these features, and of all of the cache none but these."""
    if context.profile.name != "blk":
        raise Skip("this is not a block device")
    context.need(ProtocolFeature.CONFIG)
    if not context.facts.features & BlkFeature.CONFIG_WCE:
        raise Skip("CONFIG_WCE is not offered: the cache mode cannot be set")
    return context.session(features=int(VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES | features))


@check("BLK-identity", SHOULD, "virtio 1.4, 5.2.6", "GET_ID writes at most 20 bytes.")
def blk_identity(context: CheckContext) -> None:
    """GET_ID is answered."""
    if context.profile.name != "blk":
        raise Skip("this is not a block device")
    driver = context.driver()
    got = _blk(context, context.queue(driver), BlkRequestType.GET_ID, writable=IDENTITY_SIZE, checked=False)[
        1
    ]
    if got not in (BlkStatus.OK, BlkStatus.UNSUPP):
        raise Deviation(f"GET_ID ends with status {got}")


def _blk(
    context: CheckContext,
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
        pending.wait(context.timeout)
    except TimeoutError:
        raise Deviation(f"request type {kind} is not completed within {context.timeout} s") from None
    answer = pending.data
    if checked and answer[-1] != BlkStatus.OK:
        raise Deviation(f"request type {kind} at sector {sector} ends with status {answer[-1]}")
    return answer[:-1], answer[-1]
