"""The memory balloon (virtio 1.4, 5.5): a guest gives memory back to the host, and gets it again.

    balloon = Balloon(stats_interval=1.0)
    balloon.start("/tmp/balloon.sock")
    balloon.target = 256 << 20           # bytes that the guest is to do without
    await balloon.reached()
    print(balloon.stats)                 # what the guest says of its memory, as a table

What the guest gives away is punched out of the memory that it shares with us: the host has the pages again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.backend import U32, Config, Device, Queue
from vhost_user.devices.balloon_hints import Hints
from vhost_user.devices.balloon_pages import Holes, Range, runs
from vhost_user.devices.balloon_stats import MOST, Statistics
from vhost_user.devices.waiting import Waiting
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.balloon import (
    DEFLATE_QUEUE,
    FREE_PAGE_QUEUE,
    INFLATE_QUEUE,
    OPTIONAL_QUEUES,
    PAGE_SIZE,
    REPORTING_QUEUE,
    STATS_QUEUE,
    BalloonConfig,
    BalloonFeature,
    queues_without_gaps,
    unpack_page_numbers,
)

if TYPE_CHECKING:
    from vhost_user.backend.device import ControlCommand
    from vhost_user.engine.device.request import Request
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic

_report = LimitedLog(logging.getLogger(__name__))

MOST_PAGES = 1 << 16
"""Page frame numbers of a request that are looked at: Linux names 256."""
IN_HAND_PATIENCE = 0.05
"""Seconds that a queue which stops waits for statistics that are being read at this moment."""
NAMES = {STATS_QUEUE: "statistics", FREE_PAGE_QUEUE: "hints", REPORTING_QUEUE: "free pages"}


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.balloon.BalloonConfig` has it."""

    num_pages = U32()
    actual = U32(writable=True)
    free_page_hint_cmd_id = U32()
    poison_val = U32(writable=True)


