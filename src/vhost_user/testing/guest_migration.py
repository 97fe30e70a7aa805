"""Live migration of a guest into another QEMU on this host, under way or cancelled, there and back.

    with guest.migration([VhostUserBlk("/run/other.sock")]) as migration:
        migration.start()
        migration.finish()          # or migration.cancel(), and start() again

The second QEMU runs, and is connected to its own back-ends, from the beginning of the block on. The same
``guest`` speaks to whichever of the two has the guest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.testing.guest_channel import Deadline
from vhost_user.testing.guest_errors import GuestError, GuestTimeoutError
from vhost_user.testing.guest_machine import Machine

_ENDS = {"completed", "failed", "cancelled"}
_numbers = itertools.count(1)


class Migration:
    """A destination that waits for the guest; made by `Guest.migration`.

    Args:
        source: gives the QEMU that has the guest.
        destination: starts one that waits for it.
        moved: is told when the guest runs there.
        folder: gives the folder where the two meet.
    """

    def __init__(
        self,
        source: Callable[[], Machine],
        destination: Callable[[], Machine],
        moved: Callable[[Machine], None],
        folder: Callable[[], Path],
    ) -> None:
        self._source = source
        self._make_destination = destination
        self._moved = moved
        self._folder = folder
        self._destination: Machine | None = None
        self._address = ""

    def __enter__(self) -> Self:
        self._wait_for_guest()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._destination is not None:
            self._destination.close()

    def start(
        self,
        *,
        downtime: float = 0.3,
        bandwidth: int | None = None,
        pause: bool = False,
        postcopy: bool = False,
    ) -> None:
        """Have the guest's memory copied, and return at once.

        Args:
            downtime: seconds that the guest may stand still at the end.
            bandwidth: bytes a second at most; None: as many as go.
            pause: stop at the switchover: the guest stands still, its devices are stopped, and `status` is
                `pre-switchover`. `cancel` has the guest go on.
            postcopy: the guest goes over at once, and its memory follows, page by page as it is wanted and at
                `bandwidth` otherwise. `status` is `postcopy-active` then, and there is no way back.
        """
        source = self._source()
        if postcopy:
            destination = self._destination
            assert destination is not None
            for machine in (destination, source):
                machine.qmp(
                    "migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}]
                )
            source.qmp("migrate-set-parameters", max_postcopy_bandwidth=bandwidth or 0)
            bandwidth = None
        source.qmp(
            "migrate-set-capabilities",
            capabilities=[{"capability": "pause-before-switchover", "state": pause}],
        )
        source.qmp(
            "migrate-set-parameters", downtime_limit=int(downtime * 1000), max_bandwidth=bandwidth or 1 << 40
        )
        source.qmp("migrate", uri=self._address)
        if postcopy:
            source.qmp("migrate-start-postcopy")

    @property
    def status(self) -> str:
        """QEMU's word for how far the migration is: none, setup, active, completed, failed."""
        return str(self._source().qmp("query-migrate").get("status", "none"))

    def wait_for(self, status: str, timeout: float = 60.0) -> None:
        """Wait until `status` is this.

        Raises:
            GuestError: the migration ended with another.
            GuestTimeoutError: it is not by then.
        """
        deadline = Deadline(timeout)
        while (now := self.status) != status:
            if now in _ENDS:
                raise GuestError(f"the migration was to be {status}, and is {now}")
            if not deadline.remaining():
                raise GuestTimeoutError(f"the migration is {now} and not {status} after {timeout:g} s")
            time.sleep(0.02)

    def cancel(self, timeout: float = 60.0) -> None:
        """Give the migration up; the guest stays where it is. A new destination waits afterwards.

        Raises:
            GuestError: the guest is there already.
            GuestTimeoutError: it did not end in time.
        """
        self._source().qmp("migrate_cancel")
        if (status := self._ended(Deadline(timeout))) != "cancelled":
            raise GuestError(f"the migration was to be cancelled, and is {status}")
        # It ends by itself when what it waits for breaks off.
        if self._destination is not None:
            self._destination.close()
        self._wait_for_guest()

    def finish(self, timeout: float = 120.0) -> None:
        """Wait until the guest runs in the other QEMU; the one it was in is ended.

        Raises:
            GuestError: it failed. The guest stays where it was.
            GuestTimeoutError: it did not end in time.
        """
        deadline = Deadline(timeout)
        status = self._ended(deadline)
        if status != "completed":
            raise GuestError(f"the migration is {status}: {self._source().qmp('query-migrate')}")
        machine = self._destination
        assert machine is not None
        while machine.qmp("query-status")["status"] != "running":
            machine.check_health(0.0)
            if not deadline.remaining():
                raise GuestTimeoutError(f"the guest does not run after {deadline.seconds:g} s")
            time.sleep(0.02)
        self._destination = None
        self._moved(machine)

    def _wait_for_guest(self) -> None:
        self._destination = self._make_destination()
        self._address = f"unix:{self._folder() / f'migration-{next(_numbers)}.sock'}"
        self._destination.qmp("migrate-incoming", uri=self._address)

    def _ended(self, deadline: Deadline) -> str:
        while (status := self.status) not in _ENDS:
            if not deadline.remaining():
                raise GuestTimeoutError(f"the migration is still {status} after {deadline.seconds:g} s")
            time.sleep(0.02)
        return status
