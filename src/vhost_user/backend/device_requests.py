"""Requests that only the device can answer: configuration, shared objects, state (C105, C122, C128)."""

from __future__ import annotations

import socket

from vhost_user.backend.answers import checked_bytes, checked_regions, fd_to_send
from vhost_user.backend.backchannel import Backend
from vhost_user.backend.state import FdReply, SessionState
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.transport import duplicate_socket
from vhost_user.spec.structs import (
    U64,
    Config,
    ConfigFlag,
    CryptoSession,
    Empty,
    SharedUuid,
    ShmemConfig,
    TransferDirection,
    TransferPhase,
    TransferReply,
    TransferState,
)


class DeviceRequests(SessionState):
    """One method for each message, named as the request table says."""

    def get_config(self, payload: Config, _fds: OwnedFds) -> Config:
        """The device's bytes, with offset and flags as asked (C128)."""
        with self.backend.guard:
            answer = self.backend.get_config(payload.offset, payload.size)
        data = checked_bytes(self.backend, "get_config()", answer)
        if len(data) != payload.size:
            raise RequestRefused(
                f"the device has {len(data)} bytes of configuration at {payload.offset}, not {payload.size}",
                rule="C128",
            )
        return Config(payload.offset, data, payload.flags)

    def set_config(self, payload: Config, _fds: OwnedFds) -> None:
        """Written by the driver, or restored after a migration (C129)."""
        with self.backend.guard:
            if payload.flags == ConfigFlag.MIGRATION:
                self.backend.restore_config(payload.offset, payload.data)
            else:
                self.backend.set_config(payload.offset, payload.data)

    def set_backend_req_fd(self, _payload: Empty, fds: OwnedFds) -> None:
        """Open the back channel, or replace it; the old one is closed (C098)."""
        channel = Backend(_socket(fds), self.negotiation, tracer=self.tracer)
        try:
            channel.set_suspended(self.suspended)
            with self.backend.guard:
                self.backend.set_backend_req_fd(channel)
                former_name = getattr(self.backend, "set_slave_req_fd", None)
                if former_name is not None:
                    former_name(channel)
        except BaseException:
            channel.close()
            raise
        old, self.channel = self.channel, channel
        self._channel_is_new = self.suspended
        if old is not None:
            channel.inherit(old)
            old.close()
        self.quiet_down_or_wake()

    def gpu_set_socket(self, _payload: Empty, fds: OwnedFds) -> None:
        """The socket of the vhost-user-gpu protocol."""
        with _socket(fds) as connection:
            with self.backend.guard:
                self.backend.set_gpu_socket(connection.fileno())
            connection.detach()

    def get_shared_object(self, payload: SharedUuid, _fds: OwnedFds) -> FdReply | None:
        """A file descriptor or none (C097)."""
        with self.backend.guard:
            answer = self.backend.get_shared_object(payload.uuid)
        fd = fd_to_send(self.backend, "get_shared_object()", answer)
        return None if fd is None else FdReply(None, fd)

    def set_device_state_fd(self, payload: TransferState, fds: OwnedFds) -> FdReply | TransferReply:
        """Begin a transfer; only while all rings are stopped (C122, C123)."""
        if not self.suspended:
            raise RequestRefused("rings are running; the state moves only while all are stopped", rule="C122")
        try:
            direction, phase = TransferDirection(payload.direction), TransferPhase(payload.phase)
        except ValueError as error:
            raise RequestRefused(f"{error}: the specification does not know it", rule="C122") from None
        fd = fds.first
        assert fd is not None  # the session has counted them
        with self.backend.guard:
            answer = self.backend.set_device_state_fd(direction, phase, fd)
        # The device's from now on, whatever it returned; when it raises it is closed with the request.
        fds.take_one()
        other = fd_to_send(self.backend, "set_device_state_fd()", answer)
        return TransferReply() if other is None else FdReply(TransferReply(0), other)

    def check_device_state(self, _payload: Empty, _fds: OwnedFds) -> None:
        """How the transfer went (C125)."""
        with self.backend.guard:
            self.backend.check_device_state()

    def get_shmem_config(self, _payload: Empty, _fds: OwnedFds) -> ShmemConfig:
        """Shared memory regions (C105)."""
        with self.backend.guard:
            answer = self.backend.get_shmem_config()
        return ShmemConfig.of(checked_regions(self.backend, "get_shmem_config()", answer))

    def net_set_mtu(self, payload: U64, _fds: OwnedFds) -> None:
        """MTU of a net device."""
        with self.backend.guard:
            self.backend.set_mtu(payload.value)

    def send_rarp(self, payload: U64, _fds: OwnedFds) -> None:
        """Announce the MAC address in the first six bytes."""
        with self.backend.guard:
            self.backend.send_rarp(payload.pack()[:6])

    def create_crypto_session(self, _payload: CryptoSession, _fds: OwnedFds) -> CryptoSession:
        """CRYPTO_SESSION is not offered."""
        raise RequestRefused("this back-end has no crypto sessions", rule="C024")

    def close_crypto_session(self, _payload: U64, _fds: OwnedFds) -> None:
        """CRYPTO_SESSION is not offered."""
        raise RequestRefused("this back-end has no crypto sessions", rule="C024")


def _socket(fds: OwnedFds) -> socket.socket:
    """Take the one descriptor over as a connected Unix stream socket, or refuse it (H84).

    It stays in ``fds``, which closes it, until it is one.
    """
    fd = fds.first
    assert fd is not None  # the session has counted them
    try:
        connection = duplicate_socket(fd)
    except (OSError, ValueError) as error:
        raise RequestRefused(
            f"the file descriptor is not a Unix stream socket: {error}", rule="C098"
        ) from error
    fds.take_one()
    return connection
