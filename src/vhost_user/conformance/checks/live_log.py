"""The dirty log of a guest that goes on: switched, replaced, left alone after a stop (C081, C085, C086)."""

from __future__ import annotations

import time

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation
from vhost_user.conformance.logged_driver import (
    LOG_SIZE,
    LogFile,
    logged_driver,
    one_request,
    set_log,
    switch_off,
    switch_on,
    unlogged_driver,
)

MUST = Level.MUST
MIGRATION = "Migration"
TURNS = 6
"""A migration that is cancelled is tried again, and the guest may come back later."""
UNDER_WAY = 8


@check(
    "C086-while-running",
    MUST,
    MIGRATION,
    "Logging is switched on and off while requests are under way; it is in force when the answer arrives.",
)
def while_running(context: CheckContext) -> None:
    """With requests under way, logging goes on and off several times, each with a log of its own."""
    context.need_answer()
    driver, _ = unlogged_driver(context)
    queue = context.queue(driver)
    for turn in range(TURNS):
        log = LogFile()
        under_way = [context.submit(queue) for _ in range(UNDER_WAY)]
        set_log(driver, log.region.fd, LOG_SIZE)
        switch_on(context, driver)
        for pending in under_way:
            context.finish(pending)
        log.clear()
        answer = one_request(context, driver)
        if not log.dirty(answer):
            raise Deviation(f"logging was switched on {turn + 1} times; the last time nothing is marked")
        under_way = [context.submit(queue) for _ in range(UNDER_WAY)]
        switch_off(context, driver)
        for pending in under_way:
            context.finish(pending)
        log.clear()
        one_request(context, driver)
        if log.any:
            raise Deviation(f"logging was switched off {turn + 1} times; the last time it went on")


@check(
    "C081-replaced",
    MUST,
    "Front-end message types: SET_LOG_BASE",
    "A log that comes while another is in use takes its place.",
)
def replaced(context: CheckContext) -> None:
    """After a second SET_LOG_BASE the marks are in the second log, and in no other."""
    context.need_answer()
    driver, first = logged_driver(context)
    one_request(context, driver)
    second = LogFile()
    set_log(driver, second.region.fd, LOG_SIZE)
    first.clear()
    answer = one_request(context, driver)
    if not second.dirty(answer):
        raise Deviation("the log was replaced; the new one has no mark of a page that was written since")
    if first.any:
        raise Deviation("the log was replaced; the old one is still written")


@check(
    "C085-nothing-after-stop",
    MUST,
    "Suspended device state",
    "While all rings are stopped the back-end writes neither guest memory nor the log.",
)
def nothing_after_stop(context: CheckContext) -> None:
    """After GET_VRING_BASE memory and log stay as they are, whatever was under way before."""
    driver, region = unlogged_driver(context)
    log = LogFile()
    set_log(driver, log.region.fd, LOG_SIZE)
    switch_on(context, driver)
    queue = context.queue(driver)
    for _ in range(UNDER_WAY):
        context.submit(queue)
    for index in range(len(driver.queues)):
        driver.stop_queue(index)
    log.clear()
    before = bytes(memoryview(region))
    end = time.monotonic() + context.quiet
    while time.monotonic() < end:
        time.sleep(0.005)
    if bytes(memoryview(region)) != before:
        raise Deviation("guest memory is written although all rings are stopped")
    if log.any:
        raise Deviation("the log is written although all rings are stopped")
