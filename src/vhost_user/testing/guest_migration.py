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
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vhost_user.testing.guest_channel import Deadline
from vhost_user.testing.guest_devices import VhostUserDevice
from vhost_user.testing.guest_errors import GuestError, GuestTimeoutError

if TYPE_CHECKING:
    from vhost_user.testing.guest import Guest
    from vhost_user.testing.guest_machine import Machine

_numbers = itertools.count(1)


class Migration:
    """A destination that waits for the guest; made by `Guest.migration`."""

    def __init__(self, guest: Guest, devices: Sequence[VhostUserDevice]) -> None:
        self._guest = guest
        self.devices = tuple(devices)
        self._machine: Machine | None = None
        self._address = ""

    def __enter__(self) -> Self:
        self._machine = self._guest._waiting_machine(self.devices)  # noqa: SLF001  (the two are one unit)
        self._await_guest()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._machine is not None:
            self._machine.close()

    def start(self, *, downtime: float = 0.3, bandwidth: int | None = None) -> None:
        """Have the guest's memory copied, and return at once.

        Args:
            downtime: seconds that the guest may stand still at the end.
            bandwidth: bytes a second at most; None: as many as go.
        """
        self._guest.qmp(
            "migrate-set-parameters", downtime_limit=int(downtime * 1000), max_bandwidth=bandwidth or 1 << 40
        )
        self._guest.qmp("migrate", uri=self._address)

    @property
    def status(self) -> str:
        """QEMU's word for how far the migration is: none, setup, active, completed, failed."""
        return str(self._guest.qmp("query-migrate").get("status", "none"))

    def cancel(self, timeout: float = 60.0) -> None:
        """Give the migration up; the guest stays where it is. A new destination waits afterwards.

        Raises:
            GuestError: the guest is there already.
            GuestTimeoutError: it did not end in time.
        """
        self._guest.qmp("migrate_cancel")
        if (status := self._ended(Deadline(timeout))) != "cancelled":
            raise GuestError(f"the migration was to be cancelled, and is {status}")
        # QEMU ends when what it waits for breaks off.
        assert self._machine is not None
        self._machine.close()
        self._machine = self._guest._waiting_machine(self.devices)  # noqa: SLF001
        self._await_guest()

    def finish(self, timeout: float = 120.0) -> None:
        """Wait until the guest runs in the other QEMU; the one it was in is ended.

        Raises:
            GuestError: it failed. The guest stays where it was.
            GuestTimeoutError: it did not end in time.
        """
        deadline = Deadline(timeout)
        status = self._ended(deadline)
        if status != "completed":
            raise GuestError(f"the migration is {status}: {self._guest.qmp('query-migrate')}")
        machine = self._machine
        assert machine is not None
        while machine.qmp("query-status")["status"] != "running":
            machine.check_health(0.0)
            if not deadline.remaining():
                raise GuestTimeoutError(f"the guest does not run after {deadline.seconds:g} s")
            time.sleep(0.02)
        self._machine = None
        self._guest._moved(machine, self.devices)  # noqa: SLF001

    def _await_guest(self) -> None:
        assert self._machine is not None
        self._address = f"unix:{self._guest._path(f'migration-{next(_numbers)}.sock')}"  # noqa: SLF001
        self._machine.qmp("migrate-incoming", uri=self._address)

    def _ended(self, deadline: Deadline) -> str:
        while (status := self.status) not in {"completed", "failed", "cancelled"}:
            if not deadline.remaining():
                raise GuestTimeoutError(f"the migration is still {status} after {deadline.seconds:g} s")
            time.sleep(0.02)
        return status
