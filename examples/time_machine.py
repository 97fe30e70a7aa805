"""A clock that a test sets: a guest's alarm for new year rings at once. A test: run it with pytest."""

from datetime import UTC, datetime, timedelta

from vhost_user.devices import Clock, Rtc
from vhost_user.frontend import RtcDriver
from vhost_user.testing.virtio import Virtio

MIDNIGHT = datetime(2000, 1, 1, tzinfo=UTC)


def test_new_year(virtio: Virtio) -> None:
    clock = Clock()
    clock.freeze()
    clock.travel(MIDNIGHT - timedelta(days=1))
    guest = virtio.attach(Rtc([clock])).drive(RtcDriver)  # a real one would do just as well
    nanoseconds = int(MIDNIGHT.timestamp()) * 1_000_000_000
    guest.set_alarm(0, nanoseconds)
    assert guest.read(0) == nanoseconds - 86_400_000_000_000

    clock.travel(timedelta(days=1))
    assert guest.wait_alarm() == 0
    assert guest.read(0) == nanoseconds
