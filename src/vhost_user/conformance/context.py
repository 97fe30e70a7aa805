"""What a check works with: connections, memory, rings, and requests that must be carried out."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from vhost_user.conformance.check_fds import CheckFds
from vhost_user.conformance.facts import Facts
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.profile import GENERIC, Profile
from vhost_user.conformance.target import Target
from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.frontend.driver import DEFAULT_PROTOCOL_FEATURES, VirtioDriver
from vhost_user.frontend.frontend import Frontend
from vhost_user.frontend.queue import Pending, Queue
from vhost_user.protocol.errors import PeerTimeout, VhostUserError
from vhost_user.protocol.negotiation import bit_names
from vhost_user.protocol.requester import Quirk
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

MEMORY = 4 << 20
"""Bytes of guest memory that a driver of the suite has."""


class CheckContext:
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
        self.fds = CheckFds(timeout)
        """Descriptors of this check."""

    def close(self) -> None:
        """Close connections, drivers, descriptors."""
        self._stack.close()
        self.fds.close()

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

    def serving(self, **options: Any) -> tuple[VirtioDriver, Queue]:
        """A driver and the queue of its requests; skips unless those are surely answered."""
        self.need_io()
        driver = self.driver(**options)
        return driver, self.queue(driver)

    # requests that must be carried out

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
