"""The CAN device (virtio 1.4, 5.20): a controller on a bus of python-can, or on a model.

    serve(Can("socketcan:can0"))
    serve(Can("virtual:lab"))             # all on the bus "lab" of this program

What it is connected to: see ``vhost_user.devices.can_bus``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from vhost_user.backend import U16, BufferQueue, Bytes, Config, Device, Queue
from vhost_user.devices.can_bus import BusOffError, CanFrame, connected
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.can import (
    CONTROL_QUEUE,
    MAX_CLASSIC,
    MAX_FD,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    CanConfig,
    CanControl,
    CanFeature,
    CanFlag,
    CanHeader,
    CanMessage,
    CanResult,
    CanStatus,
)

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

BACKLOG = 1024
"""Frames that wait for buffers of the guest; later ones are lost, as in the memory of any controller."""
TURN = 0.1
"""Seconds after which a thread that waits for the bus looks whether it is still wanted."""
RETRY = 1.0
"""Seconds until a bus that failed is asked again."""
IN_HAND_PATIENCE = 0.2
"""Seconds that a queue which stops waits for the frame that is being sent at this moment."""
_UNKNOWN_FLAGS = 0xFFFF_FFFF & ~int(CanFlag.RTR | CanFlag.FD | CanFlag.EXTENDED)


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.can.CanConfig` has it, and zeroes behind.

    Front-ends read and cache whole words.
    """

    status = U16()
    padding = Bytes(6)


