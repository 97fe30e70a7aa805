"""File descriptors that come with messages: too many, too few, the wrong ones (C009 to C014, H83 to H89)."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.refusals import Verdict, attempt, consumed, refusals, refused, unread, verdict_of
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import NO_FD_BIT, U64, HeaderFlag, Memory, MemoryRegion, VringState

MUST, SHOULD, ROBUSTNESS = Level
REQUEST = FrontendRequest
CLOSE_ON_EXEC = 0o2000000


@check(
    "C009-late-descriptor", ROBUSTNESS, "Ancillary data",
    "The file descriptors of a message are sent with the first byte of its header.",
)  # fmt: skip
def late_descriptor(context: CheckContext) -> None:
    """A descriptor that comes with the payload is not taken for the message's own."""
    context.need(ProtocolFeature.REPLY_ACK)
    frontend = context.session()
    message = encode(REQUEST.SET_VRING_CALL, 1 | HeaderFlag.NEED_REPLY, U64(0).pack())
    frontend.send_bytes(message[:12])
    consumed(frontend)
    if unread(frontend):
        raise Skip("the back-end reads header and payload in one go, so that the pieces cannot be told apart")
    verdict = verdict_of(frontend, message[12:], (context.fds.eventfd(),), request=REQUEST.SET_VRING_CALL)
    if verdict in (Verdict.ACCEPTED, Verdict.SILENT):
        raise Deviation(f"SET_VRING_CALL with its descriptor at the payload: {verdict.value}")


@check(
    "C010-nine-descriptors", ROBUSTNESS, "Ancillary data",
    "A message carries at most eight file descriptors.",
)  # fmt: skip
def nine_descriptors(context: CheckContext) -> None:
    """A message with nine or more descriptors is refused, and they are closed."""
    for count in (9, 64, 250):
        frontend = context.session()
        read, write = context.fds.tell_tale()
        verdict = attempt(frontend, REQUEST.SET_VRING_NUM, VringState(0, 16), [write] * count)
        frontend.close()
        if verdict in (Verdict.ACCEPTED, Verdict.SILENT):
            raise Deviation(f"SET_VRING_NUM with {count} descriptors: {verdict.value}")
        if not context.fds.released(read, write):
            raise Deviation(f"of {count} descriptors some stay open after the connection has ended")


@check(
    "C012-close-on-exec", ROBUSTNESS, "Ancillary data",
    "Received descriptors must not leak into programs that the back-end starts.",
)  # fmt: skip
def close_on_exec(context: CheckContext) -> None:
    """Received descriptors are marked close-on-exec."""
    pid = context.target.pid
    if pid is None:
        raise Skip("the back-end's process is not known (--pid)")
    before = set(_descriptors(pid))
    frontend = context.session()
    frontend.set_vring_call(0, context.fds.eventfd())
    frontend.barrier()
    new = {fd: flags for fd, flags in _descriptors(pid).items() if fd not in before}
    if not new:
        raise Skip("no new descriptor is seen in the process")
    if leaky := [fd for fd, flags in new.items() if not flags & CLOSE_ON_EXEC]:
        raise Deviation(
            f"{len(leaky)} of {len(new)} descriptors of the session are inherited by child processes"
        )


@check(
    "C013-unwanted-descriptor", ROBUSTNESS, "Ancillary data",
    "Only the messages that the specification lists carry file descriptors.",
)  # fmt: skip
def unwanted_descriptor(context: CheckContext) -> None:
    """A descriptor with a message that takes none is not just ignored."""
    fd = context.fds.eventfd()
    cases = [
        (REQUEST.SET_VRING_NUM, VringState(0, 16), "a descriptor"),
        (REQUEST.SET_VRING_BASE, VringState(0, 0), "a descriptor"),
        (REQUEST.SET_VRING_ENABLE, VringState(0, 0), "a descriptor"),
    ]
    refusals(context.session, cases, fd)


@check(
    "C013-closed", ROBUSTNESS, "Ancillary data",
    "A descriptor that is received belongs to the receiver, who must close it.",
)  # fmt: skip
def closed(context: CheckContext) -> None:
    """Descriptors that nobody wanted are closed at the end of the session at the latest."""
    for request, payload in (
        (REQUEST.SET_VRING_NUM, VringState(0, 16).pack()),
        (REQUEST.GET_FEATURES, b""),
        (REQUEST.SET_VRING_CALL, U64(NO_FD_BIT).pack()),
    ):
        frontend = context.session()
        read, write = context.fds.tell_tale()
        frontend.raw(request, payload, [write, write])
        frontend.close()
        if not context.fds.released(read, write):
            raise Deviation(
                f"two descriptors sent with {request.name} stay open after the connection has ended"
            )


