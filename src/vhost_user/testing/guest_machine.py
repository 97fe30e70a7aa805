"""One QEMU process of a guest, with the two connections that lead into it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vhost_user.testing.guest_backend import leash
from vhost_user.testing.guest_errors import GuestError, GuestUnavailableError
from vhost_user.testing.guest_qmp import QmpClient

QEMU = "qemu-system-x86_64"
_QEMU_PACKAGE = "qemu-system-x86"


class Machine:
    """A running QEMU; ``close`` ends it.

    Args:
        arguments: makes QEMU's arguments of two descriptors that it inherits, its ends of the command channel
            and of QMP.
        log: file to which what QEMU prints is added.
        qemu: the program.

    Raises:
        GuestUnavailableError: QEMU is missing.
    """

    def __init__(self, arguments: Callable[[int, int], list[str]], log: Path, qemu: str = QEMU) -> None:
        program = shutil.which(qemu)
        if program is None:
            raise GuestUnavailableError(f"{qemu} is missing; as root, run: apt-get install {_QEMU_PACKAGE}")
        self.channel, channel_of_qemu = socket.socketpair()
        qmp, qmp_of_qemu = socket.socketpair()
        self._qmp = QmpClient(qmp)
        try:
            with channel_of_qemu, qmp_of_qemu, log.open("ab") as output:
                ends = (channel_of_qemu.fileno(), qmp_of_qemu.fileno())
                self.process = subprocess.Popen(
                    [*leash(), program, *arguments(*ends)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=ends,
                    start_new_session=True,  # Ctrl-C goes to this process alone, which then ends QEMU
                )
        except BaseException:
            self._disconnect()
            raise

    def negotiate(self, timeout: float) -> None:
        """Wait until QMP answers, for so many seconds."""
        try:
            self._qmp.negotiate(timeout)
        except GuestError:
            self.check_health(5.0)  # QEMU closes QMP on its way out, and its own words say more
            raise

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result; underscores in argument names stand for hyphens."""
        return self._qmp.execute(command, {key.replace("_", "-"): value for key, value in arguments.items()})

    def check_health(self, grace: float) -> None:
        """Raise when QEMU has ended; wait up to `grace` seconds for that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise GuestError(f"QEMU ended with status {self.process.wait(grace)}")

    def close(self) -> None:
        """End QEMU at once, whatever the guest is doing. May be called twice."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._disconnect()

    def _disconnect(self) -> None:
        self.channel.close()
        self._qmp.close()
