"""The steps of bringing a back-end up: features, back channel, memory, rings."""

import os
import socket
import threading
from collections.abc import Callable, Sequence

from vhost_user.engine.driver.memory import DriverMemory
from vhost_user.frontend.back_channel import BackChannel, BackChannelHandler
from vhost_user.frontend.errors import FrontendError
from vhost_user.frontend.frontend import Frontend, Region
from vhost_user.frontend.inflight import Inflight
from vhost_user.frontend.iommu import Iommu
from vhost_user.frontend.postcopy import PostCopy
from vhost_user.frontend.queue import Queue
from vhost_user.frontend.rings import make_ring, resume_base
from vhost_user.protocol.negotiation import bit_names
from vhost_user.protocol.requester import Quirk
from vhost_user.protocol.trace import Tracer
from vhost_user.spec.features import VHOST_USER_FEATURES, DeviceStatus, ProtocolFeature, VirtioFeature

DEFAULT_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.MTU
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CRYPTO_SESSION
    | ProtocolFeature.PAGEFAULT
    | ProtocolFeature.CONFIG
    | ProtocolFeature.BACKEND_SEND_FD
    | ProtocolFeature.HOST_NOTIFIER
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
    | ProtocolFeature.SHARED_OBJECT
    | ProtocolFeature.DEVICE_STATE
    | ProtocolFeature.SHMEM
)
"""Acknowledged when offered, as QEMU does; less what it cannot do either."""

SMALL_TABLE = 8
"""Regions that one SET_MEM_TABLE can carry."""


Target = str | os.PathLike[str] | socket.socket | Frontend


