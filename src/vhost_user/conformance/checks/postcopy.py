"""Post-copy, as the destination: memory whose pages come when they are wanted (C118 to C121)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.findings import Deviation
from vhost_user.frontend.postcopy import PAGE, PostCopy
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import ProtocolFeature

if TYPE_CHECKING:
    from vhost_user.conformance.context import CheckContext
    from vhost_user.frontend.driver import VirtioDriver

MUST, SHOULD, ROBUSTNESS = Level
SECTION = "Migration"


def _announced(context: CheckContext) -> tuple[VirtioDriver, PostCopy]:
    """A driver that has announced post-copy, with its queues laid out and no memory shared."""
    context.need(ProtocolFeature.PAGEFAULT)
    pages = PostCopy()
    driver = context.driver(up=False, postcopy=pages)
    driver.negotiate()
    driver.make_queues()
    driver.acknowledge()
    pages.announce(driver.frontend)
    return driver, pages


def _started(context: CheckContext) -> tuple[VirtioDriver, PostCopy]:
    """A driver in post-copy with its queues running."""
    context.need(ProtocolFeature.PAGEFAULT)
    context.need_io()
    pages = PostCopy()
    return context.driver(postcopy=pages), pages


def _submit(context: CheckContext, driver: VirtioDriver, pages: PostCopy) -> list[tuple[int, int]]:
    """Hand in a request whose buffers lie on pages of their own, which are missing; where it is written."""
    memory, ring = driver.memory, context.queue(driver).ring
    readable = context.profile.readable()
    # Whole pages: nothing else lies there that somebody may want.
    buffers = [
        (memory.allocate(-(-size // PAGE) * PAGE, PAGE), size)
        for size in (len(readable), context.profile.writable())
        if size
    ]
    out = buffers[:1] if readable else []
    if readable:
        memory.write(buffers[0][0], readable)
    ring.add(out, buffers[len(out) :])
    for place, size in buffers:
        pages.withhold(place, size)
    ring.publish()
    ring.kick()
    return buffers[len(out) :]


def _length(context: CheckContext, driver: VirtioDriver) -> int:
    """Wait for the answer: how much was written."""
    ring = context.queue(driver).ring
    deadline = time.monotonic() + context.timeout
    while (done := ring.poll()) is None:
        if time.monotonic() > deadline:
            raise Deviation(f"a request in missing pages is not completed within {context.timeout} s")
        time.sleep(0.001)
    return done[1]


def _verify(context: CheckContext, driver: VirtioDriver, buffers: list[tuple[int, int]]) -> None:
    length = _length(context, driver)
    data = b"".join(driver.memory.read(place, size) for place, size in buffers)
    context.profile.verify(data[:length], length)


@check("C118-userfaultfd", MUST, SECTION, "POSTCOPY_ADVISE is answered with a userfaultfd and no payload.")
def userfaultfd(context: CheckContext) -> None:
    """What comes with the reply is a userfaultfd."""
    context.need(ProtocolFeature.PAGEFAULT)
    frontend = context.session()
    fd = frontend.postcopy_advise()
    try:
        found = str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)
    if "userfaultfd" not in found:
        raise Deviation(f"it is {found}")


@check("C118-order", SHOULD, SECTION, "POSTCOPY_LISTEN without POSTCOPY_ADVISE is refused.")
def order(context: CheckContext) -> None:
    """POSTCOPY_LISTEN that nothing announced is refused, and the connection lives."""
    context.need(ProtocolFeature.PAGEFAULT)
    context.need(ProtocolFeature.REPLY_ACK)
    frontend = context.session()
    try:
        frontend.postcopy_listen(need_reply=True)
    except RequestRefused:
        context.still_answers(frontend, "a refused POSTCOPY_LISTEN")
        return
    raise Deviation("POSTCOPY_LISTEN without POSTCOPY_ADVISE is carried out")


@check(
    "C119-addresses", MUST, SECTION, "In post-copy SET_MEM_TABLE is answered with the back-end's addresses."
)
def addresses(context: CheckContext) -> None:
    """The table comes back with other user addresses, which lie apart and on pages."""
    driver, pages = _announced(context)
    pages.share(driver.memory.regions)
    if 0 in pages.bases or any(base % PAGE for base in pages.bases):
        raise Deviation(f"the addresses are {', '.join(map(hex, pages.bases))}")
    if pages.bases == [region.user_address for region in driver.memory.regions]:
        raise Deviation("the addresses are those of the front-end")


@check("C121-faults", MUST, SECTION, "Missing pages are faulted on, at the addresses that were told.")
def faults(context: CheckContext) -> None:
    """Requests in missing pages are carried out once the pages come, and each fault lies in a region."""
    driver, pages = _started(context)
    for _ in range(3):
        _verify(context, driver, _submit(context, driver, pages))
    if pages.strays:
        raise Deviation(f"a fault at {pages.strays[0]:#x} lies in no region that it told of")
    if not pages.asked:
        raise Deviation("requests in missing pages were carried out, and no page was asked for")


@check("C121-main-channel", MUST, SECTION, "While a page is waited for, messages are answered.")
def main_channel(context: CheckContext) -> None:
    """With a request in pages that do not come GET_FEATURES is answered; when they come, the request is."""
    driver, pages = _started(context)
    pages.silent = True
    asked = len(pages.asked)
    buffers = _submit(context, driver, pages)
    deadline = time.monotonic() + context.timeout
    while len(pages.asked) == asked:
        if time.monotonic() > deadline:
            raise Deviation("no page of a request in missing pages is asked for")
        time.sleep(0.001)
    context.still_answers(driver.frontend, "a fault that was not served")
    pages.silent = False
    _verify(context, driver, buffers)


@check("C120-end", MUST, SECTION, "After POSTCOPY_END, which is answered, the device goes on as ever.")
def end(context: CheckContext) -> None:
    """POSTCOPY_END is carried out, and requests are afterwards, without anybody serving faults."""
    driver, pages = _started(context)
    _verify(context, driver, _submit(context, driver, pages))
    try:
        pages.end()
    except RequestRefused as error:
        raise Deviation(f"POSTCOPY_END is refused: {error}") from error
    context.exchange(context.queue(driver), 3)
