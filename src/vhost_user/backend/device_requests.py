"""Requests that only the device can answer: configuration, shared objects, state (C105, C122, C128)."""

from __future__ import annotations

import socket
import time

from vhost_user.backend import device_state
from vhost_user.backend.answers import checked_bytes, checked_number, checked_regions, fd_to_send
from vhost_user.backend.backchannel import BackChannel
from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.dispatch import FdReply, RequestGroup
from vhost_user.backend.draining import DRAIN_SLICE
from vhost_user.backend.state import SessionEnded
from vhost_user.backend.state_transfer import StateTransfer
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.transport import duplicate_socket
from vhost_user.spec.structs import (
    U64,
    Config,
    ConfigFlag,
    CryptoSession,
    SharedUuid,
    ShmemConfig,
    TransferDirection,
    TransferPhase,
    TransferReply,
    TransferState,
)

TRANSFER_PATIENCE = 10.0
"""Seconds that CHECK_DEVICE_STATE waits for a transfer whose other side has not ended it."""


class DeviceRequests(RequestGroup):
    """One method for each message, named as the request table says: see :class:`RequestGroup`."""

    def get_config(self, payload: Config) -> Config:
        """The device's bytes, with offset and flags as asked (C128)."""
        with self.session.backend.guard:
            answer = self.session.backend.get_config(payload.offset, payload.size)
        data = checked_bytes(self.session.backend, "get_config()", answer)
        if len(data) != payload.size:
            raise RequestRefused(
                f"the device has {len(data)} bytes of configuration at {payload.offset}, not {payload.size}",
                rule="C128",
            )
        return Config(payload.offset, data, payload.flags)

    def set_config(self, payload: Config) -> None:
        """Written by the driver, or restored after a migration (C129)."""
        with self.session.backend.guard:
            if payload.flags == ConfigFlag.MIGRATION:
                self.session.backend.restore_config(payload.offset, payload.data)
            else:
                self.session.backend.set_config(payload.offset, payload.data)

    def set_backend_req_fd(self, fds: OwnedFds) -> None:
        """Open the back channel, or replace it; the old one is closed (C098)."""
        channel = BackChannel(_socket(fds), self.session.negotiation, tracer=self.session.tracer)
        try:
            channel.keep_quiet(self.session.all_stopped)
            with self.session.backend.guard:
                self.session.backend.set_backend_req_fd(channel)
                former_name = getattr(self.session.backend, "set_slave_req_fd", None)
                if former_name is not None:
                    former_name(channel)
        except BaseException:
            channel.close()
            raise
        old, self.session.channel = self.session.channel, channel
        self.session.channel_is_new = self.session.all_stopped
        if old is not None:
            channel.inherit(old)
            old.close()
        self.session.quiet_down_or_wake()

    def gpu_set_socket(self, fds: OwnedFds) -> None:
        """The socket of the vhost-user-gpu protocol."""
        with _socket(fds) as connection:
            with self.session.backend.guard:
                self.session.backend.set_gpu_socket(connection.fileno())
            connection.detach()

    def get_shared_object(self, payload: SharedUuid) -> FdReply | None:
        """A file descriptor or none (C097)."""
        with self.session.backend.guard:
            answer = self.session.backend.get_shared_object(payload.uuid)
        fd = fd_to_send(self.session.backend, "get_shared_object()", answer)
        return None if fd is None else FdReply(None, fd)

    def set_device_state_fd(self, payload: TransferState, fds: OwnedFds) -> FdReply | TransferReply:
        """Begin a transfer; only while all rings are stopped (C122, C123)."""
        if not self.session.all_stopped:
            raise RequestRefused("rings are running; the state moves only while all are stopped", rule="C122")
        try:
            direction, phase = TransferDirection(payload.direction), TransferPhase(payload.phase)
        except ValueError as error:
            raise RequestRefused(f"{error}: the specification does not know it", rule="C122") from None
        fd = fds.first
        assert fd is not None  # the session has counted them
        if self._moves_state():
            self._begin_transfer(direction, fd)
            fds.take_one()
            return TransferReply()
        with self.session.backend.guard:
            answer = self.session.backend.set_device_state_fd(direction, phase, fd)
        # The device's from now on, whatever it returned; when it raises it is closed with the request.
        fds.take_one()
        other = fd_to_send(self.session.backend, "set_device_state_fd()", answer)
        return TransferReply() if other is None else FdReply(TransferReply(0), other)

    def _moves_state(self) -> bool:
        """Whether the framework moves the state: the device says what it is, and does not do it by itself."""
        backend = self.session.backend
        by_itself = type(backend).set_device_state_fd is not VhostUserBackend.set_device_state_fd
        return backend.has_state and not by_itself

    def _begin_transfer(self, direction: TransferDirection, fd: int) -> None:
        self.session.end_transfer()  # an earlier one that nobody asked about
        data = device_state.save(self.session.backend) if direction is TransferDirection.SAVE else None
        transfer = StateTransfer(self.session.name, fd, data)
        transfer.begin()
        self.session.transfer = transfer

    def check_device_state(self) -> None:
        """How the transfer went; a state that was read is loaded now (C125)."""
        if not self._moves_state():
            with self.session.backend.guard:
                self.session.backend.check_device_state()
            return
        transfer = self.session.transfer
        if transfer is None:
            raise RequestRefused("no state was moved, or its end was asked for already", rule="C125")
        try:
            self._wait_for(transfer)
            if transfer.failure is not None:
                raise RequestRefused(transfer.failure, rule="C125")
            if not transfer.saves:
                if not self.session.all_stopped:
                    raise RequestRefused("rings were started before the state was loaded", rule="C122")
                device_state.load(self.session.backend, bytes(transfer.data))
        finally:
            self.session.end_transfer()

    def _wait_for(self, transfer: StateTransfer) -> None:
        """Until it is through: at once with a front-end that saw or made its end before it asked."""
        until = time.monotonic() + TRANSFER_PATIENCE
        while not transfer.wait(DRAIN_SLICE):
            if self.session.interrupted():
                raise SessionEnded("the device's state was still being moved")
            if time.monotonic() > until:
                raise RequestRefused(
                    f"the transfer is not at its end, {TRANSFER_PATIENCE:.0f} s after it was asked for",
                    rule="C125",
                )

    def get_shmem_config(self) -> ShmemConfig:
        """Shared memory regions (C105)."""
        with self.session.backend.guard:
            answer = self.session.backend.get_shmem_config()
        return ShmemConfig.of(checked_regions(self.session.backend, "get_shmem_config()", answer))

    def net_set_mtu(self, payload: U64) -> None:
        """MTU of a net device."""
        with self.session.backend.guard:
            self.session.backend.set_mtu(payload.value)

    def send_rarp(self, payload: U64) -> None:
        """Announce the MAC address in the first six bytes."""
        with self.session.backend.guard:
            self.session.backend.send_rarp(payload.pack()[:6])

    def create_crypto_session(self, payload: CryptoSession) -> CryptoSession:
        """Open a session: the reply is the request with its id (C097)."""
        backend = self.session.backend
        with backend.guard:
            answer = backend.create_crypto_session(payload.op_code, payload.body)
        session = checked_number(backend, "create_crypto_session()", answer, "the id of the session")
        if not 0 <= session < 1 << 63:
            raise RequestRefused(f"the device gave {session} for the id of a crypto session", rule="C097")
        return CryptoSession(payload.op_code, payload.body, session)

    def close_crypto_session(self, payload: U64) -> None:
        """Close a session."""
        with self.session.backend.guard:
            self.session.backend.close_crypto_session(payload.value)


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
