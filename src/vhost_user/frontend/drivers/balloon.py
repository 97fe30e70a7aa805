"""Driver of the memory balloon (virtio 1.4 section 5.5)."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.balloon import (
    ACTUAL_OFFSET,
    DEFLATE_QUEUE,
    FIRST_HINT_ROUND,
    FREE_PAGE_QUEUE,
    INFLATE_QUEUE,
    PAGE_SIZE,
    POISON_OFFSET,
    REPORTING_QUEUE,
    STATS_QUEUE,
    BalloonConfig,
    BalloonFeature,
    BalloonStatistic,
    HintCommand,
    pack_page_numbers,
    queues_without_gaps,
)

PAGES_A_REQUEST = 256
"""Page frame numbers in a request, as in Linux."""
Range = tuple[int, int]
"""Guest address and bytes."""


class BalloonDriver(DeviceDriver):
    """``with BalloonDriver(socket) as balloon: balloon.follow()`` does what the device asks for.

    Pages are those of the driver's memory; what is in them is lost. ``without_gaps`` numbers the queues as
    Linux does: those that exist, one after the other. ``poison`` is what free pages are filled with, and is
    told when PAGE_POISON is negotiated.
    """

    FEATURES: ClassVar[int] = (
        BalloonFeature.STATS_VQ
        | BalloonFeature.FREE_PAGE_HINT
        | BalloonFeature.PAGE_REPORTING
        | BalloonFeature.DEFLATE_ON_OOM
        | BalloonFeature.MUST_TELL_HOST
    )
    QUEUES: ClassVar[int] = 5

    def __init__(
        self, target: Target, *, without_gaps: bool = False, poison: int = 0, **options: Any
    ) -> None:
        self.pages: list[int] = []
        """Guest addresses of the pages in the balloon."""
        self._without_gaps = without_gaps
        self._poison = poison
        self._statistics: Pending | None = None
        self._one_at_a_time = threading.Lock()
        super().__init__(target, **options)

    def acknowledge(self) -> None:
        """With the value of free pages, which is to be known before DRIVER_OK."""
        super().acknowledge()
        if self.features & BalloonFeature.PAGE_POISON:
            self.write_config(POISON_OFFSET, self._poison.to_bytes(4, "little"))

    def configuration(self) -> BalloonConfig:
        """What the configuration space says now."""
        return BalloonConfig.unpack(self.read_config(0, BalloonConfig.SIZE))

    # inflate and deflate

    def follow(self) -> int:
        """Inflate or deflate until there are as many pages as the device wants; how many there are then."""
        while (missing := self.configuration().num_pages - len(self.pages)) != 0:
            if missing > 0:
                count = min(missing, PAGES_A_REQUEST)
                begin = self.memory.allocate(count * PAGE_SIZE, PAGE_SIZE)
                self.inflate(range(begin, begin + count * PAGE_SIZE, PAGE_SIZE))
            else:
                self.deflate(self.pages[missing:][-PAGES_A_REQUEST:])
        return len(self.pages)

    def inflate(self, pages: Sequence[int]) -> None:
        """Put these pages into the balloon, by their guest addresses, and tell how many there are."""
        self.tell(INFLATE_QUEUE, pages)
        self.pages += pages
        self.set_actual(len(self.pages))

    def deflate(self, pages: Sequence[int]) -> None:
        """Take these out of it."""
        self.tell(DEFLATE_QUEUE, pages)
        for page in list(pages):
            self.pages.remove(page)
        self.set_actual(len(self.pages))

    def tell(self, queue: int, pages: Iterable[int]) -> None:
        """One request to inflate or deflate, and nothing else."""
        self.queues[queue].request(pack_page_numbers([page // PAGE_SIZE for page in pages]))

    def set_actual(self, pages: int) -> None:
        """Tell how many pages are in the balloon."""
        self.write_config(ACTUAL_OFFSET, pages.to_bytes(4, "little"))

    # statistics

    def give_statistics(self, statistics: Mapping[int, int]) -> None:
        """Leave statistics by their tags with the device, which takes them now and asks for others later."""
        data = b"".join(BalloonStatistic(tag, value).pack() for tag, value in statistics.items())
        self._statistics = self.queues[self.number(STATS_QUEUE)].submit(data)

    def wait_asked(self, *, timeout: float | None = None) -> None:
        """Wait until the device asks for new statistics. Raises PeerTimeout, DeviceError if it has none."""
        if self._statistics is None:
            raise DeviceError("the device can only ask when it has statistics: give some first")
        try:
            self._statistics.wait(self.timeout if timeout is None else timeout)
        except PeerTimeout as error:
            raise PeerTimeout("the device did not ask for new statistics") from error
        self._statistics.release()
        self._statistics = None

    # free pages

    def report(self, ranges: Sequence[Range]) -> None:
        """Report free pages."""
        self._show(REPORTING_QUEUE, ranges)

    def hint(self, ranges: Sequence[Range]) -> bool:
        """A round of hints, if the device wants one: False if it does not."""
        wanted = self.configuration().free_page_hint_cmd_id
        if wanted < FIRST_HINT_ROUND:
            return False
        self.say_hint(wanted)
        for each in ranges:
            self._show(FREE_PAGE_QUEUE, [each])
        self.say_hint(HintCommand.STOP)
        return True

    def say_hint(self, command: int) -> None:
        """A command of the driver in the queue of hints."""
        self.queues[self.number(FREE_PAGE_QUEUE)].request(command.to_bytes(4, "little"))

    def show_hint(self, address: int, length: int) -> None:
        """One hint, and no command."""
        self._show(FREE_PAGE_QUEUE, [(address, length)])

    def number(self, queue: int) -> int:
        """The number that this driver gives a queue."""
        if not self._without_gaps:
            return queue
        meant = queues_without_gaps(self.features)
        return next(number for number, purpose in meant.items() if purpose == queue)

    def _show(self, queue: int, ranges: Sequence[Range]) -> None:
        # These are buffers of the device, but nothing is to be allocated for them: they are the free pages.
        ring = self.queues[self.number(queue)].ring
        with self._one_at_a_time:
            ring.add([], ranges)
            ring.publish()
            ring.kick()
            if not ring.wait(self.timeout) or ring.poll() is None:
                raise PeerTimeout(f"queue {self.number(queue)}: free pages were not taken")
