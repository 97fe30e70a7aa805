"""Devices under test: served in this process, driven over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.devices import Serve, serving_devices
from tests.support.input_events import AttachInput, DriveInput
from tests.support.scmi import Drive
from tests.support.sound import Card
from vhost_user.devices import Balloon, Clock, Input, InputSource, Scmi, Sound
from vhost_user.frontend import BalloonDriver, InputDriver, ScmiDriver, SoundDriver
from vhost_user.spec.rtc import ClockType
from vhost_user.testing.virtio import Virtio, VirtioDevice


@pytest.fixture
def serve_device() -> Iterator[Serve]:
    """A function that serves a device and gives the front-end's end of its socket."""
    with serving_devices() as serve:
        yield serve


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    """Everything that holds for both kinds of ring is tested on both."""
    return bool(request.param)


@pytest.fixture
def drive_balloon(virtio: Virtio, packed: bool) -> Callable[..., BalloonDriver]:
    """A function that serves a balloon, and brings a driver up on it."""

    def up(device: Balloon, **options: Any) -> BalloonDriver:
        return virtio.attach(device, packed=packed).drive(BalloonDriver, **options)

    return up


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until a test moves it."""
    standing = Clock(ClockType.MONOTONIC)
    standing.freeze()
    return standing


@pytest.fixture
def card(virtio: Virtio, packed: bool, clock: Clock) -> Callable[..., Card]:
    """A function that serves a sound device by that clock, and brings a driver up on it."""

    def made(*ends: Any, **options: Any) -> Card:
        device = Sound(*ends, clock=clock, **options)
        return Card(device, virtio.attach(device, packed=packed).drive(SoundDriver))

    return made


@pytest.fixture
def drive_scmi(virtio: Virtio, packed: bool) -> Drive:
    """A function that serves an SCMI platform, and brings a driver up on it."""

    def up(device: Scmi, **options: Any) -> ScmiDriver:
        return virtio.attach(device, packed=packed).drive(ScmiDriver, **options)

    return up


@pytest.fixture
def attach_input(virtio: Virtio, packed: bool) -> AttachInput:
    """A function that serves an input device with this source."""

    def attach(source: InputSource, **options: Any) -> VirtioDevice:
        return virtio.attach(Input(source), packed=packed, **options)

    return attach


@pytest.fixture
def drive_input(attach_input: AttachInput) -> DriveInput:
    """The same, and a driver that leaves so many buffers."""

    def drive(source: InputSource, *, buffers: int = 64, **options: Any) -> InputDriver:
        return attach_input(source, **options).drive(InputDriver, buffers=buffers)

    return drive
