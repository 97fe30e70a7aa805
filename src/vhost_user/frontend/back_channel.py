"""The front-end's end of the back channel: requests of a back-end that is not trusted (H106 to H108).

The rules are C098 to C105.
"""

import contextlib
import logging
import mmap
import os
import select
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable

from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, RequestRefused
from vhost_user.protocol.fds import close_all
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.protocol.negotiation import Negotiation
from vhost_user.protocol.responder import ReceivedMessage, Refusal
from vhost_user.protocol.sessions import BackChannelResponder
from vhost_user.protocol.trace import Tracer
from vhost_user.protocol.transport import Connection
from vhost_user.spec.structs import U64, Iotlb, SharedUuid, ShmemMap, VringArea, VringState

logger = logging.getLogger("vhost_user")
_report = LimitedLog(logger)
"""For what a back-end can provoke with every message."""

MAX_RATE = 10_000
"""Requests a second that are served; a faster back-end is made to wait (H106)."""


class BackChannelHandler:
    """What the front-end does about requests of the back-end; override what matters.

    Methods run in the channel's thread, one at a time, and may use the main channel. They raise
    RequestRefused to refuse. ``num_queues`` bounds queue indices; ``shmem`` gives the sizes of the shared
    memory regions by shmid.
    """

    def __init__(self, *, num_queues: int = 256, shmem: dict[int, int] | None = None) -> None:
        self.num_queues = num_queues
        self.shmem = shmem or {}
        self.on_config_change: Callable[[], object] | None = None
        self.on_call: Callable[[int], object] | None = None
        self.on_iotlb: Callable[[Iotlb], object] | None = None
        self.shmem_maps: dict[int, list[ShmemMap]] = {}
        self.shared_objects: set[uuid.UUID] = set()
        self.shared_object_lookups: dict[uuid.UUID, Callable[[], int]] = {}
        """Objects that other devices export: what makes a new descriptor of each."""

    def config_change_msg(self) -> None:
        """The configuration space changed: read it again (C130)."""
        if self.on_config_change is not None:
            self.on_config_change()

    def iotlb_msg(self, iotlb: Iotlb) -> None:
        """An IOTLB entry is missing, or an access failed (C090)."""
        if self.on_iotlb is None:
            raise RequestRefused("there is no IOMMU here", rule="C090")
        self.on_iotlb(iotlb)

    def vring_host_notifier_msg(self, area: VringArea, fd: int | None) -> None:
        """A doorbell page for a queue; its size must be one page (H108). ``fd`` is closed afterwards."""
        self.check_queue(area.index)
        if fd is not None and area.size != mmap.PAGESIZE:
            raise RequestRefused(f"a doorbell of {area.size} bytes is not one page", rule="H108")

    def vring_call(self, state: VringState) -> None:
        """Used buffers, as a message (C133)."""
        self.check_queue(state.index)
        if self.on_call is not None:
            self.on_call(state.index)

    def vring_err(self, state: VringState) -> None:
        """A ring is broken, as a message (C133)."""
        self.check_queue(state.index)
        _report.warning("the back-end says that queue %d is broken", state.index)

    def shared_object_add(self, identifier: uuid.UUID) -> None:
        """Export an object."""
        if len(self.shared_objects) >= 1024:
            raise RequestRefused("1024 shared objects are enough", rule="C101")
        self.shared_objects.add(identifier)

    def shared_object_remove(self, identifier: uuid.UUID) -> None:
        """Take an object back; only one that this back-end exported (C103)."""
        if identifier not in self.shared_objects:
            raise RequestRefused(f"{identifier} is not an object of this back-end", rule="C103")
        self.shared_objects.discard(identifier)

    def shared_object_lookup(self, identifier: uuid.UUID) -> int:
        """A new descriptor of the dmabuf behind ``identifier``; it is closed after sending."""
        if (make := self.shared_object_lookups.get(identifier)) is None:
            raise RequestRefused(f"there is no object {identifier}", rule="C103")
        return make()

    def shmem_map(self, request: ShmemMap, fd: int) -> None:
        """Map a file into a shared memory region.

        ``fd`` is closed afterwards, so duplicate what you keep (C104, H107).
        """
        self.check_map(request, fd)
        self.shmem_maps.setdefault(request.shmid, []).append(request)

    def shmem_unmap(self, request: ShmemMap) -> None:
        """Remove one whole earlier mapping (C104)."""
        maps = self.shmem_maps.get(request.shmid, [])
        for position, earlier in enumerate(maps):
            if (earlier.shm_offset, earlier.length) == (request.shm_offset, request.length):
                del maps[position]
                return
        raise RequestRefused(
            f"{request.shm_offset:#x}+{request.length:#x} of region {request.shmid} is not a whole mapping",
            rule="C104",
        )

    def check_queue(self, index: int) -> None:
        """Refuse a queue that is not there (C101)."""
        if index >= self.num_queues:
            raise RequestRefused(f"there is no queue {index}, only {self.num_queues}", rule="C101")

    def check_map(self, request: ShmemMap, fd: int) -> None:
        """Refuse a mapping outside its region, overlapping another, or beyond its file (C104, H107)."""
        size = self.shmem.get(request.shmid, 0)
        where = f"{request.shm_offset:#x}+{request.length:#x} of region {request.shmid}"
        if request.shm_offset + request.length > size:
            raise RequestRefused(f"{where} is outside: the region has {size:#x} bytes", rule="H107")
        if (request.shm_offset | request.fd_offset | request.length) % mmap.PAGESIZE:
            raise RequestRefused(f"{where} is not aligned to pages", rule="C104")
        for other in self.shmem_maps.get(request.shmid, []):
            if (
                request.shm_offset < other.shm_offset + other.length
                and other.shm_offset < request.shm_offset + request.length
            ):
                raise RequestRefused(f"{where} overlaps {other.shm_offset:#x}+{other.length:#x}", rule="H107")
        have = os.fstat(fd).st_size
        if request.fd_offset + request.length > have:
            raise RequestRefused(f"{where} is beyond the end of its file of {have:#x} bytes", rule="H107")


