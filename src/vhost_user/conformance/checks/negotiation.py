"""Features and protocol features (C022 to C034, C093, C094)."""

from __future__ import annotations

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.refusals import Verdict, attempt, receive_message, refusals
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Config, HeaderFlag

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest


@check(
    "C022-protocol-features-first", MUST, "Protocol features",
    "A back-end that offers bit 30 answers GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES even before "
    "SET_FEATURES was called.",
)  # fmt: skip
def protocol_features_first(context: CheckContext) -> None:
    """Protocol features can be negotiated before anything else."""
    context.need_feature(VirtioFeature.PROTOCOL_FEATURES)
    frontend = context.connect()
    frontend.get_features()
    offered = frontend.get_protocol_features()
    frontend.set_protocol_features(offered & ProtocolFeature.REPLY_ACK)
    context.still_answers(frontend, "SET_PROTOCOL_FEATURES")


@check(
    "C024-gated", ROBUSTNESS, "Protocol features",
    "A message that belongs to a protocol feature is sent only after that feature was negotiated.",
)  # fmt: skip
def gated(context: CheckContext) -> None:
    """Messages of features that were not negotiated are refused."""
    cases: list[tuple[FrontendRequest, bytes]] = [
        (REQUEST.GET_QUEUE_NUM, b""),
        (REQUEST.GET_MAX_MEM_SLOTS, b""),
        (REQUEST.GET_CONFIG, Config(0, bytes(8)).pack()),
        (REQUEST.SET_STATUS, U64(1).pack()),
        (REQUEST.GET_STATUS, b""),
        (REQUEST.CHECK_DEVICE_STATE, b""),
        (REQUEST.RESET_DEVICE, b""),
        (REQUEST.NET_SET_MTU, U64(1500).pack()),
    ]
    refusals(
        lambda: context.session(protocol=ProtocolFeature.REPLY_ACK),
        [(request, payload, f"{_gate(request)} not negotiated") for request, payload in cases],
    )


@check(
    "C025-unoffered-protocol-bits", ROBUSTNESS, "Protocol features",
    "Only protocol features that the back-end offers can be acknowledged.",
)  # fmt: skip
def unoffered_protocol_bits(context: CheckContext) -> None:
    """SET_PROTOCOL_FEATURES with bits that were not offered is refused."""
    context.need(ProtocolFeature.REPLY_ACK)
    wrong = []
    for bit in (40, 63):
        if context.facts.protocol_features >> bit & 1:
            continue
        frontend = context.session(protocol=ProtocolFeature.REPLY_ACK)
        verdict = attempt(
            frontend, REQUEST.SET_PROTOCOL_FEATURES, U64(int(ProtocolFeature.REPLY_ACK) | 1 << bit)
        )
        if verdict in (Verdict.ACCEPTED, Verdict.SILENT):
            wrong.append(f"bit {bit}: {verdict.value}")
    if wrong:
        raise Deviation(", ".join(wrong), quirk="unoffered-bits")


@check(
    "C026-unoffered-bits", ROBUSTNESS, "Front-end message types: SET_FEATURES",
    "The driver acknowledges a subset of the features that the device offers.",
)  # fmt: skip
def unoffered_bits(context: CheckContext) -> None:
    """SET_FEATURES with bits that were not offered is refused."""
    context.need(ProtocolFeature.REPLY_ACK)
    unoffered = [bit for bit in (23, 39, 41, 49, 62) if not context.facts.features >> bit & 1]
    wrong = []
    for bit in unoffered[:2]:
        frontend = context.session()
        verdict = attempt(frontend, REQUEST.SET_FEATURES, U64(frontend.features | 1 << bit))
        if verdict in (Verdict.ACCEPTED, Verdict.SILENT):
            wrong.append(f"bit {bit}: {verdict.value}")
    if wrong:
        raise Deviation(", ".join(wrong), quirk="unoffered-bits")


@check(
    "C027-inband", MUST, "In-band notifications",
    "INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK: the back-end closes the connection.",
)  # fmt: skip
def inband(context: CheckContext) -> None:
    """In-band notifications without what they need end the connection."""
    context.need(ProtocolFeature.INBAND_NOTIFICATIONS)
    frontend = context.connect()
    frontend.get_features()
    frontend.raw(REQUEST.SET_PROTOCOL_FEATURES, U64(int(ProtocolFeature.INBAND_NOTIFICATIONS)).pack())
    try:
        frontend.get_features()
    except VhostUserError:
        return
    raise Deviation("the connection goes on")


@check(
    "C028-dependent-bits", MUST, "Protocol features",
    "GET_VRING_BASE_INFLIGHT builds on INFLIGHT_SHMFD, and BACKEND_SEND_FD on BACKEND_REQ.",
)  # fmt: skip
def dependent_bits(context: CheckContext) -> None:
    """Protocol features are offered together with those that they build on."""
    offered = context.facts.protocol_features
    for bit, needed in (
        (ProtocolFeature.GET_VRING_BASE_INFLIGHT, ProtocolFeature.INFLIGHT_SHMFD),
        (ProtocolFeature.BACKEND_SEND_FD, ProtocolFeature.BACKEND_REQ),
    ):
        if offered & bit and not offered & needed:
            raise Deviation(f"{bit.name} is offered without {needed.name}")


