"""A guest that turns a fan on when it gets hot, tested with a sensor that a test sets. Run it with pytest."""

from vhost_user.devices import Scmi, Sensor
from vhost_user.frontend import ScmiDriver
from vhost_user.spec.scmi import SensorUnit, TripPoint
from vhost_user.testing.virtio import Virtio

HOT, COLD = 0, 1


class Fan:
    """What is tested here: on from 80 degrees, and off below 60."""

    def __init__(self, scmi: ScmiDriver) -> None:
        self.scmi, self.on = scmi, False
        scmi.set_trip_point(0, HOT, 80_000, TripPoint.POSITIVE)
        scmi.set_trip_point(0, COLD, 60_000, TripPoint.NEGATIVE)
        scmi.notify_crossings(0)

    def step(self) -> None:
        _, point, _ = self.scmi.wait_crossing()
        self.on = point == HOT


def test_it_does_not_flutter(virtio: Virtio) -> None:
    cpu = Sensor("cpu", SensorUnit.CELSIUS, value=40)
    scmi = virtio.attach(Scmi(cpu)).drive(ScmiDriver)
    fan = Fan(scmi)
    assert scmi.value(0) == 40
    for degrees in (79, 81, 70, 75, 59.5):  # two of them are crossings
        cpu.value = degrees
    fan.step()
    assert fan.on
    fan.step()
    assert not fan.on