class BackChannel:
    """Serves the back channel in a thread of its own, so that it goes on while the main channel waits (C102).

    ``backend_socket`` is the end to hand over with SET_BACKEND_REQ_FD; ``sent`` closes ours of it. ``counts``
    counts requests by name, ``refused`` keeps the reasons of the last refusals, ``error`` why the channel
    ended, if it broke.
    """

    def __init__(
        self,
        negotiation: Negotiation,
        handler: BackChannelHandler,
        *,
        tracer: Tracer | None = None,
        timeout: float = 10.0,
        maximum_rate: int = MAX_RATE,
    ) -> None:
        ours, self.backend_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.handler = handler
        self.counts: Counter[str] = Counter()
        self.refused: list[str] = []
        self.throttled = 0
        self.error: Exception | None = None
        self._maximum_rate = maximum_rate
        self._connection = Connection(ours, timeout=timeout)
        self._session = BackChannelResponder(negotiation, tracer=tracer)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="vhost-user back channel", daemon=True)
        self._thread.start()

    def sent(self) -> None:
        """The back-end has its end: close our copy."""
        self.backend_socket.close()

    @property
    def alive(self) -> bool:
        """Whether the channel is served."""
        return self._thread.is_alive()

    def settled(self, timeout: float) -> bool:
        """Wait until nothing that the back-end has sent is left to be read; False if that takes longer."""
        deadline = time.monotonic() + timeout
        while self.alive and select.select([self._connection.fileno()], [], [], 0)[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def close(self) -> None:
        """End the thread and close everything. May be called again, but not from a handler."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._connection.shutdown()
        self._thread.join()
        os.close(self._stop)
        self._stop = -1
        self.backend_socket.close()

    def _run(self) -> None:
        window, served = time.monotonic(), 0
        try:
            while True:
                request = self._connection.receive(self._session, stop=self._stop)
                if request is None:
                    return
                self._serve(request)
                served += 1
                now = time.monotonic()
                if now - window >= 1:
                    window, served = now, 0
                elif served >= self._maximum_rate and not self._pause(window + 1 - now):
                    return
        except (Disconnected, PeerTimeout):
            return
        except ProtocolError as error:
            self.error = error
            logger.warning("back channel closed: %s", error)
        finally:
            self._session.close()
            self._connection.close()

    def _pause(self, seconds: float) -> bool:
        """Let a flooding back-end wait in its full socket; False when the channel is to end."""
        if not self.throttled:
            logger.warning(
                "back channel: more than %d requests a second, slowing the back-end down [H106]",
                self._maximum_rate,
            )
        self.throttled += 1
        return not select.select([self._stop], [], [], seconds)[0]

    def _serve(self, request: ReceivedMessage | Refusal) -> None:
        if isinstance(request, Refusal):
            self._note(str(request.error))
            self._connection.send(request.response)
            return
        self.counts[request.name] += 1
        answer_fds: list[int] = []
        try:
            try:
                self._handle(request, answer_fds)
            except RequestRefused as refused:
                self._note(f"{request.name}: {refused.reason} [{refused.rule}]")
                answer = self._session.refuse(request, refused)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises, the channel goes on
                _report.exception("back channel: the handler of %s failed", request.name)
                answer = self._session.refuse(
                    request, RequestRefused(f"handler failed: {error}", rule="C101")
                )
            else:
                answer = self._session.reply(request, U64(0) if answer_fds else None, answer_fds)
            self._connection.send(answer)
        finally:
            close_all(answer_fds)

    def _handle(self, request: ReceivedMessage, answer_fds: list[int]) -> None:
        handler, payload = self.handler, request.payload
        match request.row.handler, payload:
            case "shared_object_lookup", SharedUuid():
                answer_fds.append(handler.shared_object_lookup(payload.uuid))
            case ("shared_object_add" | "shared_object_remove") as name, SharedUuid():
                getattr(handler, name)(payload.uuid)
            case ("vring_host_notifier_msg" | "shmem_map") as name, _:
                getattr(handler, name)(payload, request.fds.first)  # closed with the request
            case "config_change_msg", _:
                handler.config_change_msg()
            case name, _:
                getattr(handler, name)(payload)

    def _note(self, reason: str) -> None:
        self.refused.append(reason)
        del self.refused[:-100]

    def __enter__(self) -> "BackChannel":
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(RuntimeError):
            self.close()
