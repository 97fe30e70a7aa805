"""The in-process virtio driver: brings a back-end up as QEMU does, and drives its queues."""

import logging
import os
import select
from types import TracebackType
from typing import Self

from vhost_user.engine.errors import DeviceBroken
from vhost_user.frontend.bring_up import DEFAULT_PROTOCOL_FEATURES, BringUp, Target
from vhost_user.frontend.errors import FrontendError
from vhost_user.frontend.queue import Queue
from vhost_user.frontend.rings import resume_base
from vhost_user.protocol.errors import VhostUserError
from vhost_user.protocol.negotiation import bit_names
from vhost_user.spec.features import DeviceStatus, ProtocolFeature, VirtioFeature

log = logging.getLogger("vhost_user.frontend")

CONFIG_CHUNK = 256
"""Bytes that one GET_CONFIG asks for at most: more is too much for libvhost-user."""


class VirtioDriver(BringUp):
    """A virtio driver on a back-end: negotiation, memory, rings.

    ``bring_up`` is called by ``with`` and by the device drivers.

    ``target`` is the path of a socket (``listen``: at which the back-end connects to us), a connected socket,
    or a Frontend; it is owned from now on. ``num_queues`` None takes all that GET_QUEUE_NUM offers.
    ``features`` are device feature bits wanted if offered, ``require`` such that must be; ring features are
    chosen by name. ``packed`` None takes a packed ring when offered. ``start`` is the first ring index
    (split) or base (packed), for all or by queue. ``memory_slots`` chooses ADD_MEM_REG over SET_MEM_TABLE;
    None uses it when it must. With ``iommu`` every address of the driver passes through it (C088), with
    ``postcopy`` the memory is handed over as one whose pages come when they are asked for (C118).
    ``timeout`` is in seconds.
    """

    _closed = False

    # the whole way up and down

    def bring_up(self) -> Self:
        """Negotiate, share memory, start the queues; nothing if that is done already.

        On failure everything is closed. Raises FrontendError after ``close``.
        """
        if self.queues:
            return self
        if self._closed:
            raise FrontendError("this driver is closed and its memory is gone: make a new one")
        try:
            self.introduce()
            for index in range(len(self.queues)):
                self.start_queue(index)
            for index in range(len(self.queues)):
                self.enable_queue(index)
            self.set_status(DeviceStatus.DRIVER_OK)
        except BaseException:
            self.close()
            raise
        return self

    def introduce(self) -> None:
        """The part of ``bring_up`` before the queues start: all that the device is told but the rings."""
        self.negotiate()
        self.make_queues()
        self.announce_queues()
        self.acknowledge()
        self.prepare_inflight()
        self.share_memory()

    def tear_down(self) -> list[int]:
        """Stop every queue the way QEMU does; returns the ring bases (C053, C064).

        What the device finished is taken back. A queue that was stopped before is not asked again: its base
        is the one it gave then, 0 if it never ran.
        """
        for index in range(len(self.queues)):
            self.enable_queue(index, enabled=False)
        for index, started in enumerate(self._started):
            if started:
                self.stop_queue(index)
        if self._has_status:
            self.frontend.set_status(0)
        return [self._stopped_at.get(index, 0) for index in range(len(self.queues))]

    def reconnect(self, target: Target | None = None, *, retry_seconds: float = 10.0) -> None:
        """Go on after the back-end went away.

        Connect again, replay everything, hand in what was in flight (C138).

        With an in-flight area the rings stay as they are and the back-end takes up what it did not finish;
        without one they start afresh and every request without an answer is handed in again. Waiters go on
        waiting.
        """
        self._close_back_channel()
        self.frontend.close()
        for queue in self.queues:
            queue.reap()
        self._started = [False] * len(self.queues)
        self._stopped_at.clear()
        self.frontend = self._open(self._target if target is None else target, retry_seconds=retry_seconds)
        keep_rings = self.inflight is not None
        self.negotiate()
        self.announce_queues()
        self.acknowledge()
        self.prepare_inflight()
        self.share_memory()
        for queue in self.queues:
            queue.channel = self.frontend
            if not keep_rings:
                queue.restart()
        for index, queue in enumerate(self.queues):
            self.start_queue(index, base=resume_base(queue.ring) if keep_rings else None)
        for index in range(len(self.queues)):
            self.enable_queue(index)
        self.set_status(DeviceStatus.DRIVER_OK)
        for queue in self.queues:
            queue.ring.kick(force=True)

    def close(self) -> None:
        """Stop the queues if nothing is in flight and the back-end is there, then close everything.

        With requests in flight the connection is just closed: a device that never answers must not stop us.
        A ring that the device is found to have broken is logged. May be called again.
        """
        try:
            idle = not any(queue.ring.outstanding for queue in self.queues)
            if idle and any(self._started) and not self.frontend.hung_up():
                self.tear_down()
        except DeviceBroken as error:
            log.warning("while closing: %s", error)
        except (VhostUserError, OSError):
            pass  # it is going away anyway; what matters is that nothing of ours stays
        finally:
            self._closed = True
            self._close_back_channel()
            self.frontend.close()
            for queue in self.queues:
                queue.close()
            self.queues = []
            for fd in self._error_fds:
                os.close(fd)
            self._error_fds = []
            if self.postcopy is not None:
                self.postcopy.close()
            if self.inflight is not None:
                self.inflight.close()
                self.inflight = None
            self._release_memory()

    def __enter__(self) -> Self:
        return self if self.queues else self.bring_up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # use

    def queue(self, index: int = 0) -> Queue:
        """Queue ``index``."""
        return self.queues[index]

    def request(
        self, readable: bytes = b"", writable: int = 0, *, queue: int = 0, timeout: float | None = None
    ) -> bytes:
        """One request on one queue: what the device wrote."""
        return self.queues[queue].request(readable, writable, timeout=timeout)

    def queue_broken(self, index: int) -> bool:
        """Whether the back-end signalled the err descriptor of this queue since last asked."""
        fd = self._error_fds[index]
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0)) and os.eventfd_read(fd) > 0

    def read_config(self, offset: int = 0, size: int = CONFIG_CHUNK) -> bytes:
        """Read the configuration space in pieces of 256 bytes."""
        end = offset + size
        pieces = range(offset, end, CONFIG_CHUNK)
        return b"".join(self.frontend.get_config(at, min(CONFIG_CHUNK, end - at)) for at in pieces)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space; RequestRefused for a read-only field (C129)."""
        self.frontend.set_config(offset, data)

    def describe(self) -> str:
        """The state of everything in words, with the last messages: for failure output."""
        lines = [
            f"features {self.features:#x} ({bit_names(self.features, VirtioFeature)})",
            f"protocol features {bit_names(self.frontend.protocol_features, ProtocolFeature)}",
            *(f"memory {region!r}" for region in self.memory.regions),
            *(queue.ring.describe() for queue in self.queues),
            "last messages:",
            *(f"  {line}" for line in self.frontend.trace.lines()),
        ]
        return "\n".join(lines)


__all__ = ["DEFAULT_PROTOCOL_FEATURES", "Target", "VirtioDriver"]
