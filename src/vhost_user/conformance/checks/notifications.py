"""Kicks, calls and error signals (C065 to C068, V016 to V019, H87, H88)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.raw_requests import await_used
from vhost_user.conformance.refusals import Verdict, attempt
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64

MUST, SHOULD, ROBUSTNESS = Level
REQUEST, REFUSED = FrontendRequest, Verdict.REFUSED
CALL = "Front-end message types: SET_VRING_CALL"
KICK = "Front-end message types: SET_VRING_KICK"
FULL = 0xFFFFFFFFFFFFFFFE


@check("C065-replace-call", MUST, CALL, "The call descriptor may be replaced while the ring runs.")
def replace_call(context: CheckContext) -> None:
    """A new call descriptor is signalled, the old one no longer."""
    driver, queue = context.serving()
    context.exchange(queue)
    new = context.fds.eventfd()
    driver.frontend.set_vring_call(queue.index, new)
    driver.frontend.barrier()
    queue.ring.call_count()
    _empty(new)  # some signal once on replacement, so that nothing gets lost
    pending = context.submit(queue)
    _signalled(context, new, "the new call descriptor is not signalled")
    await_used(context, queue, pending)
    if queue.ring.call_count():
        raise Deviation("the old call descriptor is signalled after it was replaced")


@check("C066-replace-kick", MUST, KICK, "The kick descriptor may be replaced while the ring runs.")
def replace_kick(context: CheckContext) -> None:
    """A new kick descriptor is listened to."""
    driver, queue = context.serving()
    context.exchange(queue)
    new = context.fds.eventfd()
    driver.frontend.set_vring_kick(queue.index, new)
    driver.frontend.barrier()
    for _ in range(2):
        time.sleep(context.quiet)  # until the device sleeps: awake it might look without being kicked
        pending = context.submit(queue, publish=False)
        queue.ring.publish()
        os.eventfd_write(new, 1)
        context.finish(pending)


@check("C067-pipes", SHOULD, KICK, "Kick and call descriptors are eventfds or pipes.")
def pipes(context: CheckContext) -> None:
    """Pipes serve as kick and call descriptors."""
    driver, queue = context.serving()
    kick_read, kick_write = context.fds.tell_tale()
    call_read, call_write = context.fds.tell_tale()
    driver.frontend.set_vring_kick(queue.index, kick_read)
    driver.frontend.set_vring_call(queue.index, call_write)
    driver.frontend.barrier()
    _empty(call_read)
    pending = context.submit(queue, publish=False)
    queue.ring.publish()
    os.write(kick_write, (1).to_bytes(8, "little"))
    _signalled(context, call_read, "a pipe as call descriptor is not written")
    await_used(context, queue, pending)


@check("C068-flags", ROBUSTNESS, KICK, "The descriptor is shared: its flags are the front-end's, too.")
def flags(context: CheckContext) -> None:
    """The flags of kick and call descriptors are left alone."""
    driver, queue = context.serving()
    changed = []
    for blocking in (True, False):
        kick, call = context.fds.eventfd(blocking=blocking), context.fds.eventfd(blocking=blocking)
        before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (kick, call)]
        driver.frontend.set_vring_kick(queue.index, kick)
        driver.frontend.set_vring_call(queue.index, call)
        driver.frontend.barrier()
        _empty(call)
        pending = context.submit(queue, publish=False)
        queue.ring.publish()
        os.eventfd_write(kick, 1)
        _signalled(context, call, "the call descriptor is not signalled")
        await_used(context, queue, pending)
        after = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (kick, call)]
        changed += [
            name for name, one, two in zip(("kick", "call"), before, after, strict=True) if one != two
        ]
    if changed:
        raise Deviation(f"O_NONBLOCK of the {' and the '.join(dict.fromkeys(changed))} descriptor is changed")


@check(
    "H87-full-call", ROBUSTNESS, CALL, "The driver may leave its call descriptor unread.", destructive=True
)
def full_call(context: CheckContext) -> None:
    """A call descriptor that cannot take another signal does not stop the ring."""
    driver, queue = context.serving()
    full = context.fds.eventfd(blocking=True)
    driver.frontend.set_vring_call(queue.index, full)
    driver.frontend.barrier()
    _empty(full)
    os.eventfd_write(full, FULL)
    for _ in range(3):
        pending = context.submit(queue)
        await_used(context, queue, pending)
    context.still_answers(driver.frontend, "signals that do not fit")


@check(
    "H87-other-queues",
    ROBUSTNESS,
    CALL,
    "The driver may leave its call descriptor unread, and the descriptor may block.",
    destructive=True,
)
def other_queues(context: CheckContext) -> None:
    """A queue whose call descriptor blocks (a full eventfd, pipe or socket) stops no other queue."""
    context.need(ProtocolFeature.REPLY_ACK)
    context.need_io()
    if not context.profile.every_queue or context.facts.num_queues < 2:
        raise Skip("there are no two queues that take requests")
    for what, full in {"eventfd": _full_eventfd, "pipe": _full_pipe, "socket": _full_socket}.items():
        for late in (False, True):
            _one_stuck(
                context, f"full {what}{', made to block later,' if late else ''}", full(context), late=late
            )
    context.alive("call descriptors that block")


def _one_stuck(context: CheckContext, what: str, fd: int, *, late: bool) -> None:
    """``fd`` takes no signal; ``late``: it is made to block once handed over: flags are shared."""
    driver = context.driver(num_queues=2)
    stuck, other = driver.queues
    os.set_blocking(fd, not late)
    verdict = attempt(driver.frontend, REQUEST.SET_VRING_CALL, U64(stuck.index), (fd,))
    os.set_blocking(fd, True)
    if verdict is not REFUSED:  # else nothing can get stuck; C067 says whether it is to be taken
        context.submit(stuck)
        try:
            context.exchange(other, 3)
        except Deviation as deviation:
            raise Deviation(f"with a {what} as call descriptor of another queue: {deviation}") from deviation
        context.still_answers(driver.frontend, f"a signal to a {what}")
    context.drop(driver)


def _full_eventfd(context: CheckContext) -> int:
    fd = context.fds.eventfd()
    os.eventfd_write(fd, FULL)
    return fd


def _full_pipe(context: CheckContext) -> int:
    _, write = context.fds.pipe()
    _fill(write)
    return write


def _full_socket(context: CheckContext) -> int:
    _, theirs = context.fds.socket_pair()
    _fill(theirs)
    return theirs


def _fill(fd: int) -> None:
    """Write until nothing more fits."""
    os.set_blocking(fd, False)
    for size in (4096, 8):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, bytes(size))


@check("H88-endless-kick", ROBUSTNESS, KICK, "A kick descriptor may be readable for ever.", destructive=True)
def endless_kick(context: CheckContext) -> None:
    """A kick descriptor at its maximum does not keep the back-end from anything else."""
    driver = context.driver()
    queue = context.queue(driver)
    os.eventfd_write(queue.ring.kick_fd, FULL - 1)
    if context.profile.works:
        context.exchange(queue, 2)
    context.still_answers(driver.frontend, "a kick descriptor at its maximum")


@check("V019-spurious-kicks", MUST, "virtio 1.4, 2.7.10", "Notifications without anything new are harmless.")
def spurious_kicks(context: CheckContext) -> None:
    """Kicks on an empty ring do nothing."""
    driver = context.driver()
    queue = context.queue(driver)
    queue.ring.call_count()
    for _ in range(50):
        queue.ring.kick(force=True)
    context.still_answers(driver.frontend, "kicks on an empty ring")
    if context.profile.works:
        context.exchange(queue, 2)


@check(
    "V016-call",
    MUST,
    "virtio 1.4, 2.7.7.2",
    "Without EVENT_IDX and with flags 0 in the available ring the device signals used buffers.",
)
def call(context: CheckContext) -> None:
    """Used buffers are signalled."""
    _, queue = context.serving()
    for _ in range(3):
        queue.ring.enable_notifications()
        queue.ring.call_count()
        pending = context.submit(queue)
        _signalled(context, queue.ring.call_fd, "a used buffer is not signalled")
        context.finish(pending)


@check(
    "V016-no-call",
    SHOULD,
    "virtio 1.4, 2.7.7.2",
    "Without EVENT_IDX and with flags 1 in the available ring the device should not signal.",
)
def no_call(context: CheckContext) -> None:
    """Used buffers are not signalled when the driver does not want it."""
    driver, queue = context.serving()
    context.exchange(queue)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    ring.set_avail_flags(1)
    ring.call_count()
    for _ in range(3):
        pending = context.submit(queue)
        await_used(context, queue, pending)
    driver.frontend.barrier()
    if ring.call_count():
        raise Deviation("the call is signalled although the driver has switched it off")


@check(
    "V017-event-index",
    MUST,
    "virtio 1.4, 2.7.7.2",
    "With EVENT_IDX the device signals when the used index passes used_event, and flags mean nothing.",
)
def event_index(context: CheckContext) -> None:
    """With EVENT_IDX the signal comes at the used index that the driver named."""
    context.need_feature(VirtioFeature.RING_EVENT_IDX)
    driver, queue = context.serving(event_idx=True)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    context.exchange(queue, 2)
    ring.set_avail_flags(1)  # must be ignored
    ring.set_used_event((ring.used_index + 2) & 0xFFFF)
    ring.call_count()
    for _ in range(2):
        pending = context.submit(queue)
        ring.kick(force=True)
        await_used(context, queue, pending)
    driver.frontend.barrier()
    if ring.call_count():
        raise Deviation("the call is signalled before the used index passes used_event")
    pending = context.submit(queue)
    ring.kick(force=True)
    _signalled(context, ring.call_fd, "the call is not signalled when the used index passes used_event")
    context.finish(pending)


@check(
    "V018-kick-suppression",
    MUST,
    "virtio 1.4, 2.7.10",
    "A device that asks not to be kicked looks at the ring itself, and asks for kicks before it sleeps.",
)
def kick_suppression(context: CheckContext) -> None:
    """No request gets lost when only the kicks are sent that the device asks for."""
    context.need_io()
    options = [False]
    if context.facts.features & VirtioFeature.RING_EVENT_IDX:
        options.append(True)
    for event_idx in options:
        driver = context.driver(event_idx=event_idx)
        queue = context.queue(driver)
        for burst in (1, 2, 5, 1, 8, 3) * 5:
            several = [context.submit(queue) for _ in range(burst)]
            for pending in several:
                context.finish(pending)
        context.drop(driver)


@check(
    "C067-error-signal",
    SHOULD,
    "Front-end message types: SET_VRING_ERR",
    "The error descriptor is signalled when a ring is broken.",
)
def error_signal(context: CheckContext) -> None:
    """A broken ring is signalled to the error descriptor."""
    driver, queue = context.serving()
    context.exchange(queue)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    error = context.fds.eventfd()
    driver.frontend.set_vring_err(queue.index, error)
    driver.frontend.barrier()
    ring.write_avail(ring.avail_index, ring.size + 7)
    ring.set_avail_index((ring.avail_index + 1) & 0xFFFF)
    ring.kick(force=True)
    _signalled(context, error, "a head beyond the ring is not signalled as an error")


def _signalled(context: CheckContext, fd: int, otherwise: str) -> None:
    if not select.select([fd], [], [], context.timeout)[0]:
        raise Deviation(f"{otherwise} within {context.timeout} s")


def _empty(fd: int) -> None:
    if select.select([fd], [], [], 0)[0]:
        os.read(fd, 4096)
