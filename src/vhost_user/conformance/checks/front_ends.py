"""What known front-ends do, and the specification does not quite say (C024, C037, C057, C067, C094).

QEMU's net enables rings before it sets features; user-mode Linux and rust-vmm's front-end ask for acks from
the start; user-mode Linux has socket pairs as doorbells and a base of 0 for packed rings; DPDK tells only
half of a packed base; QEMU plugs a device again on the same connection. Where that is refused, guests hang.
"""

from __future__ import annotations

import os
import select

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.raw_requests import await_used
from vhost_user.conformance.refusals import Verdict, attempt, receive_message
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.protocol.errors import VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.ring import pack_base
from vhost_user.spec.structs import U64, HeaderFlag, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
BASE = "Front-end message types: SET_VRING_BASE"
COUNTER = (1).to_bytes(8, "little")


@check(
    "C024-enable-first", SHOULD, "Ring states",
    "SET_VRING_ENABLE belongs to bit 30. QEMU's net sends it before SET_FEATURES, once bit 30 was offered "
    "and protocol features were exchanged.",
)  # fmt: skip
def enable_first(context: CheckContext) -> None:
    """Rings that are enabled before SET_FEATURES are enabled when they start."""
    context.need_feature(VirtioFeature.PROTOCOL_FEATURES)
    driver = context.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.announce_queues()
    for index in range(len(driver.queues)):
        state = VringState(index, 1)
        if driver.frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK):
            verdict = attempt(driver.frontend, REQUEST.SET_VRING_ENABLE, state)
            if verdict is not Verdict.ACCEPTED:
                raise Deviation(f"SET_VRING_ENABLE of ring {index} before SET_FEATURES: {verdict.value}")
        else:
            driver.frontend.raw(REQUEST.SET_VRING_ENABLE, state.pack())
            context.still_answers(driver.frontend, "SET_VRING_ENABLE before SET_FEATURES")
    driver.acknowledge()
    driver.share_memory()
    for index in range(len(driver.queues)):
        driver.start_queue(index)
    driver.set_status(DeviceStatus.DRIVER_OK)
    if context.profile.works:
        context.exchange(context.queue(driver), 2)


@check(
    "C094-ack-of-acks", SHOULD, "REPLY_ACK",
    "With REPLY_ACK negotiated a message that asks for an ack gets one; this message negotiates it. "
    "User-mode Linux and rust-vmm's front-end wait for the ack.",
)  # fmt: skip
def ack_of_acks(context: CheckContext) -> None:
    """SET_PROTOCOL_FEATURES that turns acks on, and asks for one, is acked."""
    context.need(ProtocolFeature.REPLY_ACK)
    frontend = context.connect()
    frontend.get_features()
    frontend.get_protocol_features()
    data = U64(int(ProtocolFeature.REPLY_ACK)).pack()
    frontend.send_bytes(
        encode(REQUEST.SET_PROTOCOL_FEATURES, 1 | HeaderFlag.NEED_REPLY, data)
        + encode(REQUEST.GET_FEATURES, 1)
    )
    reply = receive_message(frontend)
    if reply is None:
        raise Deviation("SET_PROTOCOL_FEATURES with NEED_REPLY ends the connection")
    header, answer = reply
    if header.request == REQUEST.GET_FEATURES:
        raise Deviation("SET_PROTOCOL_FEATURES with NEED_REPLY gets no ack", quirk="late-acks")
    if header.request != REQUEST.SET_PROTOCOL_FEATURES or answer != bytes(U64.SIZE):
        raise Deviation(f"SET_PROTOCOL_FEATURES is answered with {answer.hex()} as request {header.request}")


