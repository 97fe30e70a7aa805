"""A client of QMP, QEMU's machine protocol, as small as a guest in a test needs it."""

from __future__ import annotations

import json
import socket
from typing import Any

from vhost_user.testing.guest_channel import Deadline
from vhost_user.testing.guest_errors import GuestError, GuestTimeoutError


class QmpClient:
    """One QMP session over a connected stream socket.

    Args:
        connection: the socket; the client owns it from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self.events: list[dict[str, Any]] = []

    def negotiate(self, timeout: float = 30.0) -> None:
        """Take QEMU's greeting and end the negotiation; to be called once, first."""
        greeting = self._message(Deadline(timeout))
        if "QMP" not in greeting:
            raise GuestError(f"QEMU greeted with {greeting!r} instead of QMP")
        self.execute("qmp_capabilities", timeout=timeout)

    def execute(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = 30.0) -> Any:
        """Run a command and return what it returns.

        Args:
            command: QMP's name of it, such as `query-status`.
            arguments: its arguments.
            timeout: seconds to wait for the answer.

        Raises:
            GuestError: QEMU refused it or went away.
            GuestTimeoutError: no answer came in time.
        """
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        deadline = Deadline(timeout)
        self._connection.settimeout(timeout)
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"QMP command {command} could not be sent: {error}") from error
        while True:
            message = self._message(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise GuestError(
                    f"QMP command {command} failed: {message['error'].get('desc', message['error'])}"
                )
            elif "return" in message:
                return message["return"]

    def wait_event(self, name: str, timeout: float = 30.0) -> dict[str, Any]:
        """Return the next event of a name, one that came earlier and was not asked for yet included."""
        deadline = Deadline(timeout)
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(index)
            message = self._message(deadline)
            if "event" in message:
                self.events.append(message)

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def _message(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._received:
            # A time-out of 0 would mean a socket that does not block, and another exception.
            self._connection.settimeout(max(deadline.remaining(), 0.001))
            try:
                received = self._connection.recv(65536)
            except TimeoutError as error:
                raise GuestTimeoutError(f"QEMU said nothing on QMP for {deadline.seconds:g} s") from error
            except OSError as error:
                raise GuestError(f"QMP broke: {error}") from error
            if not received:
                raise GuestError("QEMU closed QMP")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