@check(
    "C014-missing-descriptor", ROBUSTNESS, "Ring start and stop messages",
    "SET_VRING_KICK, CALL and ERR carry a descriptor unless bit 8 of their payload is set.",
)  # fmt: skip
def missing_descriptor(context: CheckContext) -> None:
    """A descriptor that is announced but missing is an error."""
    refusals(
        context.session,
        [(request, U64(0), "bit 8 clear and no descriptor")
         for request in (REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_KICK, REQUEST.SET_VRING_ERR)],
    )  # fmt: skip


@check(
    "C014-surplus-descriptor", ROBUSTNESS, "Ring start and stop messages",
    "With bit 8 set there is no descriptor.",
)  # fmt: skip
def surplus_descriptor(context: CheckContext) -> None:
    """A descriptor in spite of bit 8, or two of them, is an error."""
    fd = context.fds.eventfd()
    refusals(context.session, [(REQUEST.SET_VRING_CALL, U64(NO_FD_BIT), "bit 8 set and a descriptor")], fd)
    frontend = context.session()
    refused(frontend, REQUEST.SET_VRING_CALL, U64(0), "two descriptors", (fd, fd))


@check(
    "H84-odd-memory", ROBUSTNESS, "Memory regions description",
    "The descriptor of a memory region can be mapped.",
)  # fmt: skip
def odd_memory(context: CheckContext) -> None:
    """Memory that cannot be mapped (a directory, a socket, an eventfd, a pipe) is refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        odd = {
            "a directory": context.fds.own(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)),
            "a socket": theirs.fileno(),
            "an eventfd": context.fds.eventfd(),
            "a pipe": context.fds.tell_tale()[1],
            "/dev/null": context.fds.own(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)),
            "an empty file": context.fds.memfd(0),
        }
        wrong = []
        for what, fd in odd.items():
            frontend = context.session()
            table = Memory((MemoryRegion(0x100000, 0x10000, 0x7F0000100000, 0),))
            try:
                refused(frontend, REQUEST.SET_MEM_TABLE, table, f"{what} as memory", (fd,))
            except Deviation as deviation:
                wrong.append(deviation)
            frontend.close()
    context.alive("memory that cannot be mapped")
    if wrong:
        raise Deviation("; ".join(map(str, wrong)), quirk=wrong[0].quirk)


@check(
    "H84-odd-kick", ROBUSTNESS, "Ring start and stop messages",
    "Kick and call descriptors are eventfds or pipes.", destructive=True
)  # fmt: skip
def odd_kick(context: CheckContext) -> None:
    """Files, directories, sockets and descriptors with O_PATH as kick and call descriptors do no harm."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for fd in (
            context.fds.own(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)),
            context.fds.memfd(4096),
            theirs.fileno(),
            context.fds.own(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)),
            context.fds.own(os.open(context.target.path, os.O_PATH | os.O_CLOEXEC)),
        ):
            driver = context.driver()
            for request in (REQUEST.SET_VRING_KICK, REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_ERR):
                if not driver.frontend.closed:
                    attempt(driver.frontend, request, U64(context.profile.queue), (fd,))
            context.drop(driver)
    context.alive("odd descriptors for kick and call")


@check(
    "H89-own-socket", ROBUSTNESS, "Backend communication",
    "The back channel is a socket of its own.", destructive=True
)  # fmt: skip
def own_socket(context: CheckContext) -> None:
    """The main socket handed over as back channel or as kick, call and error descriptor does no harm."""
    for request in (REQUEST.SET_VRING_ERR, REQUEST.SET_VRING_CALL, REQUEST.SET_VRING_KICK):
        driver = context.driver()
        attempt(driver.frontend, request, U64(0), (driver.frontend.fileno(),))
        context.drop(driver)
    if context.facts.protocol_features & ProtocolFeature.BACKEND_REQ:
        frontend = context.session()
        attempt(frontend, REQUEST.SET_BACKEND_REQ_FD, b"", (frontend.fileno(),))
        frontend.close()
    context.alive("its own socket in place of other descriptors")


def _descriptors(pid: int) -> dict[int, int]:
    """Open flags of every descriptor of a process."""
    found = {}
    try:
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            try:
                lines = entry.read_text().splitlines()
            except OSError:
                continue
            found[int(entry.name)] = next(int(line[6:], 8) for line in lines if line.startswith("flags:"))
    except OSError as error:
        raise Skip(f"the descriptors of process {pid} cannot be seen: {error.strerror}") from error
    return found
