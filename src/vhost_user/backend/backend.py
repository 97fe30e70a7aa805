"""The contract between the framework and a device: ``VhostUserBackend`` and ``VhostUserBackendMut``.

Method names and meanings are those of rust-vmm's ``vhost-user-backend`` trait. The framework calls the
methods; a device overrides them. Feature and protocol-feature values are plain integers of or-ed bits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from vhost_user.backend.declarations import refuse_arguments
from vhost_user.backend.event_fd import EventFd as EventFd  # noqa: PLC0414  # as ServedBy
from vhost_user.backend.event_fd import HasFileno as HasFileno  # noqa: PLC0414  # as ServedBy
from vhost_user.backend.served_by import ServedBy as ServedBy  # noqa: PLC0414  # others have it from here
from vhost_user.backend.state_hooks import StateHooks
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    import uuid

    from vhost_user.backend.backchannel import BackChannel
    from vhost_user.engine.device.request import Request
    from vhost_user.engine.device.vring import Vring
    from vhost_user.engine.memory.atomic import GuestMemoryAtomic
    from vhost_user.spec.structs import TransferDirection, TransferPhase


class VhostUserBackend(StateHooks):
    """A device, as the framework sees it. Its methods are called from several threads at once.

    Who calls what: ``handle_event`` runs in the worker threads, everything that answers a front-end's message
    in the control thread of the connection. A method that must refuse raises :class:`RequestRefused` (or any
    other exception): the front-end gets a non-zero ack, the log names message and reason, the connection goes
    on (C093).

    ``num_queues``, ``max_queue_size``, ``features``, ``protocol_features`` and ``handle_event`` must be
    defined; the rest may be left alone.
    """

    guard: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    """Held by the framework around every call; does nothing here, see :class:`VhostUserBackendMut`."""

    rerun: bool = True
    """Whether a request may be carried out twice: by a process that was killed before it answered, and by us.

    Where not, such requests come to ``interrupted``. Looked at when the front-end hands over its area.
    """

    def num_queues(self) -> int:
        """Number of virtqueues, 1 to 256. Read once, when the daemon is made: it must not change."""
        raise NotImplementedError(f"{type(self).__name__} must define num_queues()")

    def max_queue_size(self) -> int:
        """Largest ring that SET_VRING_NUM may ask for, in descriptors: a power of two up to 32768.

        Read once.
        """
        raise NotImplementedError(f"{type(self).__name__} must define max_queue_size()")

    def features(self) -> int:
        """Virtio feature bits offered by GET_FEATURES.

        Include ``VirtioFeature.PROTOCOL_FEATURES`` (bit 30), without it there are no protocol features, and
        ``VirtioFeature.VERSION_1``. The driver can only acknowledge what is offered (C026). Asked when the
        daemon is made, which raises TypeError or ValueError for nonsense, and when a session begins, which is
        refused then, with a log line.
        """
        raise NotImplementedError(f"{type(self).__name__} must define features()")

    def protocol_features(self) -> int:
        """Protocol feature bits offered by GET_PROTOCOL_FEATURES. REPLY_ACK is always added.

        Asked when ``features`` is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define protocol_features()")

    def set_event_idx(self, enabled: bool) -> None:
        """Whether VIRTIO_RING_F_EVENT_IDX was negotiated; called for each SET_FEATURES.

        The vrings know it already.
        """

    def update_memory(self, memory: GuestMemoryAtomic) -> None:
        """The memory table changed (SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG).

        ``memory.memory()`` is the new snapshot.

        It is always the same cell. The rings were moved to the new snapshot before this call.
        """

    def handle_event(
        self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
    ) -> bool | None:
        """Something happened: a vring has work or began to run, or a listener's file descriptor is ready.

        ``device_event`` below ``len(vrings)`` is the position in ``vrings``, which are the vrings of this
        worker; ``vrings[device_event].index`` is the queue's number in the device. Higher ids are those of
        ``register_listener``. ``event_set`` holds epoll events (``select.EPOLLIN`` …), ``thread_id`` is the
        number of the worker. Return nothing. Returning True ends that worker, with a warning: nobody serves
        its queues until ``start`` of the daemon; anything else is ignored, with a warning once. Whatever is
        raised, SystemExit included, is logged with queue and worker, and the worker goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} must define handle_event()")

    def acked_features(self, features: int) -> None:
        """The virtio feature bits the driver acknowledged, less vhost-user's own (C030, V048).

        The crate passes those as well: bit 30, of which a device can do nothing, and bit 26 (LOG_ALL), of
        which ``set_dirty_logging`` tells.
        """

    def set_dirty_logging(self, enabled: bool) -> None:
        """VHOST_F_LOG_ALL was acknowledged, or is not any more: a migration begins, or is over (C029, C077).

        Called when it changes, rings may be running. The framework logs what requests and vrings write; only
        a device that writes guest memory by other means has to do anything. At the end of a session that was
        being logged it is called with False, before ``session_ended``.
        """

    def get_config(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the configuration space from ``offset``.

        Any other length is an error reply (C128).
        """
        del offset, size
        return b""

    def set_config(self, offset: int, data: bytes) -> None:
        """The driver writes ``data`` at ``offset`` of the configuration space.

        Refuse read-only fields (C129).
        """
        raise RequestRefused(
            f"{type(self).__name__} has no writable configuration (offset {offset}, {len(data)} bytes)",
            rule="C129",
        )

    def restore_config(self, offset: int, data: bytes) -> None:
        """SET_CONFIG with the live-migration flag: read-only fields are written too (C129).

        Default: as ``set_config``.
        """
        self.set_config(offset, data)

    def set_backend_req_fd(self, backend: BackChannel) -> None:
        """``backend`` sends requests to the front-end (SET_BACKEND_REQ_FD, C098).

        It replaces an earlier one.
        """

    def queues_per_thread(self) -> Sequence[int | Collection[int]]:
        """For each worker thread, its queues: a count of them, or a collection of their indices.

        Counts deal the queues out in order: ``[2, 2, 4]`` gives queues 0 and 1 to worker 0, 2 and 3 to worker
        1, 4 to 7 to worker 2. ``[{0, 2}, {1}]`` names them. Each queue exactly once, or the daemon refuses to
        start. ``queues_from_masks`` turns the crate's bit masks into collections. A worker may have no queues
        and serve listeners only. Default: one worker with all queues.
        """
        return [self.num_queues()]

    def exit_event(self, thread_index: int) -> EventFd | tuple[EventFd, int] | None:
        """An eventfd, or an (eventfd, token) pair, whose writing ends worker ``thread_index``; None for none.

        Asked once, before ``attached``. The framework keeps a duplicate, never reads it, and writes it when
        the daemon is closed (``Worker.send_exit_event``), so that threads of the device may wait for it too;
        the eventfd stays its owner's. The token is free for the owner; the framework ends the worker without
        calling ``handle_event`` for it. A worker that is revived by ``start`` ends at once while its event is
        still written.
        """
        del thread_index
        return None

    # Messages that came to the trait later, and hooks of this framework.

    def reset_device(self) -> None:
        """Back to the initial state (RESET_DEVICE, and SET_STATUS with 0).

        All rings are disabled already (C075).
        """

    def set_status(self, status: int) -> None:
        """The driver changed the device status byte (SET_STATUS, C131); ``DeviceStatus`` names the bits."""

    def get_shared_object(self, identifier: uuid.UUID) -> EventFd | None:
        """A file descriptor of the exported object, or None (GET_SHARED_OBJECT).

        A number is closed once it was sent; of an object with ``fileno()`` a duplicate is sent.
        """
        del identifier
        raise RequestRefused("this device exports no shared objects", rule="C097")

    def set_gpu_socket(self, socket_fd: int) -> None:
        """Take over the socket of the vhost-user-gpu protocol (GPU_SET_SOCKET)."""
        raise RequestRefused(f"this device is not a gpu (socket {socket_fd})", rule="C024")

    def set_device_state_fd(
        self, direction: TransferDirection, phase: TransferPhase, fd: int
    ) -> EventFd | None:
        """Begin to save or load the device's state over ``fd``.

        ``fd`` is the device's to close once this returns; when it raises the framework does. Must not block
        (C124). Return another file descriptor to use instead (handed over as in ``get_shared_object``), or
        None. Refused by default (C122).

        For a device that moves its state by itself. With ``save_state`` and ``load_state`` the framework
        does.
        """
        del direction, phase, fd
        raise RequestRefused("this device does not move its state", rule="C122")

    def check_device_state(self) -> None:
        """Wait for the end of the transfer; raise if it failed (C125)."""
        raise RequestRefused("this device does not move its state", rule="C125")

    def get_shmem_config(self) -> dict[int, int]:
        """Sizes in bytes of the VIRTIO shared memory regions by id; constant for a connection (C105)."""
        raise RequestRefused("this device has no shared memory regions", rule="C105")

    def set_mtu(self, mtu: int) -> None:
        """NET_SET_MTU: the guest's MTU in bytes."""
        raise RequestRefused(f"this device has no MTU ({mtu})", rule="C024")

    def send_rarp(self, mac: bytes) -> None:
        """SEND_RARP: announce the guest's MAC address (6 bytes) after a migration."""
        raise RequestRefused(f"this device announces no MAC address ({mac.hex(':')})", rule="C024")

    def create_crypto_session(self, op_code: int, body: bytes) -> int:
        """Open a crypto session (CREATE_CRYPTO_SESSION): its id, not negative.

        ``body`` is what stands between the op code and the session id: the set-up and the keys, laid out as
        the front-end has them. Whoever reads lengths in it bounds them (H06).
        """
        raise RequestRefused(
            f"this device has no crypto sessions (op code {op_code}, {len(body)} bytes)", rule="C024"
        )

    def close_crypto_session(self, session: int) -> None:
        """Close a crypto session (CLOSE_CRYPTO_SESSION)."""
        raise RequestRefused(f"this device has no crypto sessions ({session})", rule="C024")

    # The life of a queue

    def max_queue_size_of(self, queue: int) -> int:
        """Largest ring of this queue, in descriptors. Read once. Default: ``max_queue_size()``."""
        del queue
        return self.max_queue_size()

    def vring_started(self, queue: int) -> None:
        """The ring runs from now on (C050)."""

    def vring_stopping(self, queue: int) -> float | None:
        """The ring stopped: nothing more is taken from it, requests in flight are waited for (C053, C054).

        Give the seconds they may take: 0 for buffers that only wait for something to happen; None, the
        default, for as long as they need, as with a disk whose writes must not come later. Complete what
        you can.
        """
        del queue
        return None

    def vring_overdue(self, queue: int) -> None:
        """The seconds of ``vring_stopping`` are over: what does not end soon is given back to the driver."""

    def vring_stopped(self, queue: int) -> None:
        """Nothing of the ring is in flight any more. Requests that were given back can no longer be used."""

    def interrupted(self, request: Request) -> bool | None:
        """``request`` was being carried out when the process before us ended, and ``rerun`` is False.

        Answer it, or return True: then it is handled as if it were new. Called in the worker, for such
        requests of a queue in the order in which they were taken, before all others. What a device takes with
        ``Vring.pop`` does not pass here: ``Request.recovered`` tells.
        """
        request.complete(0)
        return None

    def attached(self, daemon: ServedBy) -> None:
        """A daemon was made for this device: its vrings and workers exist, nothing runs yet.

        A device has one daemon at a time; a second one is refused before this is called.
        """

    def daemon_made(self) -> None:
        """The last step of making the daemon, after ``attached``: what it raises refuses the daemon."""

    def driver_ready(self) -> None:
        """The driver is ready, once a session, after each reset, and after ``driver_gone`` (C131, C132).

        That is when it said DRIVER_OK, or, with a front-end that does not tell its status, when the first
        ring runs. Called in the control thread.
        """

    def driver_gone(self) -> None:
        """All rings stopped, and one begins elsewhere than it stopped: a guest has booted again.

        For front-ends that tell of no reset then, as QEMU for most devices. A reset and the end of the
        session are told by ``reset_device`` and ``session_ended`` instead.
        """

    def session_ended(self) -> None:
        """The connection ended: rings are stopped, requests are gone, the memory is closed (C134).

        ``session_end_reason`` of the daemon (see ``attached``) says why.
        """

    def close(self) -> None:
        """The daemon ended for good. The daemon calls it, once; nobody else needs to.

        Not called while a call into the device has not returned (see ``VhostUserDaemon.close``).
        """


