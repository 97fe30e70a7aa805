"""What one session knows: negotiated features, memory, rings, back channel.

The groups of requests work on it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vhost_user.backend.draining import Draining
from vhost_user.backend.in_band import InBand
from vhost_user.backend.inflight_tracking import InflightTracking
from vhost_user.backend.iommu import Translator
from vhost_user.backend.kept_files import KeptFiles
from vhost_user.backend.postcopy import PostCopy
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest

if TYPE_CHECKING:
    from vhost_user.backend.backchannel import BackChannel
    from vhost_user.backend.backend import VhostUserBackend
    from vhost_user.backend.ring import Ring
    from vhost_user.backend.state_transfer import StateTransfer
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.protocol.negotiation import Negotiation
    from vhost_user.protocol.trace import Tracer

log = logging.getLogger("vhost_user.backend")

PREPARATIONS = frozenset(
    {
        FrontendRequest.SET_FEATURES,
        FrontendRequest.SET_MEM_TABLE,
        FrontendRequest.ADD_MEM_REG,
        FrontendRequest.SET_VRING_NUM,
        FrontendRequest.SET_VRING_ADDR,
        FrontendRequest.SET_VRING_BASE,
    }
)
"""What a front-end sends only before it starts rings.

SET_VRING_CALL is not among them: QEMU masks interrupts with it after a stop.
"""


class SessionEnded(Exception):  # noqa: N818  # not an error: the front-end left or somebody called stop()
    """The session ends while a message is carried out: no reply, straight to the teardown."""


class SessionState:
    """Shared by the groups of requests of one session, and used by its control thread only.

    ``interrupted`` tells whether the session is to end at once: the peer has gone, or ``stop`` was called.
    """

    def __init__(  # noqa: PLR0917  # they are what a session is made of
        self,
        name: str,
        backend: VhostUserBackend,
        rings: Sequence[Ring],
        memory: GuestMemoryAtomic,
        negotiation: Negotiation,
        interrupted: Callable[[], bool] = lambda: False,
        report: LimitedLog | None = None,
    ) -> None:
        self.name = name
        self.report = LimitedLog(log) if report is None else report
        """For every line that a front-end can provoke (H91)."""
        self.backend = backend
        self.rings = rings
        self.memory = memory
        self.negotiation = negotiation
        self.interrupted = interrupted
        self.bitmap = Bitmap()
        self.files = KeptFiles()
        self.features_refused = False
        """The last SET_FEATURES was refused, by the session or by the device (C131)."""
        self.status: int | None = None
        self.channel: BackChannel | None = None
        self.transfer: StateTransfer | None = None
        """Of the device's state, from SET_DEVICE_STATE_FD to CHECK_DEVICE_STATE."""
        self.tracer: Tracer | None = None
        """Told of every message of the back channel; of the main channel the protocol's session tells it."""
        self.owned = False
        """SET_OWNER came."""
        self._ran = False
        """A ring has run since the last SET_OWNER."""
        self._prepared = False
        """Something that rings need was set since the last of them stopped."""
        self._driver_ready = False
        """The device knows that the driver is ready."""
        self.channel_is_new = False
        """The back channel came after the last ring had stopped."""
        self.iommu: Translator | None = None
        """ACCESS_PLATFORM is negotiated: addresses of the driver are IOVAs (C088)."""
        self.nudge: Callable[[], object] = lambda: None
        """Have the control thread look around, from any thread."""
        self.allow_remote_memory = False
        """Memory may lie on a network or user-space file system."""
        self.own_socket: tuple[int, int] | None = None
        """Device and inode of the session's connection, once it is served: no doorbell (H89)."""
        self._in_band: InBand | None = None
        self.draining = Draining(self)
        self.inflight = InflightTracking(self)
        self.postcopy = PostCopy(self)
        for ring in rings:
            ring.on_absent = self.postcopy.bring
        self._snapshots: weakref.WeakSet[GuestMemory] = weakref.WeakSet()
        """Every table of this session that somebody may still hold, a request for example."""
        self._install(GuestMemory((), self.bitmap))

    @property
    def event_idx(self) -> bool:
        """VIRTIO_RING_F_EVENT_IDX is in force."""
        return self.negotiation.has_feature(VirtioFeature.RING_EVENT_IDX)

    @property
    def in_band(self) -> InBand | None:
        """Doorbells for rings that have none; None where INBAND_NOTIFICATIONS is not in force (C133)."""
        if self._in_band is None and self.negotiation.has_protocol_feature(
            ProtocolFeature.INBAND_NOTIFICATIONS
        ):
            self._in_band = InBand(self.name, lambda: self.channel, self.report)
        return self._in_band

    @property
    def guest_ring_addresses(self) -> bool:
        """SET_VRING_ADDR carries guest addresses (C046)."""
        return self.negotiation.has_protocol_feature(ProtocolFeature.GPA_ADDRESSES)

    @property
    def all_stopped(self) -> bool:
        """All rings are stopped: the device must keep quiet (C076)."""
        return not any(ring.vring.started for ring in self.rings)

    def ring(self, index: int) -> Ring:
        """The ring of a message; the dispatcher has checked the index (C069)."""
        return self.rings[index]

    def set_memory(self, memory: GuestMemory) -> None:
        """Install a snapshot: in the cell, in the rings, in the back-end."""
        if self.iommu is not None:
            self.iommu.memory_changed(memory)
        self._install(memory)
        for ring in self.rings:
            ring.memory_changed(memory, guest=self.guest_ring_addresses, event_idx=self.event_idx)
        with self.backend.guard:
            self.backend.update_memory(self.memory)
        if self.iommu is not None:
            for ring in self.rings:
                self.iommu.ring_changed(ring)

    def set_translating(self, translating: bool) -> None:  # what SET_FEATURES says
        """ACCESS_PLATFORM was acknowledged, or is not any more; not while rings run (C034, C088)."""
        if translating == (self.iommu is not None):
            return
        if not self.all_stopped:
            raise RequestRefused("ACCESS_PLATFORM cannot change while rings run", rule="C029")
        if translating and self.postcopy.active:
            raise RequestRefused("ACCESS_PLATFORM and post-copy do not go together", rule="C118")
        if translating:
            needed = (ProtocolFeature.BACKEND_REQ, ProtocolFeature.REPLY_ACK)
            if not all(self.negotiation.has_protocol_feature(feature) for feature in needed):
                raise RequestRefused("ACCESS_PLATFORM needs BACKEND_REQ and REPLY_ACK", rule="C034")
            self.iommu = Translator(self)
        else:
            self._end_translating()

    def _end_translating(self) -> None:
        if self.iommu is not None:
            self.iommu.end()
            self.iommu = None

    def _install(self, memory: GuestMemory) -> None:
        self._snapshots.add(memory)
        self.memory.replace(memory)
        self.files.prune(memory.regions)

    def quiet_down_or_wake(self) -> None:
        """A ring started or stopped: tell the back channel whether it may send (C076, C130)."""
        if not self.all_stopped:
            self._ran = True
            self._prepared = self.channel_is_new = False
        if self.channel is not None:
            self.channel.keep_quiet(self.all_stopped)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around the start of a ring: what is sent because of it waits until it is sure whether it runs."""
        if self.channel is not None:
            self.channel.await_start()
        try:
            yield
        finally:
            self.quiet_down_or_wake()

    def prepares(self, request: int) -> None:
        """Note that ``request`` was carried out; what it set belongs to the rings that will start next."""
        if request in PREPARATIONS and self.all_stopped:
            self._prepared = True

    def take_ownership(self) -> None:
        """SET_OWNER; a second one, when rings have run and all are stopped, begins anew (C032).

        QEMU keeps the connection when a device is unplugged, and the next that is plugged in at the same
        chardev knows nothing of the life before it: its memory regions would overlap those of then (C037).
        It negotiates protocol features and opens its back channel *before* SET_OWNER: those stay, and so does
        everything when rings were already being set up, which then is for whoever sends SET_OWNER late.
        """
        again, self.owned = self.owned, True
        if not (again and self._ran and self.all_stopped) or self._prepared:
            return
        self._ran = False
        if self.channel is not None and not self.channel_is_new:
            self.channel.close()
            self.channel = None
        self._end_translating()
        self._forget_guest()
        self._install(GuestMemory((), self.bitmap))
        self.negotiation.forget_features()
        self.features_refused = self._driver_ready = False
        self.status = None
        self.set_logging(False)
        with self.backend.guard:
            self.backend.update_memory(self.memory)
            self.backend.reset_device()
        self.report.info("%s: SET_OWNER came again: the device begins anew", self.name)

    def set_logging(self, enabled: bool) -> None:
        """Whether writes are logged (C077): a migration begins or is over."""
        if enabled != self.bitmap.enabled:
            self.bitmap.enabled = enabled
            with self.backend.guard:
                self.backend.set_dirty_logging(enabled)

    def hold_until_driver_ok(self) -> None:
        """With a front-end that tells the driver's progress nothing is consumed before DRIVER_OK (C132).

        QEMU sets FEATURES_OK alone for every device and, for those of its generic kind (rng, gpio, …), never
        anything else; only one that says DRIVER is about to say DRIVER_OK.
        """
        status = self.status or 0
        held = bool(status & DeviceStatus.DRIVER) and not status & DeviceStatus.DRIVER_OK
        for ring in self.rings:
            ring.hold(held)

    def must_go_on(self, doing: str) -> None:
        """Raise SessionEnded when the session is to end at once."""
        if self.interrupted():
            raise SessionEnded(doing)

    def tell(self, method: str, ring: Ring) -> object:
        """Call a hook of the device. What it raises is told, and keeps no ring from stopping."""
        try:
            with self.backend.guard:
                return getattr(self.backend, method)(ring.index)
        except BaseException as error:  # noqa: BLE001  # SystemExit too
            self.report.log(
                logging.ERROR, "%s: %s failed for queue %d", self.name, method, ring.index, exception=error
            )
            return None

    def ring_is_up(self, ring: Ring, *, new: bool = True) -> None:
        """A ring was started, or was given another kick."""
        if self.iommu is not None:
            self.iommu.ring_changed(ring)
        if new:
            self.inflight.tell_of(ring)
            self.ring_started(ring)
        self.tell_if_ready()

    def ring_started(self, ring: Ring) -> None:
        """Tell the device."""
        self.tell("vring_started", ring)

    def tell_if_ready(self) -> None:
        """Tell the device, once, that the driver is ready: it said so, or a ring runs (C131, C132)."""
        said = bool((self.status or 0) & DeviceStatus.DRIVER_OK)
        if self._driver_ready or not (said or any(ring.vring.runnable for ring in self.rings)):
            return
        self._driver_ready = True
        self._inform("driver_ready")

    def driver_gone(self) -> None:
        """Tell the device, if it knew of a driver, that the next one is another."""
        if self._driver_ready:
            self._driver_ready = False
            self._inform("driver_gone")

    def _inform(self, method: str) -> None:
        try:
            with self.backend.guard:
                getattr(self.backend, method)()
        except BaseException as error:  # noqa: BLE001  # as in _tell
            self.report.log(logging.ERROR, "%s: %s failed", self.name, method, exception=error)

    def end_transfer(self) -> None:
        """Give up the transfer of the device's state, if there is one."""
        transfer, self.transfer = self.transfer, None
        if transfer is not None:
            transfer.cancel()

    def reset(self) -> None:
        """RESET_DEVICE and SET_STATUS 0: rings disabled, requests over, the device as new.

        The rest stays (C075, C131).
        """
        for ring in self.rings:
            ring.set_enabled(False)
        self.draining.give_up(self.rings)
        for ring in self.rings:
            ring.vring.recovery.forget()
        self.features_refused = self._driver_ready = False
        with self.backend.guard:
            self.backend.reset_device()

    def end(self) -> None:
        """Undo everything of this session, in order (C134). Called once, whatever ended it."""
        running = [ring for ring in self.rings if ring.vring.started or ring.vring.in_flight]
        for ring in self.rings:
            ring.stop()
        self.draining.give_up(running)
        self.postcopy.abandon()
        self.end_transfer()
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self._end_translating()
        if self._in_band is not None:
            self._in_band.close()
            self._in_band = None
        self._forget_guest()
        self.memory.replace(GuestMemory())
        try:
            self.set_logging(False)
        finally:
            with self.backend.guard:
                self.backend.session_ended()

    def _forget_guest(self) -> None:
        """Rings as new, no memory, no log."""
        for ring in self.rings:
            ring.forget()
            if self._in_band is not None:
                self._in_band.forget(ring.index)
        self.inflight.set(None)
        # A device may keep requests of tables that were replaced long ago: their mappings go too.
        for memory in list(self._snapshots):
            memory.close()
        self.files.close()
        self.bitmap.unmap()
        self.bitmap.set_notify(None)
