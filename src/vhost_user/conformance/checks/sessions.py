"""The end of a session, and the next one (C134 to C139)."""

from __future__ import annotations

import re
import select
import time
from pathlib import Path

from vhost_user.conformance.bench import Bench
from vhost_user.conformance.check import Deviation, Level, Skip, check
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
def next_session(bench: Bench) -> None:
    """After a front-end has left the next one is served by the same process."""
    pid = bench.target.pid
    for _ in range(5):
        driver = bench.driver()
        if bench.profile.works:
            bench.exchange(bench.queue(driver))
        bench.drop(driver)
    bench.alive("five sessions")
    if bench.target.pid != pid:
        raise Deviation("the process ends when its front-end disconnects", quirk="one-session")


@check("C134-descriptors", MUST, RECONNECT, "At the end of a session its descriptors are closed.")
def descriptors(bench: Bench) -> None:
    """Kick, call and error descriptors are closed when the session ends."""
    for what in ("set_vring_call", "set_vring_err", "set_vring_kick"):
        driver = bench.driver()
        read, write = bench.tell_tale()
        getattr(driver.frontend, what)(bench.queue(driver).index, write if what != "set_vring_kick" else read)
        driver.frontend.barrier()
        driver.frontend.close()
        ours, theirs = (read, write) if what != "set_vring_kick" else (write, read)
        if not _released(bench, ours, theirs, what):
            raise Deviation(f"the descriptor of {what.upper()} stays open after the session")


@check(
    "C134-quiet",
    MUST,
    RECONNECT,
    "After the end of a session its memory is not touched and nothing is signalled.",
)
def quiet(bench: Bench) -> None:
    """A ring is not served any more after its front-end has left."""
    bench.need_io()
    driver = bench.driver()
    queue = bench.queue(driver)
    bench.exchange(queue)
    driver.frontend.close()
    bench.target.answers(bench.timeout)
    queue.ring.call_count()
    pending = bench.submit(queue)
    queue.ring.kick(force=True)
    bench.stays_out(queue, pending, "after the session has ended")


@check("C134-memory", MUST, RECONNECT, "At the end of a session its memory is unmapped.")
def memory(bench: Bench) -> None:
    """Guest memory is unmapped when the session ends."""
    pid = bench.target.pid
    if pid is None:
        raise Skip("the back-end's process is not known (--pid)")
    bench.target.answers(bench.timeout)
    before = _settled(bench, pid)[1]
    driver = bench.driver()
    if bench.profile.works:
        bench.exchange(bench.queue(driver))
    bench.drop(driver)
    bench.target.answers(bench.timeout)
    if bench.target.pid != pid:
        return
    deadline = time.monotonic() + bench.timeout
    while (left := _mappings(pid)) > before:
        if time.monotonic() > deadline:
            raise Deviation(f"{before} shared mappings before the session, {left} after it")
        time.sleep(0.01)


@check("C135-leaks", ROBUSTNESS, RECONNECT, "Sessions leave nothing behind.")
def leaks(bench: Bench) -> None:
    """Twenty sessions leave no descriptor and no mapping behind."""
    pid = bench.target.pid
    if pid is None:
        raise Skip("the back-end's process is not known (--pid)")

    def one() -> None:
        driver = bench.driver()
        if bench.profile.works:
            bench.exchange(bench.queue(driver))
        bench.drop(driver)

    one()
    if bench.target.pid != pid:
        raise Skip("each session has a process of its own")
    before = _settled(bench, pid)
    for _ in range(CYCLES):
        one()
    after = _settled(bench, pid, at_most=before)
    names = ("file descriptors", "shared mappings")
    grown = [f"{two - one} {name}" for name, one, two in zip(names, before, after, strict=True) if two > one]
    if grown:
        raise Deviation(f"{CYCLES} sessions leave {' and '.join(grown)} behind")


@check("C137-second-front-end", SHOULD, "Communication", "A back-end serves one front-end at a time.")
def second_front_end(bench: Bench) -> None:
    """A second connection does not disturb the first."""
    driver = bench.driver()
    queue = bench.queue(driver)
    if bench.profile.works:
        bench.exchange(queue)
    try:
        second = bench.target.connect(timeout=bench.quiet)
        try:
            second.raw(FrontendRequest.GET_FEATURES)
            second.receive_bytes(12, timeout=bench.quiet)
        except (VhostUserError, OSError):
            pass  # it waits, or it was refused: both are fine
        finally:
            second.close()
    except (VhostUserError, OSError):
        pass
    if bench.profile.works:
        bench.exchange(queue)
    bench.still_answers(driver.frontend, "a second connection")
    bench.drop(driver)
    bench.alive("a second connection")


@check("H90-unread-replies", ROBUSTNESS, "Communication", "A front-end may leave replies unread.")
def unread_replies(bench: Bench) -> None:
    """A front-end that never reads its replies does no harm."""
    frontend = bench.connect(timeout=bench.quiet)
    try:
        for _ in range(200):
            frontend.send_bytes(encode(FrontendRequest.GET_FEATURES, 1) * 100)
    except (PeerTimeout, VhostUserError, OSError):
        pass  # it waits until we read
    frontend.close()
    bench.alive("a front-end that does not read")


def _released(bench: Bench, ours: int, theirs: int, what: str) -> bool:
    if what != "set_vring_kick":
        return bench.released(ours, theirs)
    bench.let_go(theirs)
    return _no_reader(bench, ours)


def _no_reader(bench: Bench, write: int) -> bool:
    """Whether the read end of a pipe is closed everywhere."""
    poll = select.poll()
    poll.register(write, 0)
    return bool(poll.poll(bench.timeout * 1000))


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


def _settled(bench: Bench, pid: int, *, at_most: tuple[int, int] | None = None) -> tuple[int, int]:
    """Descriptors and mappings once the last session is over: when they do not change any more."""
    deadline = time.monotonic() + bench.timeout
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
