"""A traffic light: three LEDs, a pedestrian's button, a temperature sensor. docs/board.md is the lesson.

vhost-user board examples/board_traffic_light.py      with a page, for a guest
python3 examples/board_traffic_light.py               with a page, and without a guest: ``Cars`` is the driver
pytest examples/board_traffic_light.py                the test at the end
"""

import contextlib
import tempfile
import time

from vhost_user.board import Board, Button, Led, Panel, Registers, Slider
from vhost_user.board.server import PageServer
from vhost_user.board.serving import ServedBoard
from vhost_user.devices import Console, Gpio, I2c, I2cModel, Line, Register
from vhost_user.frontend import GpioDriver, I2cDriver
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.virtio import Virtio

# The hardware


class TMP102(I2cModel):
    """A thermometer: 12 bits of 1/16 °C, or 13 if a driver wants (the kernel's does)."""

    degrees = 0.0

    temperature = Register(0x00, size=2, signed=True)
    configuration = Register(0x01, size=2, default=0x60A0, writable=True)

    def is_at(self, celsius: float) -> None:
        self.degrees = celsius
        self.temperature = round(celsius * 16) << (3 if self.configuration & 0x10 else 4)

    def written(self, _register: Register) -> None:
        self.is_at(self.degrees)


RED, YELLOW, GREEN, BUTTON = range(4)

lights = Gpio("red", "yellow", "green", Line("button", rest=1))  # a pull-up: pressed is low
sensor = TMP102()
bus = I2c({0x48: sensor})

# What the page shows of it

board = Board(
    "A traffic light",
    lights=Panel(
        lights,
        *(Led(lights.line(colour), colour=colour) for colour in ("red", "yellow", "green")),
        Button(lights.line("button"), "Let me cross"),
    ),
    bus=Panel(
        bus,
        Slider(
            "Temperature", sensor.is_at, -20, 40, step=0.5, start=20, get=lambda: sensor.degrees, unit="°C"
        ),
        Registers(sensor),
    ),
    terminal=Console(),
)

# The driver: what a program in the guest would do


class Cars:
    """Green until somebody wants to cross. In frost the yellow lasts twice as long: brakes do, too."""

    def __init__(self, gpio: GpioDriver, i2c: I2cDriver) -> None:
        self.gpio, self.i2c = gpio, i2c
        for line in (RED, YELLOW, GREEN):
            gpio.set_direction(line, GpioDirection.OUT)
        gpio.set_direction(BUTTON, GpioDirection.IN)
        gpio.set_irq_type(BUTTON, GpioIrqType.EDGE_FALLING)
        gpio.arm(BUTTON)
        self.show(GREEN)

    def show(self, *lit: int) -> None:
        for line in (RED, YELLOW, GREEN):
            self.gpio.set_value(line, int(line in lit))

    def frost(self) -> bool:
        (data,) = self.i2c.transfer(0x48, [b"\x00", 2])
        return int.from_bytes(data, "big", signed=True) >> 4 < 3 * 16

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def let_cross(self) -> None:
        self.show(YELLOW)
        self.rest(4 if self.frost() else 2)
        self.show(RED)
        self.rest(5)
        self.show(RED, YELLOW)
        self.rest(1)
        self.show(GREEN)

    def run(self) -> None:
        while True:
            with contextlib.suppress(PeerTimeout):
                if self.gpio.wait_irq(BUTTON, timeout=1.0):
                    self.let_cross()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ServedBoard(board, folder) as served,
        PageServer(board) as page,
        GpioDriver(str(served.sockets["lights"])) as gpio,
        I2cDriver(str(served.sockets["bus"])) as i2c,
        contextlib.suppress(KeyboardInterrupt),
    ):
        cars = Cars(gpio, i2c)
        print(f"the page: {page.url}\nCtrl-C ends it", flush=True)
        cars.run()


if __name__ == "__main__":
    main()


# The test: nobody waits for seconds


class Hurried(Cars):
    """Takes down what is lit, and for how long, and does not wait."""

    phases: list[tuple[list[str], float]]

    def rest(self, seconds: float) -> None:
        lit = [line.name for line in lights.lines[:BUTTON] if line.level]
        self.phases.append((lit, seconds))


def test_whoever_wants_to_cross_stops_the_cars(virtio: Virtio) -> None:
    cars = Hurried(virtio.attach(lights).drive(GpioDriver), virtio.attach(bus).drive(I2cDriver))
    for celsius, braking in ((20, 2), (-4.5, 4)):
        board.panels["bus"].controls["Temperature"].act(celsius, "the test")
        lights.line("button").press()
        lights.line("button").release()
        assert cars.gpio.wait_irq(BUTTON)
        cars.phases = []
        cars.let_cross()
        assert cars.phases == [(["yellow"], braking), (["red"], 5), (["red", "yellow"], 1)]
        assert lights.line("green").level
