"""Messages about rings with values that make no sense (C058, C063, C069 to C073)."""

from __future__ import annotations

import os
from collections.abc import Callable

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.refusals import Verdict, attempt, receive_message, refusals, refused
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64, VringAddress, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
STATES = "Ring states"
ADDRESS = 0x7F0010000000


@check(
    "C058-base",
    MUST,
    "Front-end message types: SET_VRING_BASE",
    "GET_VRING_BASE tells where the ring would go on: where SET_VRING_BASE put it, if nothing was processed.",
)
def base(context: CheckContext) -> None:
    """A base that was set is told again."""
    frontend = context.session()
    frontend.set_vring_num(0, 16)
    for value in (1, 17, 0xFFFF):
        frontend.set_vring_base(0, value)
        told = frontend.get_vring_base(0)
        if told != value:
            raise Deviation(f"SET_VRING_BASE {value} on a ring that never ran, GET_VRING_BASE tells {told}")


@check(
    "C058-echo",
    MUST,
    "Front-end message types: GET_VRING_BASE",
    "The reply names the ring that was asked for.",
)
def echo(context: CheckContext) -> None:
    """GET_VRING_BASE answers for the ring that was asked for."""
    frontend = context.session()
    for index in range(min(context.facts.num_queues, 4)):
        frontend.raw(REQUEST.GET_VRING_BASE, VringState(index, 0).pack())
        reply = receive_message(frontend)
        if reply is None:
            raise Deviation(f"GET_VRING_BASE of ring {index} ends the connection")
        state = VringState.unpack(reply[1])
        if state.index != index:
            raise Deviation(f"asked for ring {index}, the reply is about ring {state.index}")


@check(
    "C063-idempotent",
    MUST,
    STATES,
    "SET_VRING_ENABLE may come at any time once bit 30 is negotiated; the back-end remembers it.",
)
def idempotent(context: CheckContext) -> None:
    """Rings may be enabled and disabled again and again, also before they start."""
    driver = context.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    if not driver.frontend.features & VirtioFeature.PROTOCOL_FEATURES:
        raise Skip("bit 30 is not offered")
    index = context.queue(driver).index
    for on in (1, 1, 0, 0, 1):
        driver.enable_queue(index, enabled=bool(on))
    driver.share_memory()
    for each in range(len(driver.queues)):
        driver.start_queue(each)
        if each != index:
            driver.enable_queue(each)
    driver.set_status(DeviceStatus.DRIVER_OK)
    if context.profile.works:
        context.exchange(context.queue(driver))


@check("C063-other-number", ROBUSTNESS, STATES, "SET_VRING_ENABLE says 1 to enable and 0 to disable.")
def other_number(context: CheckContext) -> None:
    """SET_VRING_ENABLE with another number than 0 and 1 is refused."""
    refusals(context.session, [(REQUEST.SET_VRING_ENABLE, VringState(0, 2), "num 2")])


@check("C063-without-bit-30", ROBUSTNESS, STATES, "SET_VRING_ENABLE is sent only when bit 30 was negotiated.")
def without_bit_30(context: CheckContext) -> None:
    """SET_VRING_ENABLE is refused when bit 30 was not acknowledged."""
    refusals(
        lambda: context.session(features=int(VirtioFeature.VERSION_1)),
        [(REQUEST.SET_VRING_ENABLE, VringState(0, 1), "bit 30 not negotiated")],
    )


@check(
    "C069-index",
    ROBUSTNESS,
    "Message payloads: a vring state description",
    "The index names a ring that exists.",
    destructive=True,
)
def index(context: CheckContext) -> None:
    """Messages about rings that do not exist are refused."""
    beyond = context.facts.num_queues
    cases = []
    for wrong in sorted({beyond, 0x10000, 0xFFFFFFFF}):
        state = VringState(wrong, 16)
        cases += [
            (REQUEST.SET_VRING_NUM, state.pack(), f"ring {wrong}"),
            (REQUEST.SET_VRING_BASE, VringState(wrong, 0).pack(), f"ring {wrong}"),
            (REQUEST.SET_VRING_ENABLE, VringState(wrong, 1).pack(), f"ring {wrong}"),
            (
                REQUEST.SET_VRING_ADDR,
                VringAddress(wrong, 0, ADDRESS, ADDRESS, ADDRESS).pack(),
                f"ring {wrong}",
            ),
        ]
    refusals(context.session, cases)
    if beyond <= 0xFF:
        refusals(
            context.session,
            [(request, U64(beyond), f"ring {beyond}")
             for request in (REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_KICK, REQUEST.SET_VRING_ERR)],
            context.fds.eventfd(),
        )  # fmt: skip


@check(
    "C069-base-index",
    ROBUSTNESS,
    "Front-end message types: GET_VRING_BASE",
    "The index names a ring that exists.",
    destructive=True,
)
def base_index(context: CheckContext) -> None:
    """GET_VRING_BASE of a ring that does not exist is not answered as if it did."""
    frontend = context.session()
    frontend.raw(REQUEST.GET_VRING_BASE, VringState(0xFFFF, 0).pack())
    try:
        reply = receive_message(frontend)
    except PeerTimeout:
        raise Deviation(f"no answer and no end of the connection within {context.timeout} s") from None
    if reply is not None:
        raise Deviation(f"GET_VRING_BASE of ring 65535 is answered with {VringState.unpack(reply[1]).num}")