@check(
    "C067-socket-pairs", SHOULD, "Front-end message types: SET_VRING_KICK",
    "Kick and call are eventfds or pipes; user-mode Linux has ends of Unix socket pairs.",
)  # fmt: skip
def socket_pairs(context: CheckContext) -> None:
    """Socket pairs serve as kick, call and error descriptors."""
    driver, queue = context.serving()
    kick, their_kick = context.fds.socket_pair()
    call, their_call = context.fds.socket_pair()
    _, their_error = context.fds.socket_pair()
    driver.frontend.set_vring_kick(queue.index, their_kick)
    driver.frontend.set_vring_call(queue.index, their_call)
    driver.frontend.set_vring_err(queue.index, their_error)
    driver.frontend.barrier()
    for fd in (their_kick, their_call, their_error):
        context.fds.let_go(fd)  # a front-end closes its copies: what works then is the back-end's own
    for _ in range(3):
        _take(call)
        pending = context.submit(queue, publish=False)
        queue.ring.publish()
        os.write(kick, COUNTER)
        await_used(context, queue, pending)
        if not select.select([call], [], [], context.timeout)[0]:
            raise Deviation(f"a socket as call descriptor is not written within {context.timeout} s")


@check(
    "C057-half-base", SHOULD, BASE,
    "The base of a packed ring has an available and a used half. DPDK's virtio-user tells the available one; "
    "in a drained ring both are the same.",
)  # fmt: skip
def half_base(context: CheckContext) -> None:
    """A packed base without its used half stands for a ring that was drained there."""
    _packed_at(context, 0, available_wrap=True)
    _packed_at(context, 5, available_wrap=True)


@check(
    "C057-zero-base", SHOULD, BASE,
    "A packed ring begins with both wrap counters at 1; user-mode Linux says 0 for a fresh ring.",
)  # fmt: skip
def zero_base(context: CheckContext) -> None:
    """A packed base of 0 stands for a fresh ring."""
    _packed_at(context, 0, available_wrap=True, told=0)


@check(
    "C037-plugged-again", SHOULD, "Memory regions description",
    "Regions do not overlap. QEMU plugs a device again on the same connection: SET_OWNER, and the same "
    "memory, with nothing removed in between.",
)  # fmt: skip
def plugged_again(context: CheckContext) -> None:
    """A device that was unplugged can be plugged again on the same connection, several times."""
    slots = bool(context.facts.protocol_features & ProtocolFeature.CONFIGURE_MEM_SLOTS)
    driver = context.driver(memory_slots=slots)
    for number in range(1, 4):
        if context.profile.works:
            context.exchange(context.queue(driver), 2)
        driver.tear_down()
        try:
            _plug(driver)
        except VhostUserError as error:
            raise Deviation(f"plugged {number + 1} times on one connection: {error}") from error
    if context.profile.works:
        context.exchange(context.queue(driver), 2)


def _plug(driver: VirtioDriver) -> None:
    """Everything once more on the connection that is there, as QEMU does for device_add."""
    driver.negotiate()
    driver.announce_queues()
    driver.acknowledge()
    driver.share_memory()
    for index, queue in enumerate(driver.queues):
        queue.restart()
        driver.start_queue(index)
    for index in range(len(driver.queues)):
        driver.enable_queue(index)
    driver.set_status(DeviceStatus.DRIVER_OK)


def _packed_at(context: CheckContext, index: int, *, available_wrap: bool, told: int | None = None) -> None:
    """A packed ring that goes on at ``index``, of which SET_VRING_BASE says ``told`` (the available half)."""
    context.need_feature(VirtioFeature.RING_PACKED)
    context.need_io()
    half = index | available_wrap << 15
    start = pack_base(index, available_wrap=available_wrap, used=index, used_wrap=available_wrap)
    base = half if told is None else told
    driver = context.driver(up=False, packed=True, queue_size=8, start=start)
    driver.introduce()
    queue = context.queue(driver)
    for each in range(len(driver.queues)):
        driver.start_queue(each, base=base if each == queue.index else None)
    for each in range(len(driver.queues)):
        driver.enable_queue(each)
    driver.set_status(DeviceStatus.DRIVER_OK)
    try:
        context.exchange(queue, 20)
    except Deviation as deviation:
        raise Deviation(f"with the base {base:#x}: {deviation}") from deviation


def _take(fd: int) -> None:
    if select.select([fd], [], [], 0)[0]:
        os.read(fd, 4096)
