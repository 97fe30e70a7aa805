"""``Device``: the class most devices are written with. It is a :class:`VhostUserBackend` like any other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from vhost_user.backend.backend import DEFAULT_FEATURES, DEFAULT_PROTOCOL_FEATURES
from vhost_user.backend.config import Config
from vhost_user.backend.declarations import (
    CHECKS,
    check,
    check_all,
    check_class,
    refuse_arguments,
    type_name,
)
from vhost_user.backend.device_life import DeviceLife
from vhost_user.backend.handling import log
from vhost_user.backend.shared_memory import SharedMemory
from vhost_user.backend.shared_objects import SharedObjects
from vhost_user.device_types.qemu import qemu_device
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec.features import ProtocolFeature, VirtioFeature

if TYPE_CHECKING:
    import uuid

    from vhost_user.backend.backchannel import BackChannel
    from vhost_user.backend.backend import EventFd, ServedBy
    from vhost_user.engine.device.vring import Vring


ControlCommand: TypeAlias = tuple[str, Callable[..., object], str]
"""Name, function and summary of a command of the control socket."""


class Device(DeviceLife):
    """A virtio device: declare what it is, write ``handle``, override more only where needed.

    Declarations are class attributes; each can also be given in the class statement (``class Dice(Device,
    type="rng")``) or set on the instance before the daemon is made. What makes no sense is refused where it
    is said, with the attribute and the fix. ``handle`` is called by worker threads, by several of them when
    ``workers`` says so.
    """

    device_type: ClassVar[str] = ""
    """The device type's name, ``"rng"``, ``"blk"`` …: ``type=`` in the class statement.

    A virtio id (``type=36``) may stand there too; its name is kept, or its digits if it has none.
    """
    capability_features: Sequence[str] = ()
    """What ``--print-capabilities`` lists (C141)."""
    device_features: int = 0
    """Feature bits of the device type; those of rings and transport are added."""
    extra_protocol_features: int = 0
    """Protocol features on top of those every device has."""
    workers: int | Sequence[int | Collection[int]] = 1
    """How many worker threads share the queues, or exactly what ``queues_per_thread`` is to return."""
    packed: bool = True
    """Offer packed rings (VIRTIO_F_RING_PACKED); the driver chooses."""
    shared_memory: SharedMemory | None = None
    """Shared memory regions; offers SHMEM (see :class:`SharedMemory`)."""
    shared_objects: SharedObjects | None = None
    """Objects that other devices may import; offers SHARED_OBJECT (see :class:`SharedObjects`)."""
    in_order: bool = False
    """Offer VIRTIO_F_IN_ORDER: requests are given back in the order they came, whenever completed."""

    driver_features: int = 0
    """The features the driver acknowledged, without those of vhost-user; 0 before it did."""
    channel: BackChannel | None = None
    """The back channel to the front-end, if there is one."""

    def __init_subclass__(
        cls,
        *,
        type: str | int | None = None,  # noqa: A002  # reads best in class statements
        **declarations: Any,
    ) -> None:
        """Take declarations out of the class statement, and look at them.

        Raises TypeError or ValueError for one that does not exist or makes no sense.
        """
        super().__init_subclass__()
        if type is not None:
            cls.device_type = type_name(cls, type)
        elif "device_type" in vars(cls):
            cls.device_type = type_name(cls, cls.device_type)
        for name, value in declarations.items():
            if name not in CHECKS:
                raise TypeError(
                    f"class {cls.__name__}: {name!r} is not a declaration of a Device; "
                    f"there are type, {', '.join(sorted(CHECKS))}"
                )
            setattr(cls, name, value)
        check_class(cls)

    # What a device overrides

    def reset(self) -> None:
        """The device is as new: the driver reset it (C075, C131), or its session ended."""

    def refresh(self) -> None:
        """Look again at what the device is made of: ``serve`` calls it at SIGHUP, if it is overridden."""

    def set_status(self, status: int) -> None:
        """The driver changed the device status byte (SET_STATUS, C131); ``DeviceStatus`` names the bits."""

    def control_commands(self) -> Sequence[ControlCommand]:
        """Commands of its own for the control socket: name, function, summary.

        A function must not wait: it runs in the thread of the socket. A ValueError is an answer.
        """
        return ()

    # What a device uses

    def config_changed(self) -> None:
        """Tell the driver that ``config`` is different now; from any thread, never waits (C130).

        While all rings are stopped it is told later (C076). Does nothing without a front-end that can be
        told.
        """
        channel = self.channel
        if channel is not None:
            try:
                channel.config_change()
            except VhostUserError as error:
                log.debug("%s: configuration change not told: %s", type(self).__name__, error)

    def qemu_device(self) -> list[str]:
        """QEMU arguments that plug this device in by its type, after those of its chardev ``vhost0``.

        For the QEMU that is installed, else a current one; ValueError if that has no device for it.
        """
        return qemu_device(self, self.device_type)

    # The trait

    def __new__(cls, *arguments: Any, **keywords: Any) -> Device:  # Self needs a cast in every subclass
        """Prepare the framework's part here, so that a device may forget ``super().__init__()``."""
        refuse_arguments(cls, arguments, keywords)
        device = super().__new__(cls)
        device._prepare_handling()
        device._prepare_queues()
        if isinstance(cls.config, Config):
            device.config = cls.config.copy(device.config_changed)
        if isinstance(cls.shared_memory, SharedMemory):
            device.shared_memory = cls.shared_memory.copy(lambda: device.channel)
        if isinstance(cls.shared_objects, SharedObjects):
            device.shared_objects = cls.shared_objects.copy(lambda: device.channel, device._tell_later)
        device._prepare_events()
        device._prepare_life()
        return device

    def features(self) -> int:
        """``device_features`` and what the framework does for every device."""
        features = self.device_features | DEFAULT_FEATURES
        if self.packed:
            features |= VirtioFeature.RING_PACKED
        if self.in_order:
            features |= VirtioFeature.IN_ORDER
        return features

    def protocol_features(self) -> int:
        """``extra_protocol_features`` and what the framework does for every device.

        CONFIG only where there is a configuration space: QEMU warns of one that its device has no use for.
        DEVICE_STATE only where there is ``save_state``: QEMU takes it for the promise that nothing else
        would be missing after a migration.
        """
        features = self.extra_protocol_features | DEFAULT_PROTOCOL_FEATURES
        if self.config is None and type(self).get_config is Device.get_config:
            features &= ~ProtocolFeature.CONFIG
        if self.has_state:
            features |= ProtocolFeature.DEVICE_STATE
        if self.shared_memory is not None:
            features |= ProtocolFeature.SHMEM | ProtocolFeature.BACKEND_SEND_FD
        if self.shared_objects is not None:
            features |= ProtocolFeature.SHARED_OBJECT
        return features

    def get_shmem_config(self) -> dict[int, int]:
        """The sizes of ``shared_memory``."""
        return super().get_shmem_config() if self.shared_memory is None else dict(self.shared_memory.sizes)

    def get_shared_object(self, identifier: uuid.UUID) -> EventFd | None:
        """One of ``shared_objects``."""
        if self.shared_objects is None:
            return super().get_shared_object(identifier)
        return self.shared_objects.duplicate(identifier)

    def vring_started(self, queue: int) -> None:
        """To the declared queue, and to ``queue_started``; what ``shared_objects`` waits to tell is told."""
        super().vring_started(queue)
        if self.shared_objects is not None:
            self.shared_objects.ring_started()

    def queues_per_thread(self) -> Sequence[int | Collection[int]]:
        """``workers``; a mere number shares the queues out in consecutive runs."""
        check(type(self), "workers", self.workers)
        if not isinstance(self.workers, int):
            return self.workers
        workers = max(1, min(self.workers, self.queues))
        return [self.queues // workers + (worker < self.queues % workers) for worker in range(workers)]

    def acked_features(self, features: int) -> None:
        """Keeps them as ``driver_features``."""
        self.driver_features = features

    def set_backend_req_fd(self, backend: BackChannel) -> None:
        """Keeps it as ``channel``."""
        self.channel = backend

    def handle_event(
        self, device_event: int, event_set: int, vrings: Sequence[Vring], thread_id: int
    ) -> bool | None:
        """To ``queue_event`` or to the callback of ``listen``."""
        del thread_id
        if device_event < len(vrings):
            vring = vrings[device_event]
            outcome = self._serve[vring.index](vring)
            if type(outcome) is not int and outcome is not None:  # `process` returns a number
                self._plain("queue_event", outcome)
        elif callback := self._callbacks.get(device_event):
            self._plain("listen's callback", callback(event_set))
        return None

    def reset_device(self) -> None:
        """Tasks of the session are cancelled, the declared queues as new, then ``reset``."""
        self._end_session_tasks()
        self._end_queues()
        if self.shared_memory is not None:
            self.shared_memory.forget()
        self._reset()

    def attached(self, daemon: ServedBy) -> None:
        """Chooses how requests are handled, and gives the vrings the header format."""
        check_all(self)
        self._check_life()
        handles_events = type(self).handle_event is not Device.handle_event
        self._choose_queues(daemon.vrings, handles_events=handles_events)
        self._daemon = daemon

    def session_ended(self) -> None:
        """Coroutines are cancelled, negotiated features forgotten, then ``reset``."""
        self._cancel_coroutines()
        self._end_session_tasks()
        self.driver_features = 0
        self.channel = None
        self._end_queues()
        if self.shared_memory is not None:
            self.shared_memory.forget()
        if self.shared_objects is not None:
            self.shared_objects.session_ended()
        self._reset()

    def close(self) -> None:
        """``shutdown``, then the loop ends. A device that overrides this calls ``super().close()``."""
        self._end_life()
        if self.shared_objects is not None:
            self.shared_objects.close()

    # The rest

    def _tell_later(self, tell: Callable[[], None]) -> None:
        """Run what waits for the front-end in a thread of the loop, for this session."""

        async def telling() -> None:
            import asyncio  # noqa: PLC0415  # a third of the start-up

            await asyncio.to_thread(tell)

        self.spawn(telling())

    def _reset(self) -> None:
        outcome: object = self.reset()  # type: ignore[func-returns-value]  # a decorated one may return a coroutine
        self._plain("reset", outcome)