@check(
    "C029-features-again", MUST, "Migration",
    "SET_FEATURES may come again, also while rings run, to turn dirty logging on and off.",
)  # fmt: skip
def features_again(context: CheckContext) -> None:
    """SET_FEATURES again does not stop running rings."""
    driver, queue = context.serving()
    context.exchange(queue)
    for log in (VirtioFeature.LOG_ALL, 0, 0):
        driver.frontend.set_features((driver.frontend.features & ~int(VirtioFeature.LOG_ALL)) | (
            context.facts.features & log))  # fmt: skip
        context.exchange(queue)


@check(
    "C031-multiqueue", SHOULD, "Multiple queue support",
    "A back-end should always offer MQ and tell the number of its queues.",
)  # fmt: skip
def multiqueue(context: CheckContext) -> None:
    """MQ is offered, and GET_QUEUE_NUM tells a sensible number."""
    if not context.facts.protocol_features & ProtocolFeature.MQ:
        raise Deviation("MQ is not offered: front-ends must guess the number of queues")
    count = context.session().get_queue_num()
    if not 1 <= count <= 65535:
        raise Deviation(f"GET_QUEUE_NUM tells {count}")


@check(
    "C032-fresh-start", MUST, "Reconnection",
    "A new connection begins with nothing negotiated.",
)  # fmt: skip
def fresh_start(context: CheckContext) -> None:
    """What was negotiated on one connection does not count on the next."""
    context.need(ProtocolFeature.REPLY_ACK)
    for acked in (False, True):
        context.session(protocol=ProtocolFeature.REPLY_ACK if acked else 0).close()
        frontend = context.connect()
        frontend.send_bytes(
            encode(REQUEST.SET_OWNER, 1 | HeaderFlag.NEED_REPLY) + encode(REQUEST.GET_FEATURES, 1)
        )
        reply = receive_message(frontend)
        if reply is None:
            raise Skip("SET_OWNER with NEED_REPLY ends the connection before REPLY_ACK was negotiated")
        if reply[0].request != REQUEST.GET_FEATURES:
            if not acked:
                raise Skip("NEED_REPLY is answered whether REPLY_ACK is negotiated or not (C094)")
            raise Deviation("REPLY_ACK is still in force on a new connection")


@check(
    "C033-reset-owner", SHOULD, "Front-end message types: RESET_OWNER",
    "RESET_OWNER is no longer used; back-ends ignore it, or disable all rings, and keep everything else.",
)  # fmt: skip
def reset_owner(context: CheckContext) -> None:
    """RESET_OWNER leaves the session as it is, but for the rings."""
    driver = context.driver()
    frontend = driver.frontend
    try:
        frontend.reset_owner()
        for index in range(len(driver.queues)):
            driver.enable_queue(index)
        context.still_answers(frontend, "RESET_OWNER")
        if context.profile.works:
            context.exchange(context.queue(driver))
    except EngineError:
        raise  # the quirk does not explain a broken ring
    except (Deviation, VhostUserError) as error:
        raise Deviation(f"after RESET_OWNER: {error}", quirk="reset-owner-destructive") from error


@check(
    "V040-version-1", MUST, "virtio 1.4, 6.1",
    "A device must offer VIRTIO_F_VERSION_1.",
)  # fmt: skip
def version_1(context: CheckContext) -> None:
    """VIRTIO_F_VERSION_1 is offered."""
    if not context.facts.features & VirtioFeature.VERSION_1:
        raise Deviation(f"features {context.facts.features:#x} lack bit 32")


@check(
    "V044-transport-bits", SHOULD, "virtio 1.4, 6",
    "NOTIFICATION_DATA, NOTIF_CONFIG_DATA and ADMIN_VQ belong to transports that vhost-user does not carry.",
)  # fmt: skip
def transport_bits(context: CheckContext) -> None:
    """Features that no eventfd can carry are not offered."""
    for bit in (VirtioFeature.NOTIFICATION_DATA, VirtioFeature.NOTIF_CONFIG_DATA, VirtioFeature.ADMIN_VQ):
        if context.facts.features & bit:
            raise Deviation(f"{bit.name} is offered")


@check(
    "C094-no-ack-before", MUST, "REPLY_ACK",
    "NEED_REPLY means nothing before REPLY_ACK was negotiated.",
)  # fmt: skip
def no_ack_before(context: CheckContext) -> None:
    """NEED_REPLY is not answered before REPLY_ACK was negotiated."""
    frontend = context.session(protocol=0)
    frontend.raw(REQUEST.SET_OWNER, need_reply=True)
    try:
        reply = receive_message(frontend, timeout=context.quiet)
    except PeerTimeout:
        return
    if reply is not None:
        raise Deviation("SET_OWNER is acked although REPLY_ACK is not negotiated")


def _gate(request: FrontendRequest) -> str:
    feature = FRONTEND_REQUESTS[request].protocol_feature
    return str(feature.name) if feature is not None else ""
