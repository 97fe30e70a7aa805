"""The clock device, driven in this process; C054, C075, C124, C125, C134."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vhost_user.device_types import OptionError, find
from vhost_user.devices import Clock, Rtc
from vhost_user.devices.rtc_clock import SECOND, TAI_AHEAD
from vhost_user.frontend import DeviceError, PeerTimeout, RtcDriver, VirtioDriver
from vhost_user.spec.rtc import (
    ClockType,
    HardwareCounter,
    RtcClockRequest,
    RtcCounterRequest,
    RtcEnableAlarm,
    RtcFlag,
    RtcHead,
    RtcRequestType,
    RtcSetAlarm,
    RtcStatus,
    Smearing,
)
from vhost_user.testing.virtio import Virtio

NOON = 1_000_000_000 * SECOND


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., RtcDriver]:
    """Serve clocks, and bring a driver up on them."""

    def up(device: Rtc, **options: Any) -> RtcDriver:
        return virtio.attach(device, packed=packed).drive(RtcDriver, **options)

    return up


def frozen(when: int = NOON, kind: ClockType = ClockType.UTC) -> Clock:
    clock = Clock(kind)
    if kind is not ClockType.MONOTONIC:
        clock.freeze()
        clock.travel(when)
    return clock


def test_the_clocks_of_the_host(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc())
    assert driver.num_clocks == 3
    kinds = [driver.capability(number).type for number in range(3)]
    assert kinds == [ClockType.UTC, ClockType.TAI, ClockType.MONOTONIC]
    before = time.time_ns()
    utc = driver.read(0)
    assert before <= utc <= time.time_ns()
    before = time.time_ns()
    assert driver.read(1) >= before + min(TAI_AHEAD, SECOND)
    first = time.monotonic_ns()
    readings = [driver.read(2) for _ in range(20)]
    assert readings == sorted(readings)
    assert first <= readings[0]
    assert readings[-1] <= time.monotonic_ns()


def test_a_smeared_clock_says_how(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc([Clock(ClockType.UTC_SMEARED, smearing=Smearing.NOON_LINEAR), Clock()]))
    capability = driver.capability(0)
    assert (capability.type, capability.leap_second_smearing) == (
        ClockType.UTC_SMEARED,
        Smearing.NOON_LINEAR,
    )
    assert driver.capability(1).leap_second_smearing == Smearing.UNSPECIFIED


def test_there_may_be_no_clock(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc([]))
    assert driver.num_clocks == 0
    with pytest.raises(DeviceError) as error:
        driver.read(0)
    assert error.value.status == RtcStatus.ENODEV


def test_travel_freeze_and_thaw(drive: Callable[..., RtcDriver]) -> None:
    clock = Clock()
    driver = drive(Rtc([clock]))
    clock.freeze()
    clock.travel(datetime(1985, 10, 26, 1, 20, tzinfo=UTC))
    assert driver.read(0) == 499_137_600 * SECOND
    clock.travel(timedelta(hours=-1))
    assert driver.read(0) == driver.read(0) == 499_134_000 * SECOND
    clock.thaw()
    assert driver.read(0) > 499_134_000 * SECOND
    clock.travel(NOON)
    assert NOON <= driver.read(0) < NOON + 3600 * SECOND
    assert not clock.frozen


def test_cross_timestamps_are_not_offered_and_refused(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc())
    for counter in HardwareCounter:
        assert not driver.can_cross(0, counter)
        with pytest.raises(DeviceError) as error:
            driver.read_cross(0, counter)
        assert error.value.status == RtcStatus.EOPNOTSUPP
    with pytest.raises(DeviceError) as error:
        driver.can_cross(0, 77)
    assert error.value.status == RtcStatus.EOPNOTSUPP


def test_an_alarm_rings_when_its_clock_gets_there(drive: Callable[..., RtcDriver]) -> None:
    clock = frozen()
    driver = drive(Rtc([Clock(), clock]))
    assert driver.capability(1).flags == RtcFlag.ALARM
    assert (driver.alarm(1).alarm_time, driver.alarm(1).flags) == (0, 0)
    driver.set_alarm(1, NOON + 10)
    assert (driver.alarm(1).alarm_time, driver.alarm(1).flags) == (NOON + 10, RtcFlag.ALARM)
    clock.travel(NOON + 9)
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)
    clock.travel(NOON + 10)
    assert driver.wait_alarm() == 1
    clock.travel(NOON + 20)  # it is past already: not once more
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)
    clock.travel(NOON)  # back, and there again: it is still enabled
    clock.travel(NOON + 30)
    assert driver.wait_alarm() == 1


def test_an_alarm_of_a_clock_that_runs_rings_by_itself(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc())
    for clock in (0, 2):
        driver.set_alarm(clock, driver.read(clock) + SECOND // 20)
        assert driver.wait_alarm() == clock
        assert driver.read(clock) >= driver.alarm(clock).alarm_time


def test_an_alarm_in_the_past_rings_when_it_is_enabled(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc([frozen()]))
    driver.set_alarm(0, NOON)
    assert driver.wait_alarm() == 0
    driver.set_alarm(0, NOON - 5, enabled=False)
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)
    driver.enable_alarm(0)
    assert driver.wait_alarm() == 0
    assert driver.alarm(0).alarm_time == NOON - 5


def test_an_alarm_that_is_turned_off_does_not_ring(drive: Callable[..., RtcDriver]) -> None:
    clock = frozen()
    driver = drive(Rtc([clock]))
    driver.set_alarm(0, NOON + 5)
    driver.enable_alarm(0, False)
    clock.travel(NOON + 10)
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)


def test_alarms_without_buffers_wait_and_are_one_for_each_clock(drive: Callable[..., RtcDriver]) -> None:
    clock = frozen()
    driver = drive(Rtc([clock]))
    driver.stop_queue(1)
    for _ in range(50):
        driver.set_alarm(0, NOON)
    driver.start_queue(1)
    driver.frontend.set_vring_enable(1, True)
    assert driver.wait_alarm() == 0
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)


def test_an_alarm_that_is_turned_off_before_it_was_told_is_not_told(
    drive: Callable[..., RtcDriver],
) -> None:
    driver = drive(Rtc([frozen()]))
    driver.stop_queue(1)
    driver.set_alarm(0, NOON)
    driver.enable_alarm(0, False)
    driver.start_queue(1)
    driver.frontend.set_vring_enable(1, True)
    with pytest.raises(PeerTimeout):
        driver.wait_alarm(timeout=0.05)


def test_without_the_feature_there_are_no_alarms(drive: Callable[..., RtcDriver]) -> None:
    driver = drive(Rtc(), features=0)
    assert driver.capability(0).flags == 0
    for call in (lambda: driver.alarm(0), lambda: driver.set_alarm(0, 1), lambda: driver.enable_alarm(0)):
        with pytest.raises(DeviceError) as error:
            call()
        assert error.value.status == RtcStatus.EOPNOTSUPP


@pytest.mark.parametrize(
    ("request_", "writable", "status"),
    [
        (RtcHead(RtcRequestType.READ).pack() + RtcClockRequest(3).pack(), 16, RtcStatus.ENODEV),
        (RtcHead(RtcRequestType.READ).pack() + RtcClockRequest(0).pack(), 15, RtcStatus.EINVAL),
        (RtcHead(RtcRequestType.READ).pack() + RtcClockRequest(0).pack(), 1, RtcStatus.EINVAL),
        (RtcHead(RtcRequestType.READ).pack() + RtcClockRequest(0).pack()[:7], 16, RtcStatus.EINVAL),
        (RtcHead(RtcRequestType.CFG).pack()[:7], 16, RtcStatus.EINVAL),
        (b"", 16, RtcStatus.EINVAL),
        (RtcHead(0).pack(), 16, RtcStatus.EOPNOTSUPP),
        (RtcHead(0x1006).pack(), 16, RtcStatus.EOPNOTSUPP),
        (RtcHead(RtcRequestType.READ_CROSS).pack() + RtcCounterRequest(9, 1).pack(), 24, RtcStatus.ENODEV),
        (RtcHead(RtcRequestType.SET_ALARM).pack() + RtcSetAlarm(1, 0, 2).pack(), 8, RtcStatus.EINVAL),
        (RtcHead(RtcRequestType.SET_ALARM_ENABLED).pack() + RtcEnableAlarm(0, 3).pack(), 8, RtcStatus.EINVAL),
    ],
)
def test_requests_that_cannot_be_get_the_status_of_the_specification(
    drive: Callable[..., RtcDriver], request_: bytes, writable: int, status: RtcStatus
) -> None:
    answer = drive(Rtc()).queue(0).request(request_, writable)
    assert answer == bytes([status]).ljust(min(8, writable), b"\0")


def test_C075_C134_alarms_end_with_their_driver(virtio: Virtio, packed: bool) -> None:
    clock = frozen()
    attached = virtio.attach(Rtc([clock]), packed=packed)
    for reset in (True, False, True):
        driver = attached.drive(RtcDriver)
        assert (driver.alarm(0).alarm_time, driver.alarm(0).flags) == (0, 0)
        driver.set_alarm(0, NOON + 1)
        if reset:
            driver.frontend.reset_device(need_reply=True)
        attached.disconnect()
    clock.travel(NOON + 2)
    with pytest.raises(PeerTimeout):
        attached.drive(RtcDriver).wait_alarm(timeout=0.05)


def test_C124_alarms_go_along(virtio: Virtio) -> None:
    clocks = [frozen(), frozen()]
    source, target = (virtio.attach(Rtc([clock])) for clock in clocks)
    driver = source.drive(RtcDriver)
    driver.set_alarm(0, NOON + 5)
    for queue in range(2):
        driver.stop_queue(queue)
    target.load_state(source.save_state())
    moved = target.drive(RtcDriver)
    assert moved.alarm(0).alarm_time == NOON + 5
    clocks[1].travel(NOON + 5)
    assert moved.wait_alarm() == 0


def test_a_clock_may_be_moved_before_and_after_it_is_served(virtio: Virtio) -> None:
    clock = frozen()
    device = Rtc([clock])
    clock.travel(NOON + 1)
    attached = virtio.attach(device)
    driver = attached.drive(RtcDriver)
    clock.thaw()
    driver.set_alarm(0, NOON + 3600 * SECOND)
    attached.disconnect()
    assert attached.daemon is not None
    attached.daemon.close()
    clock.travel(NOON)
    clock.travel(NOON + 3601 * SECOND)


@pytest.mark.parametrize(
    "state", [None, [], [1], [[1, True, True]], [[-1, True, True, True]], [[1 << 64, True, True, True]]]
)
def test_C125_a_state_that_is_none_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="the state of"):
        Rtc([Clock()]).load_state(state, 1)


@pytest.mark.alone
def test_C054_it_stops_at_once_with_buffers_for_alarms_held(drive: Callable[..., VirtioDriver]) -> None:
    driver = drive(Rtc())
    before = time.monotonic()
    for queue in range(2):
        driver.stop_queue(queue)
    assert time.monotonic() - before < 1


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Clock(ClockType.TAI, smearing=Smearing.UTC_SLS), ValueError, "TAI is not smeared"),
        (lambda: Clock().travel(datetime(2000, 1, 1)), ValueError, "says no time zone"),  # noqa: DTZ001
        (lambda: Clock().travel(-1), ValueError, "64 bits of nanoseconds"),
        (lambda: Clock(ClockType.MONOTONIC).travel(timedelta(seconds=-1)), ValueError, "does not go back"),
        (lambda: find("rtc").make(time="yesterday"), OptionError, "'yesterday' is not a time"),
        (lambda: find("rtc").make(time="2000-01-01", utc=False), OptionError, "exclude --no-utc"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    make: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_the_options_say_which_clocks_there_are() -> None:
    device = find("rtc").make(time="1985-10-26T01:20:00", tai=False, smeared="utc-sls")
    assert [clock.kind for clock in device.clocks] == [ClockType.UTC_SMEARED, ClockType.MONOTONIC]
    assert 0 <= device.clocks[0].now() - 499_137_600 * SECOND < 3600 * SECOND
    assert device.clocks[0].smearing is Smearing.UTC_SLS
