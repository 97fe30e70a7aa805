"""Starting, stopping, enabling and disabling rings (C049 to C064)."""

from __future__ import annotations

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.frontend.driver import VirtioDriver
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature

MUST, SHOULD, ROBUSTNESS = Level
STATES = "Ring states"
START = "Starting and stopping a ring"
BASE = "Front-end message types: GET_VRING_BASE"


def _start(driver: VirtioDriver, *, enable: bool = True) -> None:
    for index in range(len(driver.queues)):
        driver.start_queue(index)
    if enable:
        for index in range(len(driver.queues)):
            driver.enable_queue(index)
    driver.set_status(DeviceStatus.DRIVER_OK)


@check(
    "C049-disabled",
    SHOULD,
    STATES,
    "With bit 30 negotiated a ring begins disabled: requests in it have no effect until SET_VRING_ENABLE.",
)
def disabled(context: CheckContext) -> None:
    """A ring that was started but not enabled answers no request."""
    context.need_io()
    driver = context.driver(up=False)
    driver.introduce()
    if not driver.frontend.features & VirtioFeature.PROTOCOL_FEATURES:
        raise Skip("bit 30 is not offered")
    _start(driver, enable=False)
    queue = context.queue(driver)
    pending = context.submit(queue)
    context.stays_out(queue, pending, "although its ring is not enabled")
    for index in range(len(driver.queues)):
        driver.enable_queue(index)
    context.finish(pending)


@check(
    "C050-start-without-kick",
    SHOULD,
    START,
    "SET_VRING_KICK starts a ring; back-ends should not rely on a kick that follows.",
)
def start_without_kick(context: CheckContext) -> None:
    """Requests that wait when a ring is started are processed without a kick."""
    context.need_io()
    driver = context.driver(up=False, inject_kick=False)
    driver.introduce()
    queue = context.queue(driver)
    pending = context.submit(queue, publish=False)
    queue.ring.publish()
    _start(driver)
    context.finish(pending)


@check(
    "C051-start-with-kick", MUST, START, "On start a back-end looks for requests that are available already."
)
def start_with_kick(context: CheckContext) -> None:
    """Requests that wait when a ring is started are processed after one kick."""
    context.need_io()
    driver = context.driver(up=False)
    driver.introduce()
    queue = context.queue(driver)
    several = [context.submit(queue, publish=False) for _ in range(3)]
    queue.ring.publish()
    _start(driver)
    queue.ring.kick(force=True)
    for pending in several:
        context.finish(pending)


@check(
    "C052-polled-kick",
    MUST,
    "Front-end message types: SET_VRING_KICK",
    "Bit 8 means that there is no descriptor: the back-end polls the ring.",
)
def polled_kick(context: CheckContext) -> None:
    """A ring without a kick descriptor is polled."""
    context.need_io()
    driver = context.driver(polled_kicks=True)
    context.exchange(context.queue(driver), 3)


@check(
    "C052-polled-call",
    MUST,
    "Front-end message types: SET_VRING_CALL",
    "Bit 8 means that there is no descriptor: the driver polls the used ring.",
)
def polled_call(context: CheckContext) -> None:
    """A ring without a call descriptor works."""
    context.need_io()
    driver = context.driver(polled_calls=True)
    context.exchange(context.queue(driver), 3)


@check("C053-stopped", MUST, START, "GET_VRING_BASE stops the ring: it is not touched after the reply.")
def stopped(context: CheckContext) -> None:
    """A stopped ring answers no request, kick or no kick."""
    driver, queue = context.serving()
    context.exchange(queue)
    driver.stop_queue(queue.index)
    queue.ring.call_count()
    pending = context.submit(queue)
    queue.ring.kick(force=True)
    context.stays_out(queue, pending, "although GET_VRING_BASE has stopped the ring")
    if queue.ring.call_count():
        raise Deviation("the call is signalled after GET_VRING_BASE has stopped the ring")


@check(
    "C054-drained",
    MUST,
    BASE,
    "Unless told otherwise a back-end completes what it has taken before it answers GET_VRING_BASE.",
)
def drained(context: CheckContext) -> None:
    """When GET_VRING_BASE is answered, everything that was taken is completed."""
    driver, queue = context.serving()
    several = [context.submit(queue) for _ in range(16)]
    base = driver.frontend.get_vring_base(queue.index) & 0xFFFF
    queue.reap()
    done = sum(pending.done for pending in several)
    if done != base:
        raise Deviation(f"the base is {base}, but {done} of 16 requests are completed")


@check(
    "C056-base-counts", MUST, BASE, "The base of a split ring is the index of the next request to process."
)
def base_counts(context: CheckContext) -> None:
    """The base counts the requests that were processed, on from where it was set."""
    context.need_io()
    for start, number in ((0, 5), (3, 7), (0xFFFE, 5)):
        driver = context.driver(start=start)
        queue = context.queue(driver)
        context.exchange(queue, number)
        base = driver.stop_queue(queue.index)
        if base != (start + number) & 0xFFFF:
            raise Deviation(f"from {start}, after {number} requests, the base is {base}")
        context.drop(driver)


