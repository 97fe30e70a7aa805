"""Acks (C093 to C096) and the back channel (C098)."""

from __future__ import annotations

import os
import select
import socket

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.refusals import receive_message, refusals
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.inflight import region_size
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import NO_FD_BIT, U64, HeaderFlag, Inflight, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
_ASK = 1 | HeaderFlag.NEED_REPLY


@check(
    "C093-acks", MUST, "REPLY_ACK",
    "With REPLY_ACK negotiated every request that asks for a reply gets one: a u64, 0 for success.",
)  # fmt: skip
def acks(context: CheckContext) -> None:
    """Every request that asks for an ack gets one, with the value 0 when it succeeds."""
    context.need(ProtocolFeature.REPLY_ACK)
    frontend = context.session()
    features = U64(frontend.features).pack()
    for request, payload, fds in (
        (REQUEST.SET_FEATURES, features, ()),
        (REQUEST.SET_VRING_NUM, VringState(0, 16).pack(), ()),
        (REQUEST.SET_VRING_BASE, VringState(0, 0).pack(), ()),
        (REQUEST.SET_VRING_CALL, U64(0).pack(), (context.fds.eventfd(),)),
        (REQUEST.SET_VRING_CALL, U64(NO_FD_BIT).pack(), ()),
        (REQUEST.SET_VRING_ERR, U64(0).pack(), (context.fds.eventfd(),)),
        (REQUEST.SET_VRING_ENABLE, VringState(0, 0).pack(), ()),
    ):
        frontend.raw(request, payload, fds, need_reply=True)
        try:
            reply = receive_message(frontend)
        except PeerTimeout:
            raise Deviation(f"{request.name} with NEED_REPLY gets no ack") from None
        if reply is None:
            raise Deviation(f"{request.name} with NEED_REPLY ends the connection")
        header, data = reply
        if header.request != request or len(data) != U64.SIZE:
            raise Deviation(
                f"{request.name} is acked with {len(data)} bytes as request {header.request}, not with a u64"
            )
        if any(data):
            raise Deviation(f"{request.name} is refused ({U64.unpack(data).value})")
    with DriverRegion(1 << 16, guest_address=0x10000000) as region:
        frontend.set_mem_table([region])


@check(
    "C093-one-reply", MUST, "REPLY_ACK",
    "A message with a reply of its own gets that one, and no ack besides.",
)  # fmt: skip
def one_reply(context: CheckContext) -> None:
    """A question that asks for an ack as well gets one reply."""
    context.need(ProtocolFeature.REPLY_ACK)
    frontend = context.session()
    questions = [REQUEST.GET_FEATURES]
    if frontend.has_protocol_feature(ProtocolFeature.MQ):
        questions.append(REQUEST.GET_QUEUE_NUM)
    for request in questions:
        frontend.send_bytes(encode(request, _ASK) + encode(REQUEST.GET_PROTOCOL_FEATURES, 1))
        first, second = receive_message(frontend), receive_message(frontend)
        if first is None or second is None:
            raise Deviation(f"{request.name} with NEED_REPLY ends the connection")
        if second[0].request != REQUEST.GET_PROTOCOL_FEATURES:
            raise Deviation(f"{request.name} with NEED_REPLY gets two replies")


@check(
    "C093-no-ack-unasked", MUST, "REPLY_ACK",
    "Without NEED_REPLY a message that has no reply of its own is not answered.",
)  # fmt: skip
def no_ack_unasked(context: CheckContext) -> None:
    """Nothing is acked that did not ask for it."""
    frontend = context.session()
    frontend.send_bytes(encode(REQUEST.SET_VRING_NUM, 1, VringState(0, 16).pack()))
    frontend.send_bytes(encode(REQUEST.GET_FEATURES, 1))
    reply = receive_message(frontend)
    if reply is None:
        raise Deviation("SET_VRING_NUM ends the connection")
    if reply[0].request != REQUEST.GET_FEATURES:
        raise Deviation("SET_VRING_NUM without NEED_REPLY is acked")


@check(
    "C098-back-channel", MUST, "Backend communication",
    "With BACKEND_REQ the front-end hands a socket over; a later one replaces it.",
)  # fmt: skip
def back_channel(context: CheckContext) -> None:
    """A second back channel replaces the first, which is closed."""
    context.need(ProtocolFeature.BACKEND_REQ)
    frontend = context.session()
    first, first_theirs = socket.socketpair()
    second, second_theirs = socket.socketpair()
    with first, second:
        with first_theirs:
            frontend.set_backend_req_fd(first_theirs.fileno())
        with second_theirs:
            frontend.set_backend_req_fd(second_theirs.fileno())
        frontend.barrier()
        if not _hung_up(first, context.timeout):
            raise Deviation("the first back channel stays open")
        if _hung_up(second, 0):
            raise Deviation("the second back channel is closed")
        frontend.close()
        if not _hung_up(second, context.timeout):
            raise Deviation("the back channel stays open after the session has ended")


@check(
    "C105-shared-memory", MUST, "Shared memory regions",
    "GET_SHMEM_CONFIG tells the sizes of the shared memory regions: whole pages, and always the same.",
)  # fmt: skip
def shared_memory(context: CheckContext) -> None:
    """The shared memory regions have whole pages and stay the same."""
    context.need(ProtocolFeature.SHMEM)
    frontend = context.session()
    first = frontend.get_shmem_config()
    for shmid, size in first.items():
        if size % 4096:
            raise Deviation(f"region {shmid} has {size} bytes, which is not a multiple of 4096")
    if frontend.get_shmem_config() != first:
        raise Deviation("the second answer differs from the first")


@check(
    "C106-inflight", MUST, "Inflight I/O tracking",
    "GET_INFLIGHT_FD returns a zeroed shared file with room for the state of every queue.",
)  # fmt: skip
def inflight(context: CheckContext) -> None:
    """The in-flight area is large enough, zeroed, and made anew as often as asked."""
    context.need(ProtocolFeature.INFLIGHT_SHMFD)
    driver = context.driver(up=False)
    driver.negotiate()
    frontend = driver.frontend
    frontend.set_features(
        frontend.backend_features & (VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES)
    )
    for _ in range(3):
        area = frontend.get_inflight_fd(1, 64)
        context.fds.own(area.fd)
        if area.size < region_size(64, packed=False):
            raise Deviation(f"{area.size} bytes are too few for a queue of 64 descriptors")
        if any(os.pread(area.fd, area.size, area.offset)):
            raise Deviation("the area is not zeroed")


@check(
    "C107-inflight-range", ROBUSTNESS, "Inflight I/O tracking",
    "The area that SET_INFLIGHT_FD hands back has room for what it says.",
)  # fmt: skip
def inflight_range(context: CheckContext) -> None:
    """An in-flight area with wrong numbers is refused."""
    context.need(ProtocolFeature.INFLIGHT_SHMFD)
    fd = context.fds.memfd(4096)
    refusals(
        context.session,
        [
            (REQUEST.SET_INFLIGHT_FD, Inflight(4096, 0, 0xFFFF, 1024), "65535 queues in 4096 bytes"),
            (REQUEST.SET_INFLIGHT_FD, Inflight(1 << 40, 0, 1, 64), "more bytes than the file has"),
            (
                REQUEST.SET_INFLIGHT_FD,
                Inflight(4096, (1 << 64) - 4096, 1, 64),
                "an offset at the end of 2^64",
            ),
        ],
        fd,
    )


def _hung_up(end: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))
