"""A connection with a bare socket at its other end."""

import array
import os
import socket

from vhost_user.protocol.sessions import BackendSession
from vhost_user.protocol.transport import Connection
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

SocketPair = tuple[Connection, socket.socket]


def backend_session() -> BackendSession:
    return BackendSession(
        int(VirtioFeature.PROTOCOL_FEATURES), int(ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ)
    )


def send_with_fds(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send and close our copies."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    for fd in fds:
        os.close(fd)
