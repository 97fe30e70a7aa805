"""What a check works with: connections, memory, rings; and how to tell that something was refused."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vhost_user.conformance.check import Deviation, Skip
from vhost_user.conformance.profile import GENERIC, Profile
from vhost_user.conformance.target import Target
from vhost_user.engine.driver_memory import DriverMemory
from vhost_user.frontend.driver import DEFAULT_PROTOCOL_FEATURES, VirtioDriver
from vhost_user.frontend.frontend import Frontend
from vhost_user.frontend.queue import Pending, Queue
from vhost_user.protocol.errors import Disconnected, PeerTimeout, VhostUserError
from vhost_user.protocol.framing import encode
from vhost_user.protocol.negotiation import bit_names
from vhost_user.protocol.requester import Quirk
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.structs import U64, Header, HeaderFlag, Payload
from vhost_user.spec.table import ReplyKind, RequestRow

MEMORY = 4 << 20
"""Bytes of guest memory that a driver of the suite has."""


class Verdict(Enum):
    """What became of a request that should not succeed."""

    REFUSED = "refused"
    CLOSED = "connection closed"
    ACCEPTED = "accepted"
    SILENT = "not answered"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the back-end says about itself before anything is negotiated."""

    features: int = 0
    protocol_features: int = 0
    num_queues: int = 1
    memory_slots: int = 0


