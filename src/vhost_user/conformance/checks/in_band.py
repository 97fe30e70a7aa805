"""Messages in place of doorbells (C133), and what the back-end says unasked (C053, C076, H56)."""

from __future__ import annotations

import threading
import time
import uuid

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.refusals import receive_message, refusals
from vhost_user.frontend.back_channel import BackChannelHandler
from vhost_user.frontend.driver import DEFAULT_PROTOCOL_FEATURES, VirtioDriver
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.errors import PeerTimeout, RequestRefused
from vhost_user.spec.features import DeviceStatus, ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import SharedUuid, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
SECTION = "In-band notifications"


class Heard(BackChannelHandler):
    """What came over the back channel, by the queue that it was about."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.came = threading.Event()
        self.on_call = self._called

    def _called(self, queue: int) -> None:
        self.calls.append(queue)
        self.came.set()


@check(
    "C133-kick", MUST, SECTION,
    "VRING_KICK starts a ring and has it looked at; no descriptor is needed for either.",
)  # fmt: skip
def kick(context: CheckContext) -> None:
    """A ring that was given no descriptors runs by messages."""
    driver, _ = _without_doorbells(context)
    for number in range(1, 5):
        time.sleep(context.quiet / 2)  # a back-end that has just been at work may look at the ring once more
        _request(context, driver)
        _kick(driver)
        _wait_for_used(context, driver, number)


@check(
    "C133-call", MUST, SECTION,
    "Where no call descriptor was given, VRING_CALL on the back channel tells of used buffers.",
)  # fmt: skip
def call(context: CheckContext) -> None:
    """Used buffers of a ring without call descriptor are told by message."""
    driver, heard = _without_doorbells(context)
    for number in range(1, 4):
        heard.came.clear()
        _request(context, driver)
        _kick(driver)
        _wait_for_used(context, driver, number)
        if not heard.came.wait(context.timeout):
            raise Deviation(f"no VRING_CALL comes within {context.timeout} s after a buffer was used")
    wanted = context.queue(driver).index
    if set(heard.calls) != {wanted}:
        raise Deviation(f"VRING_CALL names queues {sorted(set(heard.calls))}, and queue {wanted} was used")


@check(
    "C133-stopped", MUST, SECTION,
    "After the reply to GET_VRING_BASE no notification is sent for the ring (C053).",
)  # fmt: skip
def not_after_stop(context: CheckContext) -> None:
    """Nothing comes over the back channel for a ring that has stopped."""
    driver, heard = _without_doorbells(context)
    _request(context, driver)
    _kick(driver)
    _wait_for_used(context, driver, 1)
    if not heard.came.wait(context.timeout):
        raise Deviation("no VRING_CALL comes")
    driver.stop_queue(context.queue(driver).index)
    _listen(context, driver, 0)
    before = len(heard.calls)
    _listen(context, driver, context.quiet)
    if len(heard.calls) != before:
        raise Deviation("VRING_CALL comes after the reply to GET_VRING_BASE")


@check(
    "C133-numbers", ROBUSTNESS, SECTION,
    "The number in VRING_KICK is 0, and its index is that of a queue.",
)  # fmt: skip
def numbers(context: CheckContext) -> None:
    """VRING_KICK with another number than 0, or for a queue that is not there, is refused."""
    context.need(ProtocolFeature.INBAND_NOTIFICATIONS)
    context.need(ProtocolFeature.REPLY_ACK)
    refusals(
        lambda: context.session(protocol=_wanted()),
        [
            (REQUEST.VRING_KICK, VringState(0, 1), "the number 1"),
            (REQUEST.VRING_KICK, VringState(0xFFFF, 0), "index 65535"),
            (REQUEST.VRING_KICK, VringState(0, 0), "a ring that was never set up"),
        ],
    )


@check(
    "C076-quiet", MUST, "Suspended device state",
    "While all rings are stopped the back-end sends nothing to the front-end.",
)  # fmt: skip
def quiet(context: CheckContext) -> None:
    """Nothing comes over the back channel before a ring runs, nor after the last has stopped."""
    context.need(ProtocolFeature.BACKEND_REQ)
    driver = context.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    _silent(context, driver, "before a ring was started")
    for index in range(len(driver.queues)):
        driver.start_queue(index)
        driver.enable_queue(index)
    for index in range(len(driver.queues)):
        driver.stop_queue(index)
    # What was said while they ran has come by now.
    _listen(context, driver, 0)
    channel = driver.back_channel
    assert channel is not None  # BACKEND_REQ is there
    channel.counts.clear()
    channel.refused.clear()
    _silent(context, driver, "after all rings were stopped")


@check(
    "H56-shared-object", SHOULD, "Front-end message types: GET_SHARED_OBJECT",
    "For an object that is not there the reply has no descriptor. QEMU up to 11.1 leaves the UUID out.",
)  # fmt: skip
def shared_object(context: CheckContext) -> None:
    """GET_SHARED_OBJECT of an unknown object, or of none, is answered without a descriptor."""
    context.need(ProtocolFeature.SHARED_OBJECT)
    frontend = context.session(protocol=DEFAULT_PROTOCOL_FEATURES | ProtocolFeature.SHARED_OBJECT)
    for payload, what in (
        (SharedUuid.of(uuid.uuid4()).pack(), "an unknown object"),
        (b"", "no object at all"),
    ):
        _no_object(frontend, payload, what)


def _no_object(frontend: Frontend, payload: bytes, what: str) -> None:
    frontend.raw(REQUEST.GET_SHARED_OBJECT, payload)
    try:
        reply = receive_message(frontend)
    except PeerTimeout:
        raise Deviation(f"GET_SHARED_OBJECT of {what} is not answered") from None
    if reply is None:
        raise Deviation(f"GET_SHARED_OBJECT of {what} ends the connection")
    if reply[0].request != REQUEST.GET_SHARED_OBJECT:
        raise Deviation(f"GET_SHARED_OBJECT of {what} is answered as request {reply[0].request}")


def _wanted() -> int:
    return int(DEFAULT_PROTOCOL_FEATURES | ProtocolFeature.INBAND_NOTIFICATIONS)


def _without_doorbells(context: CheckContext) -> tuple[VirtioDriver, Heard]:
    """A driver whose rings are set up and enabled, and were given no descriptors."""
    for feature in (
        ProtocolFeature.INBAND_NOTIFICATIONS,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.REPLY_ACK,
    ):
        context.need(feature)
    context.need_io()
    heard = Heard()
    driver = context.driver(up=False, protocol_features=_wanted(), handler=heard)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    for index, queue in enumerate(driver.queues):
        driver.frontend.set_vring_num(index, queue.ring.size)
        driver.frontend.set_vring_base(index, queue.ring.base)
        driver.send_addresses(index)
        driver.enable_queue(index)
    driver.set_status(DeviceStatus.DRIVER_OK)
    return driver, heard


def _request(context: CheckContext, driver: VirtioDriver) -> None:
    """Make one of the device's harmless requests available, and tell nobody."""
    profile, ring = context.profile, context.queue(driver).ring
    readable, size = profile.readable(), profile.writable()
    address = driver.memory.allocate(len(readable) + size + 1)
    driver.memory.write(address, readable)
    ring.add(
        [(address, len(readable))] if readable else [],
        [(address + len(readable), size)] if size else [],
    )
    ring.publish()