class Balloon(Device, type="balloon"):
    """A balloon in the guest's memory, of ``target`` bytes at first.

    ``stats_interval`` seconds after statistics have come others are asked for; None: when ``measure`` does.
    With ``reporting`` the guest tells of its free pages by itself, and they go back to the host until it uses
    them again. ``deflate_on_oom`` lets it take pages out of the balloon before it kills a program. With
    ``must_tell`` it does not use a page of the balloon before we know. ``hints`` is for ``free_pages``.

    Raises ValueError for a target that is not made of whole pages of 4 KiB, or an interval that is not
    positive.
    """

    config = Space()
    stop_patience = None
    """What is being given back must not be the driver's again before that is done."""
    inflate = Queue(INFLATE_QUEUE)
    deflate = Queue(DEFLATE_QUEUE)

    def __init__(
        self,
        target: int = 0,
        *,
        stats_interval: float | None = None,
        reporting: bool = True,
        hints: bool = True,
        deflate_on_oom: bool = False,
        must_tell: bool = False,
    ) -> None:
        if stats_interval is not None and not stats_interval > 0:
            raise ValueError(f"stats_interval is {stats_interval}: it must be a positive number of seconds")
        self.device_features = BalloonFeature.STATS_VQ | BalloonFeature.PAGE_POISON
        for wanted, feature in (
            (reporting, BalloonFeature.PAGE_REPORTING),
            (hints, BalloonFeature.FREE_PAGE_HINT),
            (deflate_on_oom, BalloonFeature.DEFLATE_ON_OOM),
            (must_tell, BalloonFeature.MUST_TELL_HOST),
        ):
            self.device_features |= feature if wanted else 0
        last = REPORTING_QUEUE if reporting else FREE_PAGE_QUEUE if hints else STATS_QUEUE
        for number in range(STATS_QUEUE, last + 1):
            queue = Queue(number, feature=OPTIONAL_QUEUES[number])
            self.add_queue(queue, NAMES[number], Balloon._optional)
        self.stats = Statistics()
        """What the guest said last of its memory, by name."""
        self._stats_interval = stats_interval
        self._buffer: Request | None = None
        self._asked = False
        self._came = 0
        self._lock = threading.Lock()
        self._holes = Holes()
        self._waiting = Waiting()
        self._hints = Hints(self._waiting, self._command)
        self._met = False
        self._loaded = False
        self.target = target

    # What a program overrides

    def measured(self, stats: Statistics) -> None:
        """New statistics have come; called in the worker, which serves nobody meanwhile."""

    # What a program uses; from any thread

    @property
    def target(self) -> int:
        """Bytes that the guest is to do without, whole pages of 4 KiB; set it, and the guest sees to it.

        A guest with larger pages takes up to one more of them. It stays for the next guest.
        """
        return self.config.num_pages * PAGE_SIZE

    @target.setter
    def target(self, size: int) -> None:
        if size % PAGE_SIZE or not 0 <= size < PAGE_SIZE << 32:
            raise ValueError(
                f"target is {size}: a balloon has whole pages of {PAGE_SIZE} bytes, at least none and less "
                "than 16 TiB of them"
            )
        self.config.num_pages = size // PAGE_SIZE
        self._waiting.tell()

    @property
    def actual(self) -> int:
        """Bytes in the balloon, as the guest says."""
        return self.config.actual * PAGE_SIZE

    @property
    def given_back(self) -> int:
        """Bytes that went back to the host so far, from the balloon or as free pages; some twice."""
        return self._holes.bytes

    async def reached(self) -> None:
        """Wait until ``actual`` is ``target``: a guest without memory to spare never gets there."""
        await self._waiting.until(lambda: self.config.actual == self.config.num_pages)

    async def measure(self) -> Statistics:
        """New statistics, as soon as the guest has made them; without a guest that is when there is one."""
        with self._lock:
            held = self._buffer is not None and self._buffer.alive
            enough = self._came + (1 if held else 2)  # what is on its way was made before
            self._asked |= not held
        if held:
            self._ask()
        await self._waiting.until(lambda: self._came >= enough)
        return self.stats

    async def free_pages(self) -> list[Range]:
        """The free pages of the guest, asked for now: guest addresses and bytes.

        They are told and not given back: the guest may use each again at any moment, and says nothing.
        Whoever copies the guest's memory and sees what is written meanwhile may leave them out. Raises
        ConnectionError without a guest.
        """
        if not self.driver_features & BalloonFeature.FREE_PAGE_HINT:
            raise ConnectionError("there is no guest that gives hints of free pages")
        return await self._hints.ask()

    def report(self) -> dict[str, Any]:
        """All of it as plain data: bytes, and the statistics by name."""
        return {
            "target": self.target,
            "actual": self.actual,
            "given_back": self.given_back,
            "stats": dict(self.stats),
        }

    def control_commands(self) -> Sequence[ControlCommand]:
        """``balloon`` and ``set-target`` of the control socket."""

        def set_target(size: int) -> dict[str, int]:
            self.target = size
            return {"target": self.target}

        return (
            ("balloon", self.report, "target and size of the balloon in bytes, statistics of the guest"),
            ("set-target", set_target, "bytes that the guest is to do without, a multiple of 4096"),
        )

    # The life of the device

    def setup(self) -> None:
        """The clock that asks for statistics."""
        if self._stats_interval is not None:
            self.every(self._stats_interval, self._ask)

    def update_memory(self, memory: GuestMemoryAtomic) -> None:
        """Nothing is given back of memory that is not the guest's any more, once this returns."""
        self._holes.settle(memory)

    def started(self) -> None:
        """A driver begins with an empty balloon, unless it was at work before this program was."""
        if not self._loaded:
            self._met = False
            self.config.actual = 0
            self._meet()
        self._loaded = False
        self._hints.forget()
        self.config_changed()  # one that was at work looks whether it has to do something

    def queue_started(self, queue: int) -> None:
        """The driver is met with its first queues: front-ends start one after the other."""
        del queue
        self._meet()

    def queue_stopping(self, queue: int) -> float | None:
        """Statistics that wait to be asked for go back to the driver as they are (C054)."""
        with self._lock:
            buffer = self._buffer
            waits = buffer is not None and buffer.queue == queue and buffer.alive
        if not waits:
            return None
        return IN_HAND_PATIENCE if self.vring(queue).in_flight > 1 else 0.0

    def reset(self) -> None:
        """The next driver begins with an empty balloon; the target stays."""
        self._holes.settle()
        with self._lock:
            self._buffer = None
        self._met = self._loaded = False
        self.stats = Statistics()
        self._hints.forget()
        with self.config.changing():
            self.config.actual = self.config.poison_val = 0
        self._waiting.tell()

    def save_state(self) -> list[int]:
        """The last round of hints; target and balloon are in the configuration space."""
        return [self._hints.last]

    def load_state(self, state: Any, version: int) -> None:
        """Go on with a driver that was at work elsewhere."""
        del version
        if not isinstance(state, list | tuple) or len(state) != 1 or type(state[0]) is not int:
            raise ValueError(f"the state of a balloon is one number, not {state!r:.40}")
        self._hints.last = state[0]
        self._met = self._loaded = True

    def set_config(self, offset: int, data: bytes) -> None:
        """Of a whole space only what the driver may write counts (C129).

        QEMU's generic device writes all of it, and more, when the driver writes one field: the others are as
        the driver read them last, and may have changed since.
        """
        if offset == 0 and len(data) >= BalloonConfig.SIZE:
            for at, size, _, access, _ in self.config.describe():
                if access == "read-write":
                    super().set_config(at, data[at : at + size])
            return
        super().set_config(offset, data)

    def config_written(self, field: str, old: int | bytes, new: int | bytes) -> None:
        """The driver tells how many pages are in the balloon."""
        del old, new
        if field == "actual":
            self._met = True
            self._waiting.tell()

    def _meet(self) -> None:
        """A driver that was at work before this program tells only what changes.

        If its balloon is not as large as the target it says so soon; so it is, or we hear of it.
        """
        if self._met:
            return
        for vring in (self.vring(INFLATE_QUEUE), self.vring(DEFLATE_QUEUE)):
            # The position in the ring; bit 15 is the wrap counter of a packed one.
            if vring.started and vring.base() & 0x7FFF:
                self._met = True
                self.config.actual = self.config.num_pages
                self._waiting.tell()

    def _command(self, number: int) -> None:
        self.config.free_page_hint_cmd_id = number

    # Requests, in the worker

    @inflate.handler
    def inflated(self, request: Request) -> None:
        """The guest does without these pages from now on."""
        self._met = True
        self._holes.give_back(request, runs(unpack_page_numbers(request.read(4 * MOST_PAGES))))
        if request.readable:
            _report.warning("a request names more than %d pages: the others are left alone", MOST_PAGES)

    @deflate.handler
    def deflated(self, request: Request) -> None:
        """It uses these again: there is nothing to do, the host makes new ones at their first use."""

    def _optional(self, request: Request) -> None:
        purpose: Callable[[Request], None] | None = {
            STATS_QUEUE: self._statistics_came,
            FREE_PAGE_QUEUE: self._hints.taken,
            REPORTING_QUEUE: self._reported,
        }.get(self._purpose(request.queue))
        if purpose is not None:
            purpose(request)

    def _purpose(self, queue: int) -> int:
        """What a queue is for: a driver that numbers those that exist has none where another has a gap."""
        fixed = {number for number, bit in OPTIONAL_QUEUES.items() if self.driver_features & bit}
        counted = queues_without_gaps(self.driver_features)
        running = {number for number in range(STATS_QUEUE, self.queues) if self.vring(number).started}
        if running & (counted.keys() - fixed) and not running & (fixed - counted.keys()):
            return counted.get(queue, -1)
        return queue if queue in fixed else -1

    def _reported(self, request: Request) -> None:
        # A driver that fills free pages with a value finds it there again (5.5.6.7): zeroes may be another.
        if not (self.driver_features & BalloonFeature.PAGE_POISON and self.config.poison_val):
            pages = [(address, length) for address, length, writable in request.segments() if writable]
            self._holes.give_back(request, pages)

    # Statistics: the driver's buffer is kept until there is a question

    def _statistics_came(self, request: Request) -> None:
        self.stats = Statistics.unpack(request.read(MOST))
        request.hold()
        with self._lock:
            before, self._buffer = self._buffer, request
            again, self._asked = self._asked, False
            self._came += 1
        _complete(before)
        self._waiting.tell()
        if again:
            self._ask()
        self.measured(self.stats)

    def _ask(self) -> None:
        with self._lock:
            buffer, self._buffer = self._buffer, None
        _complete(buffer)


def _complete(buffer: Request | None) -> None:
    if buffer is not None:
        with contextlib.suppress(EngineError):  # its queue stopped at this moment: it comes again
            buffer.complete(0)


assert len(Space()) == BalloonConfig.SIZE