class BringUp:
    """What a driver negotiates, shares and starts, step by step in the order of QEMU.

    The options are described at :class:`vhost_user.frontend.VirtioDriver`, which takes the steps together.
    """

    def __init__(
        self,
        target: Target,
        *,
        num_queues: int | None = 1,
        queue_size: int = 256,
        features: int = 0,
        require: int = 0,
        packed: bool | None = False,
        event_idx: bool = True,
        indirect: bool = True,
        in_order: bool = False,
        protocol_features: int | None = None,
        memory: DriverMemory | None = None,
        memory_size: int = 64 << 20,
        memory_slots: bool | None = None,
        inflight: bool = False,
        back_channel: bool = True,
        handler: BackChannelHandler | None = None,
        iommu: Iommu | None = None,
        postcopy: PostCopy | None = None,
        start: int | Sequence[int] = 0,
        polled_kicks: bool = False,
        polled_calls: bool = False,
        inject_kick: bool = True,
        status: bool = True,
        use_indirect: bool = False,
        timeout: float = 10.0,
        listen: bool = False,
        quirks: Quirk = Quirk.TOLERANT,
        tracer: Tracer | None = None,
    ) -> None:
        self._target = target
        self._listen = listen
        self._quirks = quirks
        self._tracer = tracer
        self._num_queues = num_queues
        self._wanted = features | VirtioFeature.VERSION_1
        for wanted, bit in (
            (packed is None or packed, VirtioFeature.RING_PACKED),
            (event_idx, VirtioFeature.RING_EVENT_IDX),
            (indirect, VirtioFeature.RING_INDIRECT_DESC),
            (in_order, VirtioFeature.IN_ORDER),
        ):
            if wanted:
                self._wanted |= bit
        self._require = require | (VirtioFeature.RING_PACKED if packed else 0)
        if iommu is not None:
            self._wanted |= VirtioFeature.ACCESS_PLATFORM
            self._require |= VirtioFeature.ACCESS_PLATFORM
        self._wanted_protocol = DEFAULT_PROTOCOL_FEATURES if protocol_features is None else protocol_features
        self._memory_slots = memory_slots
        self._use_inflight = inflight
        self._use_back_channel = back_channel
        self._handler = handler
        self.iommu = iommu
        self.postcopy = postcopy
        self._first_index = start
        self._polled_kicks = polled_kicks
        self._polled_calls = polled_calls
        self._inject_kick = inject_kick
        self._use_status = status
        self._use_indirect = use_indirect
        self.queue_size = queue_size
        self.timeout = timeout
        self._owns_memory = memory is None
        self.memory = DriverMemory(memory_size) if memory is None else memory
        self.queues: list[Queue] = []
        self.back_channel: BackChannel | None = None
        self.inflight: Inflight | None = None
        self.features = 0
        """Negotiated virtio features, without the bits of vhost-user."""
        self.max_queues: int | None = None
        """What GET_QUEUE_NUM said."""
        self.config_changes = 0
        self.config_changed = threading.Event()
        """Set at each CONFIG_CHANGE; clear it before waiting for the next."""
        self.on_config_change: Callable[[], object] | None = None
        self._error_fds: list[int] = []
        self._started: list[bool] = []
        self._stopped_at: dict[int, int] = {}
        try:
            self.frontend = self._open(target)
        except BaseException:
            self._release_memory()
            raise

    def _open(self, target: Target, *, retry_seconds: float = 1.0) -> Frontend:
        if isinstance(target, Frontend):
            return target
        if isinstance(target, socket.socket):
            return Frontend(target, timeout=self.timeout, quirks=self._quirks, tracer=self._tracer)
        if self._listen:
            return Frontend.listen(target, timeout=self.timeout, quirks=self._quirks, tracer=self._tracer)
        return Frontend.connect(
            target,
            timeout=self.timeout,
            retry_seconds=retry_seconds,
            quirks=self._quirks,
            tracer=self._tracer,
        )

    def _release_memory(self) -> None:
        if self._owns_memory:
            self.memory.close()

    def _close_back_channel(self) -> None:
        if self.back_channel is not None:
            self.back_channel.close()
            self.back_channel = None

    # the steps

    def negotiate(self) -> None:
        """What QEMU does when the device is made.

        Features, protocol features, queue count, back channel, owner.
        """
        frontend = self.frontend
        offered = frontend.get_features()
        if missing := self._require & ~offered:
            raise FrontendError(
                f"the back-end does not offer {bit_names(missing, VirtioFeature)} ({missing:#x})"
            )
        if offered & VirtioFeature.PROTOCOL_FEATURES:
            frontend.set_protocol_features(frontend.get_protocol_features() & self._wanted_protocol)
        if frontend.has_protocol_feature(ProtocolFeature.MQ):
            self.max_queues = frontend.get_queue_num()
        if frontend.has_protocol_feature(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            frontend.get_max_mem_slots()
        wanted = self._num_queues
        if wanted is None:
            if self.max_queues is None:
                raise FrontendError(
                    "the number of queues must be given: the back-end does not offer MQ", rule="C031"
                )
            wanted = self.max_queues
        elif self.max_queues is not None and wanted > self.max_queues:
            raise FrontendError(f"{wanted} queues wanted, the back-end has {self.max_queues}", rule="C031")
        self._num_queues = wanted
        if self._use_back_channel and frontend.has_protocol_feature(ProtocolFeature.BACKEND_REQ):
            self.open_back_channel()
        frontend.set_owner()
        offered = frontend.get_features()
        self.features = offered & self._wanted & ~VHOST_USER_FEATURES

    def open_back_channel(self) -> BackChannel:
        """Make a back channel and hand its other end over; an earlier one is replaced (C098)."""
        frontend = self.frontend
        shmem = {}
        if frontend.has_protocol_feature(ProtocolFeature.SHMEM):
            shmem = frontend.get_shmem_config()
        handler = self._handler or BackChannelHandler()
        handler.num_queues = self._num_queues or 1
        handler.shmem = shmem
        handler.shmem_maps = {}
        if self.iommu is not None and handler.on_iotlb is None:
            handler.on_iotlb = self.iommu.answer
        if handler.on_config_change is None:
            handler.on_config_change = self._config_changed
        channel = BackChannel(
            frontend.session.negotiation, handler, tracer=frontend.tracer, timeout=self.timeout
        )
        try:
            frontend.set_backend_req_fd(channel.backend_socket.fileno())
        except BaseException:
            channel.close()
            raise
        channel.sent()
        self._close_back_channel()
        self.back_channel = channel
        return channel

    def _config_changed(self) -> None:
        self.config_changes += 1
        self.config_changed.set()
        if self.on_config_change is not None:
            self.on_config_change()

    def acknowledge(self) -> None:
        """SET_FEATURES, and FEATURES_OK where there is a status (C131)."""
        frontend = self.frontend
        self.set_status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER)
        frontend.set_features(self.features | (frontend.backend_features & VirtioFeature.PROTOCOL_FEATURES))
        if self._has_status:
            self.set_status(DeviceStatus.FEATURES_OK)
            if not frontend.get_status() & DeviceStatus.FEATURES_OK:
                raise FrontendError(
                    f"the device does not accept the features {self.features:#x}", rule="C131"
                )

    @property
    def packed(self) -> bool:
        """Whether the packed ring was negotiated."""
        return bool(self.features & VirtioFeature.RING_PACKED)

    @property
    def _has_status(self) -> bool:
        return self._use_status and self.frontend.has_protocol_feature(ProtocolFeature.STATUS)

    def set_status(self, bits: int) -> None:
        """Add bits to the device status, by reading and writing as QEMU does; nothing without STATUS."""
        if self._has_status:
            self.frontend.set_status(self.frontend.get_status() | bits)

    def share_memory(self) -> None:
        """Hand the memory over: one SET_MEM_TABLE, or slot by slot."""
        frontend = self.frontend
        regions: Sequence[Region] = self.memory.regions
        if self.iommu is not None:
            regions = self.iommu.attach(frontend, regions)
        slots = self._memory_slots
        can = frontend.has_protocol_feature(ProtocolFeature.CONFIGURE_MEM_SLOTS)
        if slots is None:
            slots = can and len(regions) > SMALL_TABLE
        most = (frontend.max_mem_slots or SMALL_TABLE) if slots else SMALL_TABLE
        if len(regions) > most or (slots and not can):
            raise FrontendError(
                f"{len(regions)} memory regions: the back-end takes {most if can else SMALL_TABLE}",
                rule="C043",
            )
        if self.postcopy is not None:
            self.postcopy.announce(frontend)
            self.postcopy.share(regions, slots=bool(slots))
        elif slots:
            for region in regions:
                frontend.add_mem_reg(region)
        else:
            frontend.set_mem_table(regions)
        self._settle()

    def make_queues(self) -> None:
        """Lay the rings out in memory."""
        for index in range(self._num_queues or 1):
            start = self._first_index if isinstance(self._first_index, int) else self._first_index[index]
            ring = make_ring(
                self.memory,
                self.queue_size,
                self.features,
                index=index,
                start=start,
                polled_kicks=self._polled_kicks,
                polled_calls=self._polled_calls,
            )
            self.queues.append(Queue(ring, self.frontend, indirect=self._use_indirect, timeout=self.timeout))
            self._error_fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._started.append(False)

    def announce_queues(self) -> None:
        """Tell where calls and errors of all queues go, before features and memory are known (C065)."""
        for index, queue in enumerate(self.queues):
            self.send_call(index)
            self.frontend.set_vring_err(index, self._error_fds[queue.index])

    def send_call(self, index: int) -> None:
        """SET_VRING_CALL of one queue; also while it runs (C065)."""
        fd = self.queues[index].ring.call_fd
        self.frontend.set_vring_call(index, fd if fd >= 0 else None)

    def prepare_inflight(self) -> None:
        """Get an in-flight area if one is wanted and offered, or give the old one back (C107)."""
        if not self.frontend.has_protocol_feature(ProtocolFeature.INFLIGHT_SHMFD):
            return
        if self.inflight is None and self._use_inflight:
            self.inflight = self.frontend.get_inflight_fd(len(self.queues), self.queue_size)
        if self.inflight is not None:
            self.frontend.set_inflight_fd(self.inflight)

    def start_queue(self, index: int, *, base: int | None = None) -> None:
        """NUM, BASE, ADDR, KICK with a first kick, and CALL of one queue.

        Without ``base`` a queue goes on where ``stop_queue`` left it (C053), unless its ring was reset since.
        """
        frontend, ring = self.frontend, self.queues[index].ring
        if base is None:
            base = self._stopped_at.get(index, ring.base)
            if not ring.outstanding and resume_base(ring) == ring.base:
                base = ring.base  # as new; after a whole round of the indices that is where it stopped, too
        frontend.set_vring_num(index, ring.size)
        frontend.set_vring_base(index, base)
        self.send_addresses(index)
        frontend.set_vring_kick(index, ring.kick_fd if ring.kick_fd >= 0 else None)
        self._started[index] = True
        if self._inject_kick:
            ring.kick(force=True)
        self.send_call(index)

    def send_addresses(self, index: int, *, flags: int = 0, log_address: int = 0) -> None:
        """SET_VRING_ADDR of one queue; while it runs it turns logging of the used part on or off (C086)."""
        ring = self.queues[index].ring
        gpa = self.frontend.has_protocol_feature(ProtocolFeature.GPA_ADDRESSES)
        descriptor, available, used = (
            address if gpa or self.iommu is not None else self.memory.guest_to_user(address)
            for address in (ring.descriptor_address, ring.driver_address, ring.device_address)
        )
        self.frontend.set_vring_addr(
            index, descriptor=descriptor, available=available, used=used, flags=flags, log_address=log_address
        )

    def enable_queue(self, index: int, *, enabled: bool = True) -> None:
        """SET_VRING_ENABLE, where bit 30 is negotiated; else rings are enabled by themselves (C062).

        As QEMU's net does it, also before ``acknowledge``.
        """
        if self.frontend.session.negotiation.knows_ring_states:
            self.frontend.set_vring_enable(index, enabled)
            self._settle()

    def stop_queue(self, index: int) -> int:
        """GET_VRING_BASE, then take back what the device finished; returns the base."""
        base = self.frontend.get_vring_base(index)
        self._started[index] = False
        self._stopped_at[index] = base
        self.queues[index].reap()
        return base

    def _settle(self) -> None:
        """Without acks a question is the only way to know that what was sent is done."""
        if not self.frontend.has_protocol_feature(ProtocolFeature.REPLY_ACK):
            self.frontend.barrier()