class VhostUserBackendMut(VhostUserBackend):
    """A device that is never called by two threads at once: the framework holds one lock around every call.

    Workers of such a device wait for each other. A method may call the others: the lock can be taken again by
    the thread that has it.
    """

    guard: contextlib.AbstractContextManager[object]

    def __new__(
        cls, *arguments: Any, **keywords: Any
    ) -> VhostUserBackendMut:  # Self needs a cast in every subclass
        """Make the lock here, so that a subclass may forget ``super().__init__()``."""
        refuse_arguments(cls, arguments, keywords)
        instance = super().__new__(cls)
        instance.guard = threading.RLock()
        return instance


DEFAULT_FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.RING_EVENT_IDX
    | VirtioFeature.RING_INDIRECT_DESC
    | VirtioFeature.PROTOCOL_FEATURES
    | VirtioFeature.LOG_ALL
)
"""What the framework does for every device without its help.

RING_RESET is not among them, though the framework can do it: the reset of one queue is SET_VRING_ENABLE 0 and
GET_VRING_BASE (V045), and QEMU up to 11.1 shows the feature to drivers and sends neither, so that the queue
is dead after it. No message tells which front-end forwards it. A device whose front-end does adds
``VirtioFeature.RING_RESET`` to its features.
"""

DEFAULT_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.GET_VRING_BASE_INFLIGHT
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
"""Protocol features that every device can have.

Never INBAND_NOTIFICATIONS nor XEN_MMAP, which QEMU would acknowledge blindly.
"""