class Can(Device, type="can"):
    """A CAN controller on ``bus``; without one, alone.

    The driver starts and stops it. A frame is answered when the bus has accepted it: OK, or NOT_OK when it
    was refused, was not sent because the controller stopped, or is of a kind that was not negotiated. Without
    ``fd`` there are classic frames only. Raises what opening the bus raises.
    """

    config = Space()
    device_features = CanFeature.CLASSIC | CanFeature.FD | CanFeature.RTR_FRAMES
    from_guest = Queue(TRANSMIT_QUEUE)
    to_guest = BufferQueue(RECEIVE_QUEUE, backlog=BACKLOG)
    control = Queue(CONTROL_QUEUE)

    def __init__(self, bus: Any = None, *, fd: bool = True) -> None:
        super().__init__()
        if not fd:
            self.device_features &= ~CanFeature.FD
        self.bus = connected(bus)
        self.running = False
        """Whether the controller takes part in the bus."""
        self._spoken = False
        # One lock for what the worker, the control thread and the sender share; nobody waits under it.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._pending: deque[tuple[Request, CanFrame]] = deque()
        self._controls: deque[tuple[Request, int]] = deque()
        self._set_aside: list[Request] = []
        self._in_hand = False
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    # What a program uses

    def bus_off(self) -> None:
        """The controller leaves the bus because of errors: the driver is told, and starts it again."""
        with self._lock:
            if not self.running:
                return
            self._halt()
        with self.config.changing():
            self.config.status = CanStatus.BUS_OFF

    # The life of the device

    def setup(self) -> None:
        """A thread sends, another receives."""
        for function in (self._send_all, self._receive_all):
            thread = threading.Thread(target=function, name=f"can-{function.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def shutdown(self) -> None:
        """The bus is closed when nobody uses it any more."""
        self._ended.set()
        with self._lock:
            self._work.notify_all()
        for thread in self._threads:
            thread.join(TURN + IN_HAND_PATIENCE)
        self.bus.close()

    def reset(self) -> None:
        """The controller is stopped until the next driver starts it."""
        with self._lock:
            self.running = self._spoken = False
            self._pending.clear()
            self._controls.clear()
        self.config.status = 0

    def queue_started(self, queue: int) -> None:
        """A driver that was at work before this program began started its controller long ago."""
        # The position in the ring; bit 15 is the wrap counter of a packed one.
        if queue == CONTROL_QUEUE and self.vring(queue).base() & 0x7FFF and not self._spoken:
            self.running = self._spoken = True

    def queue_stopping(self, queue: int) -> float | None:
        """Frames that are not sent yet go back to the driver as they are, at once (C054)."""
        if queue == RECEIVE_QUEUE:
            return None
        with self._lock:
            held_here: deque[Any] = self._pending if queue == TRANSMIT_QUEUE else self._controls
            waiting = [request for request, _ in held_here]
            held_here.clear()
            # A reference is kept: without one they go back used. They are dead when the queue has stopped.
            self._set_aside = [request for request in (*self._set_aside, *waiting) if request.alive]
            held = sum(request.queue == queue for request in self._set_aside)
        return IN_HAND_PATIENCE if self.vring(queue).in_flight > held else 0.0

    def save_state(self) -> object:
        """Whether the controller takes part in the bus, and whether it was thrown off."""
        return {"started": self.running, "status": self.config.status}

    def load_state(self, state: Any, version: int) -> None:
        """Go on as it was elsewhere. Raises ValueError for what is no such state."""
        del version  # there was one so far
        if not isinstance(state, dict) or type(state.get("started")) is not bool:
            raise ValueError("the state of a CAN device says whether it is started")
        if state.get("status") not in {0, CanStatus.BUS_OFF}:
            raise ValueError(f"the status of a CAN device is {state.get('status')!r}: it must be 0 or 1")
        self.running, self._spoken = state["started"], True
        self.config.status = state["status"]

    # Requests, in the worker

    @from_guest.handler
    def frame_sent(self, request: Request) -> None:
        """A frame of the guest waits its turn."""
        frame = self._frame_in(request)
        with self._lock:
            if frame is None or not self.running or not request.writable:
                _answer(request, CanResult.NOT_OK)
                return
            request.hold()
            self._pending.append((request, frame))
            self._work.notify()

    @control.handler
    def controlled(self, request: Request) -> None:
        """START or STOP, in their order."""
        message = request.read(CanControl.SIZE)
        kind = CanControl.unpack(message).msg_type if len(message) == CanControl.SIZE else 0
        with self._lock:
            request.hold()
            self._controls.append((request, kind))
            self._obey()

    def fail(self, request: Request, exception: BaseException) -> None:
        """NOT_OK, if it can be said."""
        del exception
        _conclude(request, CanResult.NOT_OK)

    def _frame_in(self, request: Request) -> CanFrame | None:
        """The frame of a request, or None for what is not to be sent (virtio 1.4, 5.20.6.2)."""
        data = request.read(CanHeader.SIZE)
        if len(data) < CanHeader.SIZE:
            return None
        header = CanHeader.unpack(data)
        flags = header.flags
        fd, rtr = bool(flags & CanFlag.FD), bool(flags & CanFlag.RTR)
        if header.msg_type != CanMessage.TRANSMIT or flags & _UNKNOWN_FLAGS or not self._negotiated(fd, rtr):
            return None
        if header.length > (MAX_FD if fd else MAX_CLASSIC):
            return None
        content = b"" if rtr else request.read(header.length)
        try:
            return CanFrame(header.can_id, content, bool(flags & CanFlag.EXTENDED), fd, rtr, header.length)
        except ValueError:
            return None

    def _negotiated(self, fd: bool, rtr: bool) -> bool:
        needed = CanFeature.FD if fd else CanFeature.CLASSIC
        if rtr:
            needed |= CanFeature.RTR_FRAMES
        return self.driver_features & needed == needed

    # With the lock held

    def _obey(self) -> None:
        while self._controls:
            request, kind = self._controls[0]
            if kind == CanMessage.STOP:
                self._halt()
            if self._in_hand:  # the answer says that the bus hears nothing more
                return
            self._controls.popleft()
            self._spoken = True
            if kind == CanMessage.START:
                self.running = True
                self.config.status = 0
            known = kind in {CanMessage.START, CanMessage.STOP}
            _conclude(request, CanResult.OK if known else CanResult.NOT_OK)

    def _halt(self) -> None:
        """Out of the bus; what waits to be sent is not."""
        self.running = False
        while self._pending:
            _conclude(self._pending.popleft()[0], CanResult.NOT_OK)
        self.to_guest.clear()

    # Threads of their own

    def _send_all(self) -> None:
        while True:
            with self._lock:
                while not self._pending and not self._ended.is_set():
                    self._work.wait()
                if self._ended.is_set():
                    return
                request, frame = self._pending.popleft()
                self._in_hand = True
            result = self._send(frame)
            _conclude(request, result)
            with self._lock:
                self._in_hand = False
                self._obey()
            del request  # whoever refers to it keeps it from being given back

    def _send(self, frame: CanFrame) -> CanResult:
        try:
            self.bus.send(frame)
        except BusOffError:
            self.bus_off()
        except Exception as error:  # noqa: BLE001  # whatever a model raises, the guest gets its answer
            _report.warning("a CAN frame is not sent: %s", error)
        else:
            return CanResult.OK
        return CanResult.NOT_OK

    def _receive_all(self) -> None:
        while not self._ended.is_set():
            try:
                frame = self.bus.recv(TURN)
            except BusOffError:
                self.bus_off()
            except Exception as error:  # noqa: BLE001  # the bus may come back
                _report.error("a CAN device receives nothing: %s", error)
                self._ended.wait(RETRY)
            else:
                if frame is not None:
                    self._receive(frame)

    def _receive(self, frame: CanFrame) -> None:
        if not self.running or not self._negotiated(frame.fd, frame.rtr):
            return
        flags = CanFlag.EXTENDED * frame.extended | CanFlag.FD * frame.fd | CanFlag.RTR * frame.rtr
        header = CanHeader(CanMessage.RECEIVE, frame.length, flags=flags, can_id=frame.can_id)
        if not self.to_guest.post(header.pack() + frame.data.ljust(frame.length, b"\0")):
            _report.warning("the guest does not take CAN frames: %d are lost", self.to_guest.dropped)


def _answer(request: Request, result: CanResult) -> None:
    if request.writable:
        request.write(bytes([result]))


def _conclude(request: Request, result: CanResult) -> None:
    """Give a held request back; one that went back with its queue is left alone."""
    if not request.alive:
        return
    try:
        _answer(request, result)
        request.complete()
    except EngineError as error:
        _report.warning("queue %d, head %d: %s", request.queue, request.head, error)
        if request.alive:
            request.complete(0)


assert Space.padding.offset == CanConfig.SIZE
