"""Messages between a program and its successor, with file descriptors, over a socket pair.

A message is a header (bytes that follow, number of descriptors), the descriptors in batches, each with one
byte, and a body in the format of docs/state-format.md whose name is the kind of the message.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from vhost_user.backend.handover import UpgradeError
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.state_format import LARGEST_STATE, StateFormatError, decode_state, encode_state

HEADER = struct.Struct("<QI")
VERSION = 1
"""Of the bodies."""
BATCH = 200
"""Descriptors that are sent at once; Linux takes 253."""
MOST_FDS = 4096
"""More than the regions and rings of any session have."""
PREFIX = "upgrade: "


class ChannelClosedError(UpgradeError):
    """The other process has gone."""


class Channel:
    """One end of the socket pair, which it owns. ``close`` it in the end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, kind: str, body: object = None, fds: Sequence[int] = (), *, timeout: float = 30.0) -> None:
        """Send a message; ``fds`` stay the caller's. UpgradeError when it cannot be sent."""
        try:
            data = encode_state(PREFIX + kind, VERSION, body)
            self._socket.settimeout(timeout)
            self._socket.sendall(HEADER.pack(len(data), len(fds)))
            for first in range(0, len(fds), BATCH):
                socket.send_fds(self._socket, [b"F"], list(fds[first : first + BATCH]))
            self._socket.sendall(data)
        except StateFormatError as error:
            raise UpgradeError(f"what is to be handed over cannot be written: {error}") from error
        except OSError as error:
            raise ChannelClosedError(
                f"the other process cannot be told {kind!r}: {error.strerror}"
            ) from error

    def receive(self, *kinds: str, timeout: float | None = None) -> tuple[str, Any, OwnedFds]:
        """Wait for a message of one of these kinds, ``failed`` included: kind, body, descriptors.

        UpgradeError with the words of the other process when that failed; ChannelClosedError when it has
        gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        length, count = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if length > LARGEST_STATE or count > MOST_FDS:
            raise UpgradeError(f"a message of {length} bytes and {count} descriptors makes no sense")
        with OwnedFds() as fds:
            while len(fds) < count:
                self._bound(deadline)
                data, arrived, _, _ = socket.recv_fds(self._socket, 1, BATCH, socket.MSG_CMSG_CLOEXEC)
                fds.add(arrived)
                if not data:
                    raise ChannelClosedError("the other process has gone")
                if not arrived:
                    raise UpgradeError("file descriptors were lost on their way (RLIMIT_NOFILE)")
            data = self._exactly(length, deadline)
            for kind in (*kinds, "failed"):
                try:
                    body, _ = decode_state(data, PREFIX + kind, VERSION)
                except StateFormatError as error:
                    refused = error
                    continue
                if kind == "failed" and kind not in kinds:
                    raise UpgradeError(str(body))
                return kind, body, OwnedFds(fds.take())
        raise UpgradeError(f"the other process speaks another language: {refused}")

    def _exactly(self, length: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._bound(deadline)
            try:
                piece = self._socket.recv(min(length - len(data), 1 << 20))
            except TimeoutError:
                raise UpgradeError("the other process has said nothing in time") from None
            except OSError as error:
                raise ChannelClosedError(f"the other process has gone: {error.strerror}") from error
            if not piece:
                raise ChannelClosedError("the other process has gone")
            data += piece
        return bytes(data)

    def _bound(self, deadline: float | None) -> None:
        self._socket.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def pair() -> tuple[Channel, socket.socket]:
    """Our end, and the one that a successor inherits."""
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def inherited(number: str) -> Channel:
    """The end that a predecessor left to us, by its number. UpgradeError when there is none."""
    try:
        sock = socket.socket(fileno=int(number))
    except (OSError, ValueError) as error:
        raise UpgradeError(f"descriptor {number} is not a channel to a predecessor: {error}") from error
    os.set_inheritable(sock.fileno(), False)
    return Channel(sock)
