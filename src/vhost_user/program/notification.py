"""How a service manager is told how we are: sd_notify(3), which systemd and other supervisors read."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from vhost_user.backend.daemon import VhostUserDaemon

log = logging.getLogger("vhost_user.program")


class Notifier:
    """Tells the service manager at ``address`` how we are; nobody, where there is none.

    Never waits, never raises: a device is served without a manager that listens as well.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        elif address:
            log.warning("NOTIFY_SOCKET=%s is not a Unix socket: nobody is told when we are ready", address)
        self._told: str | None = None

    def tell(self, **fields: str) -> None:
        """Send these variables of sd_notify(3), such as ``READY="1"``. A line break ends a value."""
        if self._socket is None:
            return
        lines = [f"{name}={value.partition(chr(10))[0]}" for name, value in fields.items()]
        self._told = fields.get("STATUS", self._told)
        try:
            self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.info("the service manager at NOTIFY_SOCKET is not told %s: %s", lines[0], error)

    def status(self, text: str) -> None:
        """Tell how we are, if that is news."""
        if text != self._told:
            self.tell(STATUS=text)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@contextmanager
def notifier() -> Iterator[Notifier]:
    """The manager that NOTIFY_SOCKET names. At the end it is told that we stop."""
    manager = Notifier(os.environ.get("NOTIFY_SOCKET", ""))
    try:
        yield manager
    finally:
        manager.tell(STOPPING="1", STATUS="ending")
        manager.close()


def in_a_line(daemon: VhostUserDaemon) -> str:
    """How a device is served, for ``systemctl status``."""
    if daemon.connected:
        return f"serving front-end {daemon.sessions}"
    if daemon.sessions == 0:
        return "waiting for a front-end"
    return f"waiting for front-end {daemon.sessions + 1}; the last went: {daemon.session_end_reason}"
