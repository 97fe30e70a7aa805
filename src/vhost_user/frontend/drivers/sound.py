"""Driver of the sound device (virtio 1.4 section 5.14)."""

from typing import Any, ClassVar, TypeVar

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.spec.record import Record
from vhost_user.spec.sound import (
    CONTROL_QUEUE,
    EVENT_QUEUE,
    FRAME_RATES,
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    ChannelMapInfo,
    JackInfo,
    JackRemap,
    PcmHeader,
    PcmInfo,
    PcmSetParams,
    PcmStatus,
    PcmTransfer,
    SampleFormat,
    SoundConfig,
    SoundEvent,
    SoundHeader,
    SoundQuery,
    SoundRequest,
    SoundStatus,
)

EVENTS = 8
RecordT = TypeVar("RecordT", bound=Record)


class SoundDriver(DeviceDriver):
    """``with SoundDriver(socket) as sound: sound.set_params(0); sound.prepare(0); sound.play(0, data)``.

    Raises DeviceError when the device says no.
    """

    QUEUES: ClassVar[int] = 4

    def __init__(self, target: Target, **options: Any) -> None:
        self.jacks: list[JackInfo] = []
        self.streams: list[PcmInfo] = []
        self.channel_maps: list[ChannelMapInfo] = []
        self._events: list[SoundEvent] = []
        super().__init__(target, **options)

    def ready(self) -> None:
        """Ask what there is, leave buffers for events."""
        config = SoundConfig.unpack(self.read_config(0, SoundConfig.SIZE))
        self.jacks = self.query(SoundRequest.JACK_INFO, JackInfo, config.jacks)
        self.streams = self.query(SoundRequest.PCM_INFO, PcmInfo, config.streams)
        self.channel_maps = self.query(SoundRequest.CHMAP_INFO, ChannelMapInfo, config.chmaps)
        self.queues[EVENT_QUEUE].post(SoundEvent.SIZE, count=min(EVENTS, self.queue_size))

    # Control

    def query(
        self, code: SoundRequest, kind: type[RecordT], count: int, *, start: int = 0, size: int | None = None
    ) -> list[RecordT]:
        """So many informations from ``start`` on; ``size`` is what is said to be that of one."""
        size = kind.SIZE if size is None else size
        answer = self.ask(SoundQuery(code, start, count, size), count * size)
        return [kind.unpack(answer[at : at + kind.SIZE]) for at in range(0, len(answer), max(1, size))]

    def ask(self, request: Record | bytes, size: int = 0) -> bytes:
        """A control request: the answer behind its header, which must be OK."""
        data = request if isinstance(request, bytes) else request.pack()
        answer = self.queues[CONTROL_QUEUE].request(data, SoundHeader.SIZE + size)
        if len(answer) < SoundHeader.SIZE:
            raise DeviceError(f"a control request is answered by {len(answer)} bytes")
        code = SoundHeader.unpack(answer[: SoundHeader.SIZE]).code
        if code != SoundStatus.OK:
            raise DeviceError(f"{request!r:.80}: the device answers {code:#x}", status=code)
        return answer[SoundHeader.SIZE :]

    def remap_jack(self, jack: int, association: int, sequence: int) -> None:
        """Say where a jack belongs."""
        self.ask(JackRemap(SoundRequest.JACK_REMAP, jack, association, sequence))

    def set_params(
        self,
        stream: int,
        *,
        rate: int = 48000,
        channels: int = 2,
        sample: SampleFormat = SampleFormat.S16,
        period_bytes: int = 1920,
        buffer_bytes: int = 7680,
        features: int = 0,
    ) -> None:
        """Choose the format; ``rate`` in frames per second."""
        place = FRAME_RATES.index(rate)
        code = SoundRequest.PCM_SET_PARAMS
        self.ask(PcmSetParams(code, stream, buffer_bytes, period_bytes, features, channels, sample, place))

    def prepare(self, stream: int) -> None:
        """Make the stream ready for buffers."""
        self._command(SoundRequest.PCM_PREPARE, stream)

    def start(self, stream: int) -> None:
        """Let it run."""
        self._command(SoundRequest.PCM_START, stream)

    def stop(self, stream: int) -> None:
        """Let it stand."""
        self._command(SoundRequest.PCM_STOP, stream)

    def release(self, stream: int) -> None:
        """All buffers come back before this is answered."""
        self._command(SoundRequest.PCM_RELEASE, stream)

    def _command(self, code: SoundRequest, stream: int) -> None:
        self.ask(PcmHeader(code, stream))

    # Buffers

    def play(self, stream: int, data: bytes) -> Pending:
        """Give the device a buffer to play; ``played`` has what it says when it is done."""
        return self.queues[TRANSMIT_QUEUE].submit(PcmTransfer(stream).pack() + data, PcmStatus.SIZE)

    def record(self, stream: int, size: int) -> Pending:
        """Give the device a buffer of so many bytes to fill; ``recorded`` has what came."""
        return self.queues[RECEIVE_QUEUE].submit(PcmTransfer(stream).pack(), [size, PcmStatus.SIZE])

    def played(self, pending: Pending, *, timeout: float | None = None) -> PcmStatus:
        """Wait for a buffer of ``play``: its status. Raises PeerTimeout."""
        answer = pending.wait(self.timeout if timeout is None else timeout)
        pending.release()
        if len(answer) != PcmStatus.SIZE:
            raise DeviceError(f"a buffer that was played comes back with {len(answer)} bytes")
        return PcmStatus.unpack(answer)

    def recorded(self, pending: Pending, *, timeout: float | None = None) -> tuple[bytes, PcmStatus]:
        """Wait for a buffer of ``record``: the sound, and the status. Raises PeerTimeout."""
        pending.wait(self.timeout if timeout is None else timeout)
        data, length = pending.data, pending.length
        pending.release()
        if not PcmStatus.SIZE <= length <= len(data):
            raise DeviceError(f"a buffer that was recorded comes back with {length} bytes")
        return data[: length - PcmStatus.SIZE], PcmStatus.unpack(data[-PcmStatus.SIZE :])

    # Events

    def wait_event(self, *, timeout: float | None = None) -> SoundEvent:
        """The next event. Raises PeerTimeout."""
        queue = self.queues[EVENT_QUEUE]
        if not self._events:
            done = queue.completed(minimum=1, timeout=timeout)
            for pending in done:
                if len(pending.written) != SoundEvent.SIZE:
                    raise DeviceError(f"{pending.written.hex()} is not an event")
                self._events.append(SoundEvent.unpack(pending.written))
                pending.release()
            queue.post(SoundEvent.SIZE, count=len(done))
        return self._events.pop(0)
