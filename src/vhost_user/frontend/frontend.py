"""The front-end: one typed method for each message of the request table."""

import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from vhost_user.frontend.channel import MainChannel
from vhost_user.frontend.inflight import Inflight
from vhost_user.protocol.errors import ProtocolError
from vhost_user.protocol.fds import OwnedFds
from vhost_user.protocol.requester import Reply
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import (
    U64,
    Config,
    CryptoSession,
    Iotlb,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    SharedUuid,
    ShmemConfig,
    TransferReply,
    TransferState,
    VringAddress,
    VringFd,
    VringState,
)
from vhost_user.spec.structs import Inflight as InflightPayload

PayloadType = TypeVar("PayloadType", bound=Payload)


class Region(Protocol):
    """What a memory region must tell to be put in the table; ``DriverRegion`` is one."""

    @property
    def fd(self) -> int:
        """The file it is in."""

    @property
    def guest_address(self) -> int:
        """Guest physical address."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def user_address(self) -> int:
        """Address in the front-end."""

    @property
    def file_offset(self) -> int:
        """Where in the file it starts, in bytes."""


class Frontend(MainChannel):
    """A typed front-end on one connection. Each ``set…`` waits for the ack when REPLY_ACK is negotiated.

    Every method raises what :meth:`MainChannel.call` raises; messages that are not legal under the negotiated
    features are refused before they are sent (C024).
    """

    max_mem_slots: int | None = None
    """The last answer to GET_MAX_MEM_SLOTS."""

    # negotiation

    @property
    def backend_features(self) -> int:
        """What GET_FEATURES offered."""
        return self.session.negotiation.offered_features

    @property
    def features(self) -> int:
        """What SET_FEATURES acknowledged."""
        return self.session.negotiation.acked_features

    @property
    def backend_protocol_features(self) -> int:
        """What GET_PROTOCOL_FEATURES offered."""
        return self.session.negotiation.offered_protocol_features

    @property
    def protocol_features(self) -> int:
        """What SET_PROTOCOL_FEATURES acknowledged."""
        return self.session.negotiation.acked_protocol_features

    def has_protocol_feature(self, feature: int) -> bool:
        """Whether all bits of ``feature`` are negotiated."""
        return self.session.negotiation.has_protocol_feature(feature)

    def get_features(self) -> int:
        """Ask which features are offered."""
        return self._number(FrontendRequest.GET_FEATURES)

    def set_features(self, features: int, *, need_reply: bool | None = None) -> None:
        """Acknowledge features; only offered ones are sent (C026)."""
        self.call(FrontendRequest.SET_FEATURES, U64(features), need_reply=need_reply)

    def get_protocol_features(self) -> int:
        """Ask which protocol features are offered."""
        return self._number(FrontendRequest.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, features: int, *, need_reply: bool | None = None) -> None:
        """Acknowledge protocol features."""
        self.call(FrontendRequest.SET_PROTOCOL_FEATURES, U64(features), need_reply=need_reply)

    def get_queue_num(self) -> int:
        """How many queues the back-end has at most."""
        return self._number(FrontendRequest.GET_QUEUE_NUM)

    def set_owner(self, *, need_reply: bool | None = None) -> None:
        """Start the session."""
        self.call(FrontendRequest.SET_OWNER, need_reply=need_reply)

    def reset_owner(self, *, need_reply: bool | None = None) -> None:
        """Deprecated; some back-ends lose their state on it."""
        self.call(FrontendRequest.RESET_OWNER, need_reply=need_reply)

    def barrier(self) -> None:
        """Return when the back-end has carried out everything sent before, with or without REPLY_ACK."""
        self.get_features()

    # memory

    def set_mem_table(
        self, regions: Sequence[Region], *, need_reply: bool | None = None, postcopy: bool = False
    ) -> list[int]:
        """Replace the memory map.

        With ``postcopy`` the back-end's own base addresses are returned (C119), else nothing.
        """
        payload = Memory(tuple(self._region(region) for region in regions))
        fds = [region.fd for region in regions]
        reply = self.call(
            FrontendRequest.SET_MEM_TABLE, payload, fds, need_reply=need_reply, postcopy=postcopy
        )
        if not postcopy:
            return []
        return [region.user_addr for region in self._expect(reply, Memory).regions]

    def get_max_mem_slots(self) -> int:
        """How many regions the back-end can have. Raises ProtocolError when that became fewer (H105)."""
        self.max_mem_slots = self._number(FrontendRequest.GET_MAX_MEM_SLOTS)
        return self.max_mem_slots

    def add_mem_reg(
        self, region: Region, *, need_reply: bool | None = None, postcopy: bool = False
    ) -> int | None:
        """Add one region. With ``postcopy`` the back-end's own base address is returned."""
        payload = MemorySlot(self._region(region))
        reply = self.call(
            FrontendRequest.ADD_MEM_REG, payload, [region.fd], need_reply=need_reply, postcopy=postcopy
        )
        return self._expect(reply, MemorySlot).region.user_addr if postcopy else None

    def rem_mem_reg(self, region: Region, *, need_reply: bool | None = None) -> None:
        """Remove one region.

        No descriptor goes along, some back-ends drop the connection over one.
        """
        self.call(FrontendRequest.REM_MEM_REG, MemorySlot(self._region(region)), need_reply=need_reply)

    def _region(self, region: Region) -> MemoryRegion:
        gpa = self.has_protocol_feature(ProtocolFeature.GPA_ADDRESSES)
        user_address = region.guest_address if gpa else region.user_address
        return MemoryRegion(region.guest_address, region.size, user_address, region.file_offset)

    def set_log_base(self, fd: int, size: int, offset: int = 0) -> None:
        """Install a dirty log of ``size`` bytes at ``offset`` of ``fd`` (C081)."""
        self.call(FrontendRequest.SET_LOG_BASE, Log(size, offset), [fd])

    def set_log_fd(self, fd: int, *, need_reply: bool | None = None) -> None:
        """An eventfd that the back-end writes when the log changed (C083)."""
        self.call(FrontendRequest.SET_LOG_FD, fds=[fd], need_reply=need_reply)

    def iotlb_msg(self, iotlb: Iotlb) -> None:
        """Update or invalidate an IOTLB entry (C089)."""
        self.call(FrontendRequest.IOTLB_MSG, iotlb, need_reply=True)

    # rings

    def set_vring_num(self, index: int, size: int, *, need_reply: bool | None = None) -> None:
        """Size of a ring in descriptors."""
        self.call(FrontendRequest.SET_VRING_NUM, VringState(index, size), need_reply=need_reply)

    def set_vring_addr(
        self,
        index: int,
        *,
        descriptor: int,
        used: int,
        available: int,
        flags: int = 0,
        log_address: int = 0,
        need_reply: bool | None = None,
    ) -> None:
        """User addresses of the three ring areas; guest addresses with GPA_ADDRESSES (C045, C046)."""
        payload = VringAddress(index, flags, descriptor, used, available, log_address)
        self.call(FrontendRequest.SET_VRING_ADDR, payload, need_reply=need_reply)

    def set_vring_base(self, index: int, base: int, *, need_reply: bool | None = None) -> None:
        """Where the ring starts, in the form of its layout (C057)."""
        self.call(FrontendRequest.SET_VRING_BASE, VringState(index, base), need_reply=need_reply)

    def get_vring_base(self, index: int, *, skip_drain: bool = False, timeout: float | None = None) -> int:
        """Stop a ring; the answer comes after the requests in flight, unless ``skip_drain`` (C054, C055)."""
        reply = self.call(FrontendRequest.GET_VRING_BASE, VringState(index, int(skip_drain)), timeout=timeout)
        return self._expect(reply, VringState).num

    def set_vring_kick(self, index: int, fd: int | None, *, need_reply: bool | None = None) -> None:
        """Start a ring; ``fd`` None makes the back-end poll (C050, C052)."""
        self._vring_fd(FrontendRequest.SET_VRING_KICK, index, fd, need_reply)

    def set_vring_call(self, index: int, fd: int | None, *, need_reply: bool | None = None) -> None:
        """Where used buffers are signalled; None: we poll."""
        self._vring_fd(FrontendRequest.SET_VRING_CALL, index, fd, need_reply)

    def set_vring_err(self, index: int, fd: int | None, *, need_reply: bool | None = None) -> None:
        """Where a broken ring is signalled."""
        self._vring_fd(FrontendRequest.SET_VRING_ERR, index, fd, need_reply)

    def _vring_fd(
        self, request: FrontendRequest, index: int, fd: int | None, need_reply: bool | None
    ) -> None:
        fds = [] if fd is None else [fd]
        self.call(request, VringFd.of(index, no_fd=fd is None), fds, need_reply=need_reply)

    def set_vring_enable(self, index: int, enabled: bool, *, need_reply: bool | None = None) -> None:
        """Enable or disable a ring; needs bit 30, or protocol features before SET_FEATURES (C063)."""
        self.call(FrontendRequest.SET_VRING_ENABLE, VringState(index, int(enabled)), need_reply=need_reply)

    def set_vring_endian(self, index: int, big: bool, *, need_reply: bool | None = None) -> None:
        """Byte order of a legacy ring."""
        self.call(FrontendRequest.SET_VRING_ENDIAN, VringState(index, int(big)), need_reply=need_reply)

    def vring_kick(self, index: int, *, need_reply: bool | None = None) -> None:
        """A kick as a message (C133)."""
        self.call(FrontendRequest.VRING_KICK, VringState(index, 0), need_reply=need_reply)

    def get_inflight_fd(self, num_queues: int, queue_size: int) -> Inflight:
        """Ask for an in-flight area; RequestRefused when there is none.

        The file must be as large as it says (H103).
        """
        reply = self.call(FrontendRequest.GET_INFLIGHT_FD, InflightPayload(0, 0, num_queues, queue_size))
        payload = self._expect(reply, InflightPayload)
        with self._fds(reply) as fds:
            fd = fds.take_one()
        assert fd is not None
        area = Inflight(fd, payload.mmap_size, payload.mmap_offset, payload.num_queues, payload.queue_size)
        have = os.fstat(fd).st_size
        if have < area.offset + area.size:
            area.close()
            self.close()
            raise ProtocolError(
                f"the area takes {area.offset + area.size} bytes of a file that has {have}",
                rule="H103",
                message="GET_INFLIGHT_FD",
            )
        return area

    def set_inflight_fd(self, inflight: Inflight, *, need_reply: bool | None = None) -> None:
        """Give an in-flight area (back) to the back-end, before rings start (C107)."""
        payload = InflightPayload(inflight.size, inflight.offset, inflight.num_queues, inflight.queue_size)
        self.call(FrontendRequest.SET_INFLIGHT_FD, payload, [inflight.fd], need_reply=need_reply)

    # device

    def get_config(self, offset: int, size: int, *, flags: int = 0) -> bytes:
        """Read ``size`` bytes of the configuration space."""
        reply = self.call(FrontendRequest.GET_CONFIG, Config(offset, bytes(size), flags))
        return self._expect(reply, Config).data

    def set_config(self, offset: int, data: bytes, *, flags: int = 0, need_reply: bool | None = None) -> None:
        """Write the configuration space; ``flags`` 1 for migration (C129)."""
        self.call(FrontendRequest.SET_CONFIG, Config(offset, bytes(data), flags), need_reply=need_reply)

    def set_status(self, status: int, *, need_reply: bool | None = None) -> None:
        """Device status byte; 0 resets (C131)."""
        self.call(FrontendRequest.SET_STATUS, U64(status), need_reply=need_reply)

    def get_status(self) -> int:
        """Device status byte."""
        return self._number(FrontendRequest.GET_STATUS)

    def reset_device(self, *, need_reply: bool | None = None) -> None:
        """Disable all rings and reset the device (C075)."""
        self.call(FrontendRequest.RESET_DEVICE, need_reply=need_reply)

    def set_backend_req_fd(self, fd: int, *, need_reply: bool | None = None) -> None:
        """Hand over the back-end's end of the back channel (C098)."""
        self.call(FrontendRequest.SET_BACKEND_REQ_FD, fds=[fd], need_reply=need_reply)

    def send_rarp(self, mac: bytes, *, need_reply: bool | None = None) -> None:
        """Have a RARP broadcast for ``mac`` (6 bytes)."""
        self.call(
            FrontendRequest.SEND_RARP,
            U64(int.from_bytes(mac + bytes(2), sys.byteorder)),
            need_reply=need_reply,
        )

    def net_set_mtu(self, mtu: int, *, need_reply: bool | None = None) -> None:
        """Tell a net device its MTU in bytes."""
        self.call(FrontendRequest.NET_SET_MTU, U64(mtu), need_reply=need_reply)

    def create_crypto_session(self, session: CryptoSession) -> CryptoSession:
        """Open a crypto session; the answer carries its id."""
        return self._expect(self.call(FrontendRequest.CREATE_CRYPTO_SESSION, session), CryptoSession)

    def close_crypto_session(self, identifier: int, *, need_reply: bool | None = None) -> None:
        """Close a crypto session."""
        self.call(FrontendRequest.CLOSE_CRYPTO_SESSION, U64(identifier), need_reply=need_reply)

    def gpu_set_socket(self, fd: int, *, need_reply: bool | None = None) -> None:
        """The socket of the vhost-user-gpu protocol."""
        self.call(FrontendRequest.GPU_SET_SOCKET, fds=[fd], need_reply=need_reply)

    def get_shared_object(self, identifier: uuid.UUID) -> int:
        """The dmabuf behind a UUID, owned by the caller; RequestRefused when there is none."""
        return self._one_fd(self.call(FrontendRequest.GET_SHARED_OBJECT, SharedUuid.of(identifier)))

    def get_shmem_config(self) -> dict[int, int]:
        """Sizes in bytes of the VIRTIO shared memory regions, by shmid."""
        config = self._expect(self.call(FrontendRequest.GET_SHMEM_CONFIG), ShmemConfig)
        return {shmid: size for shmid, size in enumerate(config.sizes) if size}

    # migration

    def set_device_state_fd(self, fd: int, direction: int, phase: int = 0) -> int | None:
        """Start a transfer of device state over ``fd``.

        The back-end may answer with another descriptor to use, which
        the caller owns (C122, C123).
        """  # one sentence
        reply = self.call(FrontendRequest.SET_DEVICE_STATE_FD, TransferState(direction, phase), [fd])
        self._expect(reply, TransferReply)
        with self._fds(reply) as fds:
            return fds.take_one()

    def check_device_state(self) -> None:
        """Ask whether the transfer went well; RequestRefused if not (C125)."""
        self.call(FrontendRequest.CHECK_DEVICE_STATE)

    def postcopy_advise(self) -> int:
        """The back-end's userfaultfd, owned by the caller; RequestRefused when there is none (C118)."""
        return self._one_fd(self.call(FrontendRequest.POSTCOPY_ADVISE))

    def postcopy_listen(self, *, need_reply: bool | None = None) -> None:
        """From now on memory is registered with the userfaultfd."""
        self.call(FrontendRequest.POSTCOPY_LISTEN, need_reply=need_reply)

    def postcopy_end(self) -> None:
        """Post-copy is over (C120)."""
        self.call(FrontendRequest.POSTCOPY_END)

    def postcopy_ready(
        self, status: int = 0, *, request: FrontendRequest = FrontendRequest.SET_MEM_TABLE
    ) -> None:
        """Say that page faults are served in the memory that was handed over since (C119).

        ``request`` is the number that it goes by: that of the last message about memory, as QEMU does it.
        Another ``status`` than 0 says that they are not. It is not answered.
        """
        self.raw(request, U64(status).pack())

    # replies

    def _number(self, request: FrontendRequest) -> int:
        return self._expect(self.call(request), U64).value

    def _expect(self, reply: Reply | None, kind: type[PayloadType]) -> PayloadType:
        payload: Any = None if reply is None else reply.payload
        if not isinstance(payload, kind):
            self.close()
            raise ProtocolError(f"a reply with {kind.__name__} was due, got {payload}", rule="H101")
        return payload

    def _fds(self, reply: Reply | None) -> OwnedFds:
        return OwnedFds() if reply is None else reply.fds

    def _one_fd(self, reply: Reply | None) -> int:
        with self._fds(reply) as fds:
            fd = fds.take_one()
        assert fd is not None  # the session refuses replies without it
        return fd