@check("C060-restart", MUST, STATES, "A stopped ring may be started again and goes on from its base.")
def restart(context: CheckContext) -> None:
    """A ring that was stopped goes on where it stopped."""
    driver, queue = context.serving()
    for _ in range(3):
        context.exchange(queue, 3)
        base = driver.stop_queue(queue.index)
        driver.start_queue(queue.index, base=base)
        driver.enable_queue(queue.index)
    context.exchange(queue, 3)


@check(
    "C060-enabled-is-remembered",
    SHOULD,
    STATES,
    "Enabled and disabled is tracked while a ring is stopped, too.",
)
def enabled_is_remembered(context: CheckContext) -> None:
    """A ring that was enabled is enabled when it starts again."""
    driver, queue = context.serving()
    context.exchange(queue)
    base = driver.stop_queue(queue.index)
    driver.start_queue(queue.index, base=base)
    context.exchange(queue)


@check("C061-disable", SHOULD, STATES, "A disabled ring has no effect on the outside.")
def disable(context: CheckContext) -> None:
    """A ring that is disabled stops answering, and goes on when it is enabled."""
    driver, queue = context.serving()
    if not driver.frontend.features & VirtioFeature.PROTOCOL_FEATURES:
        raise Skip("bit 30 is not offered")
    context.exchange(queue)
    driver.enable_queue(queue.index, enabled=False)
    driver.frontend.barrier()
    pending = context.submit(queue)
    context.stays_out(queue, pending, "although its ring is disabled")
    driver.enable_queue(queue.index)
    context.finish(pending)


@check(
    "C062-without-bit-30", MUST, STATES, "If bit 30 is not acknowledged, rings are enabled from the start."
)
def without_bit_30(context: CheckContext) -> None:
    """Without bit 30 rings need no SET_VRING_ENABLE."""
    context.need_io()
    driver = context.driver(up=False)
    driver.negotiate()
    driver.make_queues()
    driver.announce_queues()
    driver.frontend.set_features(driver.features)
    driver.share_memory()
    _start(driver, enable=False)
    context.exchange(context.queue(driver), 2)


@check(
    "C064-disable-then-stop",
    MUST,
    START,
    "QEMU disables a ring before it stops it: what was taken is completed all the same.",
)
def disable_then_stop(context: CheckContext) -> None:
    """A ring that is disabled and then stopped has completed what it took."""
    driver, queue = context.serving()
    several = [context.submit(queue) for _ in range(16)]
    driver.enable_queue(queue.index, enabled=False)
    base = driver.frontend.get_vring_base(queue.index) & 0xFFFF
    queue.reap()
    done = sum(pending.done for pending in several)
    if done != base:
        raise Deviation(f"the base is {base}, but {done} of 16 requests are completed")


@check(
    "C075-reset",
    MUST,
    "Front-end message types: RESET_DEVICE",
    "RESET_DEVICE disables all rings and resets the device; the session stays.",
)
def reset(context: CheckContext) -> None:
    """After RESET_DEVICE rings are disabled, and can be set up again."""
    context.need(ProtocolFeature.RESET_DEVICE)
    driver, queue = context.serving()
    context.exchange(queue)
    driver.frontend.reset_device()
    driver.frontend.barrier()
    pending = context.submit(queue)
    context.stays_out(queue, pending, "after RESET_DEVICE, which disables all rings")
    base = driver.stop_queue(queue.index)
    driver.start_queue(queue.index, base=base)
    driver.enable_queue(queue.index)
    context.finish(pending)


@check("C069-all-queues", MUST, "Multiple queue support", "GET_QUEUE_NUM rings can be used.")
def all_queues(context: CheckContext) -> None:
    """Every ring that is offered can be set up, started and stopped."""
    count = min(context.facts.num_queues, 64)
    driver = context.driver(num_queues=count, queue_size=16)
    if context.profile.every_queue:
        for queue in driver.queues:
            context.exchange(queue)
    driver.tear_down()


@check(
    "V045-ring-reset", MUST, "virtio 1.4, 2.6.1", "With RING_RESET one queue can be reset while others run."
)
def ring_reset(context: CheckContext) -> None:
    """One ring is stopped and set up anew with another size while the session goes on."""
    context.need_feature(VirtioFeature.RING_RESET)
    context.need_io()
    driver = context.driver(features=int(VirtioFeature.RING_RESET))
    queue = context.queue(driver)
    context.exchange(queue, 3)
    driver.enable_queue(queue.index, enabled=False)
    driver.stop_queue(queue.index)
    queue.ring.reset()
    driver.start_queue(queue.index)
    driver.enable_queue(queue.index)
    context.exchange(queue, 3)
