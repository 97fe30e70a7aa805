"""Dirty logging for migration (C077 to C087)."""

from __future__ import annotations

import select

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import MEMORY, CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.logged_driver import LOG_ADDRESS, logged_driver, one_request, set_log, switch_off
from vhost_user.conformance.refusals import attempt, receive_message
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import Log

MUST, SHOULD, ROBUSTNESS = Level
MIGRATION = "Migration"


@check(
    "C078-buffers",
    MUST,
    MIGRATION,
    "While logging is on, every page that the device writes is marked in the log.",
)
def buffers(context: CheckContext) -> None:
    """Pages of buffers that the device writes are marked."""
    context.need_answer()
    driver, log = logged_driver(context)
    answer = one_request(context, driver)
    if not log.dirty(answer):
        raise Deviation(f"the device wrote to {answer:#x}, the log does not say so")
    if log.dirty(answer + (1 << 20)):
        raise Deviation("a page far from any buffer is marked")


@check(
    "C079-used-ring",
    MUST,
    MIGRATION,
    "Writes to the used ring are logged at the address that SET_VRING_ADDR gave for it.",
)
def used_ring(context: CheckContext) -> None:
    """Writes to the used ring are marked at its log address."""
    driver, log = logged_driver(context)
    one_request(context, driver)
    if not log.dirty(LOG_ADDRESS):
        raise Deviation(f"the used ring was written, the log has no mark at {LOG_ADDRESS:#x}")


@check(
    "C079-not-asked", SHOULD, MIGRATION, "Without the log flag of SET_VRING_ADDR the used ring is not logged."
)
def not_asked(context: CheckContext) -> None:
    """Writes to the used ring are not marked when that was not asked for."""
    driver, log = logged_driver(context, used=False)
    one_request(context, driver)
    if log.dirty(LOG_ADDRESS) or log.dirty(0):
        raise Deviation("the used ring is marked")


@check("C086-off", MUST, MIGRATION, "Without LOG_ALL nothing is logged.")
def off(context: CheckContext) -> None:
    """Nothing is marked once LOG_ALL is taken back."""
    driver, log = logged_driver(context)
    switch_off(context, driver)
    log.clear()
    one_request(context, driver)
    if log.any:
        raise Deviation("the log is written although logging is off")


@check(
    "C081-reply",
    SHOULD,
    "Front-end message types: SET_LOG_BASE",
    "With LOG_SHMFD SET_LOG_BASE is always answered.",
)
def reply(context: CheckContext) -> None:
    """SET_LOG_BASE is answered with a u64, also a second time with a larger log."""
    context.need(ProtocolFeature.LOG_SHMFD)
    frontend = context.session()
    for size in (4096, 8192):
        frontend.raw(FrontendRequest.SET_LOG_BASE, Log(size, 0).pack(), [context.fds.memfd(size)])
        try:
            answer = receive_message(frontend)
        except PeerTimeout:
            raise Deviation(f"no answer within {context.timeout} s") from None
        if answer is None:
            raise Deviation("the connection is closed instead of an answer")
        if len(answer[1]) != 8:
            raise Deviation(f"the answer has {len(answer[1])} bytes", quirk="log-base-reply")
        if any(answer[1]):
            raise Deviation(f"the answer is {answer[1].hex()}, not 0", quirk="log-base-reply")


@check("C082-bad-log", ROBUSTNESS, "Front-end message types: SET_LOG_BASE", "The log lies in its file.")
def bad_log(context: CheckContext) -> None:
    """Logs that are empty, wrap around 2^64 or are larger than their file do no harm."""
    context.need(ProtocolFeature.LOG_SHMFD)
    for log in (Log(0, 0), Log(4096, (1 << 64) - 4096), Log(1 << 40, 0), Log(4096, 1 << 40)):
        frontend = context.session()
        attempt(frontend, FrontendRequest.SET_LOG_BASE, log, (context.fds.memfd(4096),))
        frontend.close()
    context.alive("dirty logs that make no sense")


@check(
    "C082-short-log",
    ROBUSTNESS,
    MIGRATION,
    "The log has a bit for each page of guest memory.",
    destructive=True,
)
def short_log(context: CheckContext) -> None:
    """A log too short for guest memory does no harm."""
    context.need(ProtocolFeature.LOG_SHMFD)
    context.need_feature(VirtioFeature.LOG_ALL)
    context.need_io()
    driver = context.driver(memory=DriverMemory([DriverRegion(MEMORY, guest_address=1 << 32)]))
    try:
        set_log(driver, context.fds.memfd(4096), 4096)
        driver.frontend.set_features(driver.frontend.features | VirtioFeature.LOG_ALL)
        context.exchange(context.queue(driver), 2)
    except EngineError:
        raise  # a ring that the device broke is no refusal
    except VhostUserError:
        pass  # refusing it is right, too
    context.drop(driver)
    context.alive("a dirty log that is too short")


@check(
    "C083-eventfd",
    SHOULD,
    "Front-end message types: SET_LOG_FD",
    "The descriptor of SET_LOG_FD is signalled when the log changes.",
)
def eventfd(context: CheckContext) -> None:
    """The log descriptor is signalled after a write."""
    context.need_answer()
    driver, _ = logged_driver(context)
    signal = context.fds.eventfd()
    driver.frontend.set_log_fd(signal)
    driver.frontend.barrier()
    one_request(context, driver)
    if not select.select([signal], [], [], context.timeout)[0]:
        raise Deviation("the log changed, its descriptor is not signalled")


@check("C087-log-offered", SHOULD, MIGRATION, "Front-ends block migration when LOG_SHMFD is not offered.")
def log_offered(context: CheckContext) -> None:
    """LOG_SHMFD and LOG_ALL are offered, so that guests can be migrated."""
    if not context.facts.protocol_features & ProtocolFeature.LOG_SHMFD:
        raise Deviation("LOG_SHMFD is not offered: QEMU blocks migration")
    if not context.facts.features & VirtioFeature.LOG_ALL:
        raise Deviation("LOG_SHMFD is offered without VHOST_F_LOG_ALL")
