"""A sound device (virtio 1.4, 5.14): outputs that the guest plays to, inputs that it hears, jacks.

    recording = Recording()
    serve(Sound(recording, Tone(440)))

What it is connected to: see ``vhost_user.devices.sound_ends``. Sound takes its time: a buffer goes back when
it has been played, by ``clock``, which a test may freeze and let jump.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from vhost_user.backend import U32, BufferQueue, Config, Device, Queue
from vhost_user.devices.rtc_clock import Clock
from vhost_user.devices.sound_ends import Sink, SoundEnd, Source
from vhost_user.devices.sound_flow import Buffer, give_back_input, give_back_output
from vhost_user.devices.sound_jack import MOST, Jack
from vhost_user.devices.sound_stream import Stream
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.limited_log import LimitedLog
from vhost_user.spec.record import Record
from vhost_user.spec.rtc import ClockType
from vhost_user.spec.sound import (
    CONTROL_QUEUE,
    EVENT_QUEUE,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    Direction,
    JackRemap,
    PcmHeader,
    PcmSetParams,
    PcmStatus,
    PcmTransfer,
    SoundConfig,
    SoundEvent,
    SoundEventType,
    SoundHeader,
    SoundQuery,
    SoundRequest,
    SoundStatus,
)

if TYPE_CHECKING:
    from vhost_user.backend.timers import Timer
    from vhost_user.engine.device.request import Request

_report = LimitedLog(logging.getLogger(__name__))

SHORTEST_SLEEP = 0.001
"""Seconds after which buffers are looked at again at the earliest, however short they are."""
IN_HAND_PATIENCE = 0.2
"""Seconds that a queue which stops waits for the buffer that a worker has in its hand."""
LARGEST_INFO = 256
"""Bytes that a driver may want an information to have."""
_QUERIES = {SoundRequest.JACK_INFO, SoundRequest.PCM_INFO, SoundRequest.CHMAP_INFO}


class Space(Config):
    """The configuration space, as :class:`vhost_user.spec.sound.SoundConfig` has it."""

    jacks = U32()
    streams = U32()
    chmaps = U32()
    controls = U32()


class _Status(Exception):  # noqa: N818  # it is an answer
    def __init__(self, status: SoundStatus) -> None:
        super().__init__(status.name)
        self.status = status


class Sound(Device, type="sound"):
    """A stream for each of ``ends``, sinks and sources, in their order; by default one of each, of silence.

    The first output and the first input are PCM device 0 of the guest, the second ones device 1. Raises
    TypeError for what is neither sink nor source, ValueError for jacks that belong to another device.
    """

    config = Space()
    control = Queue(CONTROL_QUEUE)
    events = BufferQueue(EVENT_QUEUE, overflow="drop-oldest")
    transmit = BufferQueue(TRANSMIT_QUEUE)
    receive = BufferQueue(RECEIVE_QUEUE)

    def __init__(self, *ends: SoundEnd, jacks: Iterable[Jack] = (), clock: Clock | None = None) -> None:
        self.clock = clock or Clock(ClockType.MONOTONIC)
        """The time by which sound is played."""
        # One lock for what worker, control thread and whoever moves the clock share; nobody waits under it.
        self._lock = threading.RLock()
        self.streams = self._made(ends or (Sink(), Source()))
        self.jacks = list(jacks)
        for number, jack in enumerate(self.jacks):
            jack.belong_to(partial(self._jack_changed, number))
        self.channel_maps = [entry for stream in self.streams for entry in stream.channel_maps()]
        self.config.jacks, self.config.streams = len(self.jacks), len(self.streams)
        self.config.chmaps = len(self.channel_maps)
        self._taken = {TRANSMIT_QUEUE: 0, RECEIVE_QUEUE: 0}
        """How many buffers came in each queue."""
        self._used = dict(self._taken)
        """The number of the newest that went back."""
        self._set_aside: list[Request] = []
        self._spoken = self._met = self._served = False
        self._timer: Timer | None = None
        self._wake = 0.0
        for each in {id(stream.clock): stream.clock for stream in self.streams}.values():
            each.on_change(self._look)

    def _made(self, ends: Iterable[SoundEnd]) -> list[Stream]:
        count = dict.fromkeys(Direction, 0)
        streams = []
        for number, end in enumerate(ends):
            stream = Stream(
                number, 0, end, self.clock, tell=partial(self._tell, number), used=self._buffer_used
            )
            stream.group = count[stream.direction]
            count[stream.direction] += 1
            streams.append(stream)
        return streams

    # The life of the device

    def setup(self) -> None:
        """The ends are made ready."""
        for stream in self.streams:
            stream.end.setup()
        with self._lock:
            self._served = True
            self._timer = self.call_later(0, self._look)  # timers are made now, and not for the first guest

    def shutdown(self) -> None:
        """The ends are closed."""
        with self._lock:
            self._served = False
            if self._timer is not None:
                self._timer.cancel()
        for stream in self.streams:
            stream.forget()
            stream.end.shutdown()

    def reset(self) -> None:
        """No stream has been prepared, as for a driver that begins."""
        with self._lock:
            self._met = self._spoken = False
            for stream in self.streams:
                stream.forget()

    def started(self) -> None:
        """A second driver without a reset in between: the guest has booted again."""
        if self._met:
            self.reset()
        self._met = True

    def queue_started(self, queue: int) -> None:
        """What waited for the queue goes on."""
        with self._lock:
            self._set_aside = [request for request in self._set_aside if request.alive]
            # The position in the ring; bit 15 is the wrap counter of a packed one.
            if queue == CONTROL_QUEUE and self.vring(queue).base() & 0x7FFF and not self._spoken:
                self._spoken = True
                for stream in self.streams:
                    stream.overhear()
            for stream in self._of(queue):
                stream.resume()
            self._look()

    def queue_stopping(self, queue: int) -> float | None:
        """Buffers that are not over go back as they are, and come again (C054)."""
        if queue not in self._taken:
            return None
        with self._lock:
            for stream in self._of(queue):
                left = stream.pause(self._used[queue])
                # A reference is kept: without one they go back used. They die when the queue has stopped.
                self._set_aside += [buffer.request for buffer in left]
            held = sum(request.alive and request.queue == queue for request in self._set_aside)
        return IN_HAND_PATIENCE if self.vring(queue).in_flight > held else 0.0

    def save_state(self) -> object:
        """The streams, and how the jacks were mapped."""
        with self._lock:
            jacks = [[jack.association, jack.sequence] for jack in self.jacks]
            return {"streams": [stream.saved() for stream in self.streams], "jacks": jacks}

    def load_state(self, state: Any, version: int) -> None:
        """Go on where it was elsewhere. Raises ValueError for what is no such state."""
        del version  # there was one so far
        parts: list[Any] = [
            state.get(name) if isinstance(state, dict) else None for name in ("streams", "jacks")
        ]
        numbers = len(self.streams), len(self.jacks)
        for part, number in zip(parts, numbers, strict=True):
            if not isinstance(part, list) or len(part) != number:
                raise ValueError("the state of a sound device has other streams or jacks")
        streams, jacks = parts
        if not all(isinstance(each, list) and len(each) == 2 for each in jacks):
            raise ValueError("the state of a jack is two numbers")
        if not all(type(each) is int and 0 <= each <= MOST for pair in jacks for each in pair):
            raise ValueError("the state of a jack is two small numbers")
        with self._lock:
            for stream, saved in zip(self.streams, streams, strict=True):
                stream.load(saved)
            for jack, pair in zip(self.jacks, jacks, strict=True):
                jack.association, jack.sequence = pair
            self._spoken = True

    # Control requests, in the worker

    @control.handler
    def controlled(self, request: Request) -> None:
        """Answer a request; with a status alone if it is refused."""
        with self._lock:
            self._spoken = True
            status, answer = SoundStatus.OK, b""
            try:
                answer = self._answer(request)
            except _Status as refusal:
                status = refusal.status
            request.write(SoundHeader(status).pack()[: request.writable] + answer)
            self._look()

    def _answer(self, request: Request) -> bytes:
        code = SoundHeader.unpack(_bytes_of(request, 0, SoundHeader)).code
        if request.writable < SoundHeader.SIZE or code not in set(SoundRequest):
            raise _Status(SoundStatus.NOT_SUPP)
        if code in _QUERIES:
            return self._information(request)
        if code == SoundRequest.JACK_REMAP:
            self._remap(JackRemap.unpack(_bytes_of(request, 0, JackRemap)))
            return b""
        number = PcmHeader.unpack(_bytes_of(request, 0, PcmHeader)).stream_id
        if number >= len(self.streams):
            raise _Status(SoundStatus.BAD_MSG)
        stream = self.streams[number]
        if code == SoundRequest.PCM_SET_PARAMS:
            status = stream.set_params(PcmSetParams.unpack(_bytes_of(request, 0, PcmSetParams)))
        else:
            if code == SoundRequest.PCM_RELEASE:  # what came before it is in the ring
                self._take_all(self.transmit if stream.direction is Direction.OUTPUT else self.receive)
            status = stream.command(code)
        if status is not SoundStatus.OK:
            raise _Status(status)
        return b""

    def _information(self, request: Request) -> bytes:
        query = SoundQuery.unpack(_bytes_of(request, 0, SoundQuery))
        found: list[Any]
        match query.code:
            case SoundRequest.JACK_INFO:
                found = [jack.info() for jack in self.jacks]
            case SoundRequest.PCM_INFO:
                found = [stream.info() for stream in self.streams]
            case _:
                found = self.channel_maps
        room = SoundHeader.SIZE + query.count * query.size
        if (
            query.start_id + query.count > len(found)
            or not SoundHeader.SIZE <= query.size <= LARGEST_INFO
            or request.writable < room
        ):
            raise _Status(SoundStatus.BAD_MSG)
        wanted = found[query.start_id : query.start_id + query.count]
        # Drivers of another version know less or more of it.
        return b"".join(each.pack()[: query.size].ljust(query.size, b"\0") for each in wanted)

    def _remap(self, asked: JackRemap) -> None:
        if asked.jack_id >= len(self.jacks):
            raise _Status(SoundStatus.BAD_MSG)
        jack = self.jacks[asked.jack_id]
        if not jack.remap:
            raise _Status(SoundStatus.NOT_SUPP)
        if max(asked.association, asked.sequence) > MOST:
            raise _Status(SoundStatus.BAD_MSG)
        jack.association, jack.sequence = asked.association, asked.sequence

    # Buffers

    @transmit.on_available
    def _played(self) -> None:
        self._bring(self.transmit)

    @receive.on_available
    def _recorded(self) -> None:
        self._bring(self.receive)

    def _bring(self, queue: BufferQueue) -> None:
        with self._lock:
            if not self._take_all(queue) and self._served:
                self.call_later(SHORTEST_SLEEP, self._bring, queue)
            self._look()

    def _take_all(self, queue: BufferQueue) -> bool:
        """Bring what is in the ring to the streams. False: a guest that adds and adds could keep us here."""
        for _ in range(queue.vring.size):
            request = queue.take()
            if request is None:
                return True
            self._taken[queue.index] += 1
            order = self._taken[queue.index]
            if not queue.vring.started:  # it stopped at this moment: the buffer goes back as it is
                self._set_aside.append(request)
                return True
            if not self._offered(request, order):
                self._used[queue.index] = order
        return False

    def _offered(self, request: Request, order: int) -> bool:
        """Give a buffer to its stream. False: it makes no sense, and went back."""
        output = request.queue == TRANSMIT_QUEUE
        try:
            data = request.read(PcmTransfer.SIZE)
            sound, wrong = request.readable, request.writable - PcmStatus.SIZE
            if not output:
                sound, wrong = wrong, sound
            number = (
                PcmTransfer.unpack(data).stream_id if len(data) == PcmTransfer.SIZE else len(self.streams)
            )
            if not wrong and sound >= 0 and number < len(self.streams):
                stream = self.streams[number]
                right = stream.direction is (Direction.OUTPUT if output else Direction.INPUT)
                if right and stream.takes_buffers and not sound % stream.pcm.frame:
                    stream.offer(Buffer(request, request.queue, order, sound))
                    return True
        except EngineError as error:
            _report.warning("queue %d, head %d: %s", request.queue, request.head, error)
        if output:
            give_back_output(request, PcmStatus(SoundStatus.IO_ERR))
        else:
            give_back_input(request, PcmStatus(SoundStatus.IO_ERR), 0)
        return False

    def _buffer_used(self, buffer: Buffer) -> None:
        self._used[buffer.queue] = max(self._used[buffer.queue], buffer.order)

    def _of(self, queue: int) -> list[Stream]:
        wanted = {TRANSMIT_QUEUE: Direction.OUTPUT, RECEIVE_QUEUE: Direction.INPUT}.get(queue)
        return [stream for stream in self.streams if stream.direction is wanted]

    # Time

    def _look(self) -> None:
        """See what is over, and when to look again; from any thread."""
        with self._lock:
            if not self._served:
                return
            for stream in self.streams:
                stream.advance()
            sleeps = [due for stream in self.streams if (due := stream.due()) is not None]
            if not sleeps:
                return
            sleep = max(SHORTEST_SLEEP, min(sleeps))
            wake = time.monotonic() + sleep
            if self._timer is not None and self._timer.active:
                if self._wake <= wake:  # it looks then, and sets another
                    return
                self._timer.cancel()
            self._wake = wake
            self._timer = self.call_later(sleep, self._look)

    # Events

    def _tell(self, number: int, event: SoundEventType) -> None:
        self.events.post(SoundEvent(event, number).pack())

    def _jack_changed(self, number: int, jack: Jack) -> None:
        if self._served:
            connected = SoundEventType.JACK_CONNECTED, SoundEventType.JACK_DISCONNECTED
            self._tell(number, connected[0] if jack.connected else connected[1])


def _bytes_of(request: Request, at: int, kind: type[Record]) -> bytes:
    """The bytes of a structure that the request should have; BAD_MSG if it is shorter."""
    if request.readable_total < at + kind.SIZE:
        raise _Status(SoundStatus.BAD_MSG)
    return request.read_at(at, kind.SIZE)


assert len(Space()) == SoundConfig.SIZE