@check(
    "H05-truncated-index",
    ROBUSTNESS,
    "Message payloads: a vring state description",
    "The index has 32 bits.",
    destructive=True,
)
def truncated_index(context: CheckContext) -> None:
    """Ring 65536 is not taken for ring 0 (CVE-2020-10723)."""
    frontend = context.session()
    frontend.set_vring_num(0, 16)
    frontend.set_vring_base(0, 5)
    attempt(frontend, REQUEST.SET_VRING_BASE, VringState(0x10000, 9))
    if frontend.hung_up():
        return
    told = frontend.get_vring_base(0)
    if told == 9:
        raise Deviation("SET_VRING_BASE of ring 65536 changes ring 0")


@check(
    "C070-size",
    ROBUSTNESS,
    "virtio 1.4, 2.7",
    "A split ring has a size that is a power of two, 32768 at most.",
)
def size(context: CheckContext) -> None:
    """Ring sizes of 0, other than powers of two, and above 32768 are refused."""
    refusals(
        context.session,
        [
            (REQUEST.SET_VRING_NUM, VringState(0, number), f"size {number}")
            for number in (0, 3, 65536, 1 << 31)
        ],
    )


@check(
    "C071-alignment",
    ROBUSTNESS,
    "virtio 1.4, 2.7",
    "Descriptor table, available and used ring are aligned to 16, 2 and 4 bytes.",
)
def alignment(context: CheckContext) -> None:
    """Misaligned ring addresses are refused."""
    session = _with_memory(context)
    start = ADDRESS
    refusals(
        session,
        [
            (
                REQUEST.SET_VRING_ADDR,
                VringAddress(0, 0, start + 8, start + 0x2000, start + 0x1000),
                "descriptors at 8",
            ),
            (
                REQUEST.SET_VRING_ADDR,
                VringAddress(0, 0, start, start + 0x2002, start + 0x1000),
                "used ring at 2",
            ),
            (
                REQUEST.SET_VRING_ADDR,
                VringAddress(0, 0, start, start + 0x2000, start + 0x1001),
                "available at 1",
            ),
        ],
    )


@check(
    "C071-unmapped",
    ROBUSTNESS,
    "Front-end message types: SET_VRING_ADDR",
    "The parts of a ring lie in guest memory.",
)
def unmapped(context: CheckContext) -> None:
    """A ring outside of memory is refused, at the latest when it is to start."""
    start = ADDRESS
    top = start + (1 << 16)
    for what, address in {
        "outside of memory": VringAddress(0, 0, 0x1000, 0x3000, 0x2000),
        "across the end of memory": VringAddress(0, 0, top - 16, start + 0x2000, start + 0x1000),
        "at the end of 2^64": VringAddress(0, 0, (1 << 64) - 16, start + 0x2000, start + 0x1000),
    }.items():
        frontend = _with_memory(context)()
        verdict = attempt(frontend, REQUEST.SET_VRING_ADDR, address)
        if verdict is Verdict.ACCEPTED:
            refused(frontend, REQUEST.SET_VRING_KICK, U64(0), f"a ring {what}", (context.fds.eventfd(),))
        frontend.close()
    context.alive("rings outside of memory")


@check(
    "C071-flags",
    ROBUSTNESS,
    "Message payloads: a vring address description",
    "The only flag is bit 0: log writes to the used ring.",
)
def flags(context: CheckContext) -> None:
    """Unknown flags of SET_VRING_ADDR are refused."""
    start = ADDRESS
    refusals(
        _with_memory(context),
        [
            (
                REQUEST.SET_VRING_ADDR,
                VringAddress(0, 0x80, start, start + 0x2000, start + 0x1000),
                "flag bit 7",
            )
        ],
    )


@check("C072-running", ROBUSTNESS, STATES, "Size and base are set while the ring is stopped.")
def running(context: CheckContext) -> None:
    """SET_VRING_NUM and SET_VRING_BASE of a running ring are refused."""
    which = min(context.profile.queue, context.facts.num_queues - 1)
    refusals(
        lambda: context.driver().frontend,
        [
            (REQUEST.SET_VRING_NUM, VringState(which, 8), "a ring that runs"),
            (REQUEST.SET_VRING_BASE, VringState(which, 3), "a ring that runs"),
        ],
    )


@check("C073-unconfigured", ROBUSTNESS, STATES, "A ring is set up before it is started.")
def unconfigured(context: CheckContext) -> None:
    """Starting a ring without size, addresses or memory does no harm."""
    for prepare in (
        context.session,
        _with_memory(context),
    ):
        frontend = prepare()
        fd = context.fds.eventfd()
        attempt(frontend, REQUEST.SET_VRING_KICK, U64(0), (fd,))
        try:
            frontend.set_vring_enable(0, enabled=True)
            os.eventfd_write(fd, 1)
            frontend.barrier()
        except VhostUserError:
            pass
        frontend.close()
    context.alive("rings that were started too early")


def _with_memory(context: CheckContext) -> Callable[[], Frontend]:
    """How to make a session that has 64 KiB of memory at ADDRESS and a ring size."""

    def make() -> Frontend:
        frontend = context.session(without=int(ProtocolFeature.GPA_ADDRESSES))
        region = DriverRegion(1 << 16, guest_address=0x10000000, user_address=ADDRESS)
        with region:
            frontend.set_mem_table([region])
        frontend.set_vring_num(0, 16)
        return frontend

    return make
