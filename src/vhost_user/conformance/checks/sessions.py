"""The end of a session, and the next one (C134 to C139)."""

from __future__ import annotations

import re
import select
import time
from pathlib import Path

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.spec.requests import FrontendRequest

MUST, SHOULD, ROBUSTNESS = Level
RECONNECT = "Reconnection and disconnection"
CYCLES = 20


@check(
    "C134-next-session",
    SHOULD,
    "Communication",
    "A back-end that listens can serve one front-end after the other.",
)
def next_session(context: CheckContext) -> None:
    """After a front-end has left the next one is served by the same process."""
    pid = context.target.pid
    for _ in range(5):
        driver = context.driver()
        if context.profile.works:
            context.exchange(context.queue(driver))
        context.drop(driver)
    context.alive("five sessions")
    if context.target.pid != pid:
        raise Deviation("the process ends when its front-end disconnects", quirk="one-session")


@check("C134-descriptors", MUST, RECONNECT, "At the end of a session its descriptors are closed.")
def descriptors(context: CheckContext) -> None:
    """Kick, call and error descriptors are closed when the session ends."""
    for what in ("set_vring_call", "set_vring_err", "set_vring_kick"):
        driver = context.driver()
        read, write = context.fds.tell_tale()
        getattr(driver.frontend, what)(
            context.queue(driver).index, write if what != "set_vring_kick" else read
        )
        driver.frontend.barrier()
        driver.frontend.close()
        ours, theirs = (read, write) if what != "set_vring_kick" else (write, read)
        if not _released(context, ours, theirs, what):
            raise Deviation(f"the descriptor of {what.upper()} stays open after the session")


@check(
    "C134-quiet",
    MUST,
    RECONNECT,
    "After the end of a session its memory is not touched and nothing is signalled.",
)
def quiet(context: CheckContext) -> None:
    """A ring is not served any more after its front-end has left."""
    driver, queue = context.serving()
    context.exchange(queue)
    driver.frontend.close()
    context.target.answers(context.timeout)
    queue.ring.call_count()
    pending = context.submit(queue)
    queue.ring.kick(force=True)
    context.stays_out(queue, pending, "after the session has ended")


@check("C134-memory", MUST, RECONNECT, "At the end of a session its memory is unmapped.")
def memory(context: CheckContext) -> None:
    """Guest memory is unmapped when the session ends."""
    pid = context.target.pid
    if pid is None:
        raise Skip("the back-end's process is not known (--pid)")
    context.target.answers(context.timeout)
    before = _settled(context, pid)[1]
    driver = context.driver()
    if context.profile.works:
        context.exchange(context.queue(driver))
    context.drop(driver)
    context.target.answers(context.timeout)
    if context.target.pid != pid:
        return
    deadline = time.monotonic() + context.timeout
    while (left := _mappings(pid)) > before:
        if time.monotonic() > deadline:
            raise Deviation(f"{before} shared mappings before the session, {left} after it")
        time.sleep(0.01)


@check("C135-leaks", ROBUSTNESS, RECONNECT, "Sessions leave nothing behind.")
def leaks(context: CheckContext) -> None:
    """Twenty sessions leave no descriptor and no mapping behind."""
    pid = context.target.pid
    if pid is None:
        raise Skip("the back-end's process is not known (--pid)")

    def one() -> None:
        driver = context.driver()
        if context.profile.works:
            context.exchange(context.queue(driver))
        context.drop(driver)

    one()
    if context.target.pid != pid:
        raise Skip("each session has a process of its own")
    before = _settled(context, pid)
    for _ in range(CYCLES):
        one()
    after = _settled(context, pid, at_most=before)
    names = ("file descriptors", "shared mappings")
    grown = [f"{two - one} {name}" for name, one, two in zip(names, before, after, strict=True) if two > one]
    if grown:
        raise Deviation(f"{CYCLES} sessions leave {' and '.join(grown)} behind")


@check("C137-second-front-end", SHOULD, "Communication", "A back-end serves one front-end at a time.")
def second_front_end(context: CheckContext) -> None:
    """A second connection does not disturb the first."""
    driver = context.driver()
    queue = context.queue(driver)
    if context.profile.works:
        context.exchange(queue)
    try:
        second = context.target.connect(timeout=context.quiet)
        try:
            second.raw(FrontendRequest.GET_FEATURES)
            second.receive_bytes(12, timeout=context.quiet)
        except (VhostUserError, OSError):
            pass  # it waits, or it was refused: both are fine
        finally:
            second.close()
    except (VhostUserError, OSError):
        pass
    if context.profile.works:
        context.exchange(queue)
    context.still_answers(driver.frontend, "a second connection")
    context.drop(driver)
    context.alive("a second connection")


@check(
    "H90-unread-replies",
    ROBUSTNESS,
    "Communication",
    "A front-end may leave replies unread.",
    destructive=True,
)
def unread_replies(context: CheckContext) -> None:
    """A front-end that never reads its replies does no harm."""
    frontend = context.connect(timeout=context.quiet)
    try:
        for _ in range(200):
            frontend.send_bytes(encode(FrontendRequest.GET_FEATURES, 1) * 100)
    except (PeerTimeout, VhostUserError, OSError):
        pass  # it waits until we read
    frontend.close()
    context.alive("a front-end that does not read")


def _released(context: CheckContext, ours: int, theirs: int, what: str) -> bool:
    if what != "set_vring_kick":
        return context.fds.released(ours, theirs)
    context.fds.let_go(theirs)
    return _no_reader(context, ours)


def _no_reader(context: CheckContext, write: int) -> bool:
    """Whether the read end of a pipe is closed everywhere."""
    poll = select.poll()
    poll.register(write, 0)
    return bool(poll.poll(context.timeout * 1000))


def _mappings(pid: int) -> int:
    """Shared writable mappings of a process: guest memory is such."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text()
    except OSError as error:
        raise Skip(f"the mappings of process {pid} cannot be seen: {error.strerror}") from error
    return len(re.findall(r"^\S+ rw.s ", text, re.MULTILINE))


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError as error:
        raise Skip(f"the descriptors of process {pid} cannot be seen: {error.strerror}") from error


def _settled(context: CheckContext, pid: int, *, at_most: tuple[int, int] | None = None) -> tuple[int, int]:
    """Descriptors and mappings once the last session is over: when they do not change any more."""
    deadline = time.monotonic() + context.timeout
    last = (-1, -1)
    while time.monotonic() < deadline:
        now = (_descriptors(pid), _mappings(pid))
        if at_most is None and now == last:
            return now
        if at_most is not None and all(one <= two for one, two in zip(now, at_most, strict=True)):
            return now
        last = now
        time.sleep(0.05)
    return last
