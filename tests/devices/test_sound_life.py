"""The sound device as it is stopped, reset, moved and killed; C054, C075, C124, C125, C131, C134."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.front_end import FrontEnd, until
from tests.support.killed_programs import lives, served
from tests.support.sound import FRAME, OK, PARAMETERS, PERIOD, SOUND, Card, done, pieces
from vhost_user.devices import Clock, Jack, Playback, Recording, Sound, Tone
from vhost_user.devices.sound_stream import StreamState
from vhost_user.frontend import SoundDriver
from vhost_user.protocol.listener import connect
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.rtc import ClockType
from vhost_user.spec.sound import (
    RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
    PcmHeader,
    PcmSetParams,
    PcmStatus,
    PcmTransfer,
    SoundHeader,
    SoundRequest,
    SoundStatus,
)
from vhost_user.testing.virtio import Virtio


def test_C054_a_stop_of_the_queues_is_answered_at_once_and_sound_goes_on_where_it_was(
    card: Callable[..., Card],
) -> None:
    recording = Recording()
    it = card(recording, Playback(SOUND))
    for stream in (0, 1):
        it.ready(stream)
    played, recorded = it.play(*pieces(SOUND[: 6 * PERIOD])), it.record(*[PERIOD] * 6)
    for stream in (0, 1):
        it.driver.start(stream)
    frames = 0
    for step in (100, 500, 80, 480, 700):
        it.after(frames=step)
        frames += step
        for queue in (TRANSMIT_QUEUE, RECEIVE_QUEUE):
            it.driver.stop_queue(queue)
        it.after(frames=48000)  # nothing is heard while the machine stands
        for queue in (TRANSMIT_QUEUE, RECEIVE_QUEUE):
            it.driver.start_queue(queue)
            it.driver.frontend.set_vring_enable(queue, True)
        for stream in (0, 1):
            it.has(6 - frames // 480, stream)
        assert done(*played) == done(*recorded) == [number < frames // 480 for number in range(6)]
        assert recording.last.data == SOUND[: frames * FRAME]
    it.after(frames=6 * 480 - frames - 1)
    assert done(*played) == done(*recorded) == [True] * 5 + [False]
    it.after(frames=1)
    assert [it.driver.played(buffer) for buffer in played] == [OK] * 6
    assert b"".join(it.driver.recorded(buffer)[0] for buffer in recorded) == SOUND[: 6 * PERIOD]
    assert len(recording.takes) == 1
    assert recording.last.data == SOUND[: 6 * PERIOD]


def test_C054_a_buffer_that_another_stream_overtook_is_not_lost(card: Callable[..., Card]) -> None:
    """A ring cannot keep what is older than something that was used: it is played early."""
    slow, quick = Recording(), Recording()
    it = card(slow, quick)
    for stream in (0, 1):
        it.ready(stream)
    slowly = it.play(SOUND[: 5 * PERIOD])
    quickly = it.play(*pieces(SOUND[: 2 * PERIOD]), stream=1)
    slowly += it.play(SOUND[5 * PERIOD : 6 * PERIOD])
    for stream in (0, 1):
        it.driver.start(stream)
    it.after(frames=500)
    assert done(*slowly, *quickly) == [False, False, True, False]
    it.driver.stop_queue(TRANSMIT_QUEUE)
    assert done(*slowly, *quickly) == [True, False, True, False]
    assert it.driver.played(slowly[0]) == OK
    assert slow.last.data == SOUND[: 5 * PERIOD]
    it.driver.start_queue(TRANSMIT_QUEUE)
    it.driver.frontend.set_vring_enable(TRANSMIT_QUEUE, True)
    it.has(1, 0)
    it.has(1, 1)
    it.after(frames=480)
    assert it.driver.played(slowly[1]) == OK
    assert it.driver.played(quickly[1]) == OK
    assert slow.last.data == SOUND[: 6 * PERIOD]
    assert quick.last.data == SOUND[: 2 * PERIOD]


def test_C075_C134_streams_end_with_their_driver(virtio: Virtio, packed: bool, clock: Clock) -> None:
    recording = Recording()
    device = Sound(recording, Tone(1000), clock=clock)
    attached = virtio.attach(device, packed=packed)
    for reset in (True, False, True):
        it = Card(device, attached.drive(SoundDriver))
        assert {stream.state for stream in device.streams} == {StreamState.IDLE}
        it.ready()
        it.play(*pieces(SOUND[: 3 * PERIOD]))
        it.driver.start(0)
        it.after(frames=500)
        if reset:
            it.driver.frontend.reset_device(need_reply=True)
            assert device.streams[0].state is StreamState.IDLE
        attached.disconnect()
        until(lambda: device.streams[0].state is StreamState.IDLE, "the session ended")
        it.after(frames=48000)
        assert recording.last.data == SOUND[: 500 * FRAME]
    assert len(recording.takes) == 3


def test_C124_a_stream_goes_along_in_the_middle_of_a_buffer(virtio: Virtio, packed: bool) -> None:
    clocks = [Clock(ClockType.MONOTONIC) for _ in range(2)]
    for each in clocks:
        each.freeze()
    recordings = [Recording(), Recording()]
    source, target = (
        virtio.attach(Sound(recording, jacks=[Jack("mic", remap=True)], clock=clock), packed=packed)
        for recording, clock in zip(recordings, clocks, strict=True)
    )
    it = Card(source.backend, source.drive(SoundDriver))  # type: ignore[arg-type]
    it.driver.remap_jack(0, 4, 2)
    it.ready()
    it.play(SOUND[:PERIOD], SOUND[PERIOD : 2 * PERIOD])
    it.driver.start(0)
    it.after(frames=480 + 100)
    for queue in range(4):
        it.driver.stop_queue(queue)
    target.load_state(source.save_state())
    moved = Card(target.backend, target.drive(SoundDriver))  # type: ignore[arg-type]
    assert moved.device.jacks[0].association == 4
    (buffer,) = moved.play(SOUND[PERIOD : 2 * PERIOD])
    moved.after(frames=379)
    assert done(buffer) == [False]
    moved.after(frames=1)
    assert moved.driver.played(buffer) == OK
    assert recordings[0].last.data + recordings[1].last.data == SOUND[: 2 * PERIOD]
    moved.driver.stop(0)
    moved.driver.release(0)


GOOD = [3, 1, 48000, 2, 5, 7680, 1920, 0, 400, 400]


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"streams": [], "jacks": []},
        {"streams": [GOOD], "jacks": [[1, 2]]},
        {"streams": [GOOD[:9]], "jacks": []},
        {"streams": [[True, *GOOD[1:]]], "jacks": []},
        {"streams": [[9, *GOOD[1:]]], "jacks": []},
        {"streams": [[*GOOD[:2], 48001, *GOOD[3:]]], "jacks": []},
        {"streams": [[*GOOD[:3], 99, *GOOD[4:]]], "jacks": []},
        {"streams": [[*GOOD[:4], 0, *GOOD[5:]]], "jacks": []},
        {"streams": [[*GOOD[:4], 77, *GOOD[5:]]], "jacks": []},
        {"streams": [[*GOOD[:6], 1919, *GOOD[7:]]], "jacks": []},
        {"streams": [[*GOOD[:8], 1 << 40, 400]], "jacks": []},
        {"streams": [[*GOOD[:8], 400, -4]], "jacks": []},
        {"streams": [[*GOOD[:8], 401, 400]], "jacks": []},
    ],
)
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    device = Sound(Recording())
    with pytest.raises(ValueError):
        device.load_state(state, 1)
    device.load_state({"streams": [GOOD], "jacks": []}, 1)


def test_C134_a_program_that_was_killed_gives_the_buffers_back_until_the_stream_begins_anew(
    tmp_path: Path,
) -> None:
    buffer = PcmTransfer(0).pack() + bytes(PERIOD)

    def say(front: FrontEnd, code: SoundRequest) -> int:
        return SoundHeader.unpack(front.request(0, PcmHeader(code, 0).pack(), 4)).code

    def begin(front: FrontEnd) -> None:
        parameters = PcmSetParams(SoundRequest.PCM_SET_PARAMS, 0, **PARAMETERS)
        assert front.request(0, parameters.pack(), 4) == SoundHeader(SoundStatus.OK).pack()
        for code in (SoundRequest.PCM_PREPARE, SoundRequest.PCM_START):
            assert say(front, code) == SoundStatus.OK

    with lives(served(tmp_path, "sound", "--backend=null"), range(4)) as each:
        for life, front in each:
            if life:
                # At their pace, so that the guest is not kept busy; and nothing is begun in the middle.
                began = time.monotonic()
                for _ in range(3):
                    status = PcmStatus.unpack(front.request(2, buffer, 8))
                    assert status.status == SoundStatus.IO_ERR
                assert time.monotonic() - began >= 0.03
                assert say(front, SoundRequest.PCM_START) == SoundStatus.IO_ERR
                assert say(front, SoundRequest.PCM_STOP) == SoundStatus.OK
                front.post(2, buffer, 8)
                assert say(front, SoundRequest.PCM_RELEASE) == SoundStatus.OK
                assert front.collect(2)[1] == 8
                assert say(front, SoundRequest.PCM_PREPARE) == SoundStatus.IO_ERR
            begin(front)
            assert PcmStatus.unpack(front.request(2, buffer, 8)).status == SoundStatus.OK


def test_C131_a_guest_that_boots_again_without_a_reset_finds_streams_as_new(
    virtio: Virtio, clock: Clock
) -> None:
    """As under QEMU 7.2: the rings stop, and begin anew."""
    device = Sound(clock=clock)
    attached = virtio.attach(device)
    attached.disconnect()
    front = FrontEnd(connect(attached.socket, timeout=10))
    try:
        front.negotiate(protocol_features=ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK)
        front.share_memory()
        for _ in range(3):
            for queue in range(4):
                front.rings.pop(queue, None)
                front.start_ring(queue)
            parameters = PcmSetParams(SoundRequest.PCM_SET_PARAMS, 0, **PARAMETERS)
            assert front.request(0, parameters.pack(), 4) == SoundHeader(SoundStatus.OK).pack()
            for code in (SoundRequest.PCM_PREPARE, SoundRequest.PCM_START):
                assert front.request(0, PcmHeader(code, 0).pack(), 4) == SoundHeader(SoundStatus.OK).pack()
            front.post(2, PcmTransfer(0).pack() + bytes(PERIOD), 8)
            until(lambda: len(device.streams[0].buffers) == 1, "the buffer is there")
            for queue in range(4):
                front.stop_ring(queue)
    finally:
        front.close()
