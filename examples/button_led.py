"""A button and an LED: mock the hardware, and test what a driver makes of it. A test: run it with pytest."""

from vhost_user.devices import Gpio, Line
from vhost_user.frontend import GpioDriver
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.virtio import Virtio

BUTTON, LED = 0, 1


def light_when_pressed(gpio: GpioDriver) -> None:
    """What is tested here: one press, one change of the LED."""
    assert gpio.wait_irq(BUTTON)
    gpio.set_value(LED, 1 - gpio.value(LED))


def test_each_press_switches_the_led(virtio: Virtio) -> None:
    board = Gpio(Line("button", rest=1), "led")  # the button has a pull-up: pressed is low
    gpio = virtio.attach(board).drive(GpioDriver)
    gpio.set_direction(BUTTON, GpioDirection.IN)
    gpio.set_irq_type(BUTTON, GpioIrqType.EDGE_FALLING)
    gpio.set_direction(LED, GpioDirection.OUT)
    for level in (1, 0, 1):
        board.line("button").press()
        board.line("button").release()
        light_when_pressed(gpio)
        board.line("led").wait(level)