class Bench:
    """Made anew for each check; ``close`` gives back everything that the check opened.

    ``timeout`` bounds each wait for something that must happen, ``quiet`` is how long is waited for something
    that must not. Both in seconds.
    """

    def __init__(
        self,
        target: Target,
        *,
        facts: Facts | None = None,
        profile: Profile = GENERIC,
        timeout: float = 5.0,
        quiet: float = 0.1,
        tolerated: frozenset[str] = frozenset(),
    ) -> None:
        self.target = target
        self.facts = facts or Facts()
        self.profile = profile
        self.timeout = timeout
        self.quiet = quiet
        self.tolerated = tolerated
        self._stack = contextlib.ExitStack()
        self._frontends: list[Frontend] = []
        self._owned: set[int] = set()

    def close(self) -> None:
        """Close connections, drivers, descriptors."""
        self._stack.close()
        while self._owned:
            os.close(self._owned.pop())

    def trace(self, lines: int = 12) -> list[str]:
        """The last messages of the connection that was used last."""
        return self._frontends[-1].trace.lines()[-lines:] if self._frontends else []

    # what there is

    def need(self, feature: ProtocolFeature) -> None:
        """Skip unless this protocol feature is offered."""
        if not self.facts.protocol_features & feature:
            raise Skip(f"{bit_names(feature, ProtocolFeature)} is not offered")

    def need_feature(self, feature: VirtioFeature) -> None:
        """Skip unless this feature is offered."""
        if not self.facts.features & feature:
            raise Skip(f"{bit_names(feature, VirtioFeature)} is not offered")

    def need_io(self) -> None:
        """Skip unless requests can be made that the device surely answers."""
        if not self.profile.works:
            raise Skip("no request is known that this device surely answers; name it with --device")

    def need_answer(self) -> None:
        """Skip unless the device also writes something in such requests."""
        self.need_io()
        if not self.profile.writable():
            raise Skip("in the requests that are known of this device nothing is written")

    # connections

    def connect(self, *, timeout: float | None = None) -> Frontend:
        """A new connection on which nothing was said yet.

        The one before is closed: back-ends serve one front-end at a time.
        """
        for earlier in self._frontends:
            earlier.close()
        frontend = self.target.connect(
            timeout=self.timeout if timeout is None else timeout, quirks=Quirk.TOLERANT
        )
        self._stack.callback(frontend.close)
        self._frontends.append(frontend)
        return frontend

    def session(
        self, *, protocol: int | None = None, features: int | None = None, without: int = 0
    ) -> Frontend:
        """A connection with features negotiated: by default all protocol features that the suite can serve.

        ``protocol`` names others, ``without`` some to leave out; ``features`` are virtio features, by default
        VERSION_1 and bit 30. Only what is offered is acknowledged.
        """
        frontend = self.connect()
        offered = frontend.get_features()
        if offered & VirtioFeature.PROTOCOL_FEATURES:
            wanted = (DEFAULT_PROTOCOL_FEATURES if protocol is None else protocol) & ~int(without)
            frontend.set_protocol_features(frontend.get_protocol_features() & wanted)
        frontend.set_owner()
        wanted = VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES if features is None else features
        frontend.set_features(offered & wanted)
        return frontend

    def driver(self, *, up: bool = True, **options: Any) -> VirtioDriver:
        """A driver with its queues running (``up``), in small memory of its own.

        Ring features are off unless asked for.
        """
        options.setdefault("event_idx", False)
        options.setdefault("indirect", False)
        options.setdefault("num_queues", min(self.profile.queues, self.facts.num_queues))
        options.setdefault("queue_size", self.profile.queue_size)
        if options.get("memory") is None:
            options["memory"] = DriverMemory(options.pop("memory_size", MEMORY))
        self._stack.callback(options["memory"].close)
        frontend = self.connect()
        driver = VirtioDriver(frontend, timeout=self.timeout, **options)
        self._stack.callback(self.drop, driver)
        if up:
            driver.bring_up()
        return driver

    def drop(self, driver: VirtioDriver) -> None:
        """End a driver without stopping its rings first: their contents may make no sense."""
        driver.frontend.close()
        driver.close()
        driver.memory.close()

    def await_reaction(self, driver: VirtioDriver, queue: Queue) -> None:
        """Wait until the device has signalled an error or closed the connection.

        A moment at most: it may also do nothing at all, or answer and trip over what comes next.
        """
        deadline = time.monotonic() + self.quiet
        while time.monotonic() < deadline:
            if driver.queue_broken(queue.index) or driver.frontend.hung_up():
                return
            time.sleep(0.001)

    def queue(self, driver: VirtioDriver) -> Queue:
        """The queue that requests of this device type go to."""
        return driver.queues[min(self.profile.queue, len(driver.queues) - 1)]

    # descriptors

    def own(self, fd: int) -> int:
        """Close ``fd`` with the bench, unless ``let_go`` does before."""
        self._owned.add(fd)
        return fd

    def let_go(self, fd: int) -> None:
        """Close a descriptor now. Once only: the number may be somebody else's afterwards."""
        self._owned.remove(fd)
        os.close(fd)

    def eventfd(self, *, blocking: bool = False) -> int:
        """A new eventfd."""
        return self.own(os.eventfd(0, os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK)))

    def memfd(self, size: int) -> int:
        """A new memfd of ``size`` bytes."""
        fd = self.own(os.memfd_create("vhost-user-check", os.MFD_CLOEXEC))
        os.ftruncate(fd, size)
        return fd

    def tell_tale(self) -> tuple[int, int]:
        """The two ends (read, write) of a pipe; hand the write end over to see whether it gets closed."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return self.own(read), self.own(write)

    def released(self, read: int, write: int) -> bool:
        """Whether everybody else closed the write end of a ``tell_tale``, once ours is closed."""
        self.let_go(write)
        poll = select.poll()
        poll.register(read, select.POLLIN)
        deadline = time.monotonic() + self.timeout
        while (left := deadline - time.monotonic()) > 0:
            if any(events & select.POLLHUP for _, events in poll.poll(left * 1000)):
                return True
            with contextlib.suppress(BlockingIOError):
                os.read(read, 4096)
        return False

    # requests that must not succeed

    def attempt(
        self,
        frontend: Frontend,
        request: int,
        payload: bytes | Payload = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = 1,
    ) -> Verdict:
        """Send a request unchecked, and tell what became of it. Needs REPLY_ACK to see a refusal.

        Without it the verdict is CLOSED, or SILENT.
        """
        data = payload if isinstance(payload, bytes) else payload.pack()
        acks = frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK)
        flags |= HeaderFlag.NEED_REPLY if acks else 0
        return self.send(frontend, encode(request, flags, data), fds, request=request, answered=acks)

    def send(
        self, frontend: Frontend, data: bytes, fds: Sequence[int] = (), *, request: int, answered: bool = True
    ) -> Verdict:
        """Send bytes, and tell what became of the request that they are."""
        row = FRONTEND_REQUESTS.get(request)
        own = row is not None and row.has_own_reply(frontend.protocol_features)
        try:
            frontend.send_bytes(data, fds)
            if not answered and not own:
                return self._after_barrier(frontend)
            reply = self.receive(frontend)
        except Disconnected:
            return Verdict.CLOSED
        except PeerTimeout:
            return Verdict.SILENT
        if reply is None:
            return Verdict.CLOSED
        header, answer = reply
        if header.request != request:
            raise Deviation(f"the reply to request {request} says that it answers request {header.request}")
        return Verdict.REFUSED if _says_no(row, answer, own=own) else Verdict.ACCEPTED

    def _after_barrier(self, frontend: Frontend) -> Verdict:
        frontend.send_bytes(encode(FrontendRequest.GET_FEATURES, 1))
        reply = self.receive(frontend)
        if reply is None:
            return Verdict.CLOSED
        raise Skip("without REPLY_ACK a request that is refused looks like one that is carried out")

    def receive(self, frontend: Frontend, *, timeout: float | None = None) -> tuple[Header, bytes] | None:
        """One message as it comes, None at the end of the stream. Raises PeerTimeout."""
        data = frontend.receive_bytes(Header.SIZE, timeout=timeout)
        if len(data) < Header.SIZE:
            return None
        header = Header.unpack(data)
        payload = frontend.receive_bytes(header.size, timeout=timeout) if header.size else b""
        return None if len(payload) < header.size else (header, payload)

    def refused(
        self,
        frontend: Frontend,
        request: FrontendRequest,
        payload: bytes | Payload,
        what: str,
        fds: Sequence[int] = (),
    ) -> None:
        """Deviation unless the request gets an error or ends the connection. ``what`` describes it."""
        verdict = self.attempt(frontend, request, payload, fds)
        if verdict is Verdict.ACCEPTED:
            raise Deviation(
                f"{request.name} with {what} is carried out, or acked as if", quirk="acks-failures"
            )
        if verdict is Verdict.SILENT:
            raise Deviation(f"{request.name} with {what} is not answered within {self.timeout} s")

    def refusals(
        self,
        make: Callable[[], Frontend],
        cases: Sequence[tuple[FrontendRequest, bytes | Payload, str]],
        fd: int | None = None,
    ) -> None:
        """Several requests that must each be refused; a new session whenever one ended the connection.

        Tells all that were accepted at once.
        """
        frontend = make()
        wrong: list[Deviation] = []
        for request, payload, what in cases:
            if frontend.closed or frontend.hung_up():
                frontend.close()
                frontend = make()
            try:
                self.refused(frontend, request, payload, what, () if fd is None else (fd,))
            except Deviation as deviation:
                wrong.append(deviation)
                if "not answered" in str(deviation):
                    frontend.close()
        if wrong:
            raise Deviation("; ".join(map(str, wrong)), quirk=wrong[0].quirk)

    # requests that must

    def exchange(self, queue: Queue, count: int = 1, **options: Any) -> list[Pending]:
        """Have ``count`` requests carried out, one after the other, and check each answer."""
        done = []
        for _ in range(count):
            pending = self.submit(queue, **options)
            self.finish(pending)
            done.append(pending)
        return done

    def submit(self, queue: Queue, *, readable: Any = None, writable: Any = None, **options: Any) -> Pending:
        """Hand in one request of the device's harmless kind."""
        self.need_io()
        return queue.submit(
            self.profile.readable() if readable is None else readable,
            self.profile.writable() if writable is None else writable,
            **options,
        )

    def finish(self, pending: Pending, *, timeout: float | None = None) -> None:
        """Wait for a request and check what the device wrote."""
        try:
            pending.wait(self.timeout if timeout is None else timeout)
        except PeerTimeout:
            raise Deviation(f"a request is not completed within {self.timeout} s") from None
        self.profile.verify(pending.data, pending.length)

    def stays_out(self, queue: Queue, pending: Pending, what: str) -> None:
        """Deviation if the device completes ``pending`` although it must not yet."""
        deadline = time.monotonic() + self.quiet
        while time.monotonic() < deadline:
            queue.reap()
            if pending.done:
                raise Deviation(f"a request is completed {what}")
            time.sleep(0.002)

    def still_answers(self, frontend: Frontend, after: str) -> None:
        """Deviation unless the main channel answers."""
        try:
            frontend.get_features()
        except PeerTimeout:
            raise Deviation(f"after {after} GET_FEATURES is not answered within {self.timeout} s") from None
        except (VhostUserError, OSError) as error:
            raise Deviation(f"after {after} the connection is over: {error}") from error

    def alive(self, after: str) -> None:
        """Deviation unless a new session works, with a request where one is known."""
        try:
            driver = self.driver()
            if self.profile.works:
                self.exchange(self.queue(driver))
        except Deviation as deviation:
            raise Deviation(f"after {after} a new session does not work: {deviation}") from deviation
        except VhostUserError as error:
            raise Deviation(f"after {after} a new session does not work: {error}") from error
        driver.close()

    def consumed(self, frontend: Frontend, *, patience: float = 0.02) -> None:
        """Wait until the peer has read what was sent, at most ``patience`` seconds (it may wait for more)."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.unread(frontend):
            time.sleep(0.0002)

    def unread(self, frontend: Frontend) -> int:
        """Bytes that the peer has not read yet."""
        buffer = fcntl.ioctl(frontend.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", buffer)[0])


def _says_no(row: RequestRow | None, answer: bytes, *, own: bool) -> bool:
    """Whether a reply means that the request failed."""
    if row is None or not own or row.reply is ReplyKind.STATUS:
        return len(answer) == U64.SIZE and any(answer)
    if row.error_reply is None:
        return False
    try:
        return not answer or row.error_reply.recognise(row.reply_payload.unpack(answer), 0)
    except ValueError:
        return False