def _kick(driver: VirtioDriver) -> None:
    for queue in driver.queues:
        try:
            driver.frontend.vring_kick(queue.index, need_reply=True)
        except RequestRefused as error:
            raise Deviation(f"VRING_KICK is refused: {error.reason}") from error


def _wait_for_used(context: CheckContext, driver: VirtioDriver, count: int) -> None:
    ring = context.queue(driver).ring
    end = time.monotonic() + context.timeout
    while ring.poll() is None:
        if time.monotonic() > end:
            raise Deviation(f"request {count} is not completed within {context.timeout} s after VRING_KICK")
        time.sleep(0.001)
    ring.enable_notifications()


def _listen(context: CheckContext, driver: VirtioDriver, seconds: float) -> None:
    """Wait so long, and for what the back-end has sent until then."""
    if seconds:
        driver.frontend.barrier()  # a question, which it may answer with more than the answer
    time.sleep(seconds)
    channel = driver.back_channel
    if channel is not None:
        channel.settled(context.timeout)
        time.sleep(0.005)  # what was read last is being noted


def _silent(context: CheckContext, driver: VirtioDriver, when: str) -> None:
    _listen(context, driver, context.quiet)
    channel = driver.back_channel
    assert channel is not None  # BACKEND_REQ is there
    if said := [*channel.counts, *channel.refused]:
        raise Deviation(f"{said[0]} comes {when}")
