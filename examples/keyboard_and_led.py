"""A keyboard that a test types on, and the LED that a driver lights. A test: run it with pytest."""

from vhost_user.devices import Input, Keyboard
from vhost_user.frontend import InputDriver
from vhost_user.spec.input_codes import Led
from vhost_user.spec.input_keys import Key
from vhost_user.testing.virtio import Virtio


def read_a_word(driver: InputDriver) -> str:
    """What is tested here: a driver that reads a word, and has a LED for CAPS LOCK."""
    word, capitals = "", False
    while True:
        (event,) = driver.report()
        key = Key(event.code)
        if not event.value:  # somebody let go of it
            continue
        if key is Key.KEY_ENTER:
            return word
        if key is Key.KEY_CAPSLOCK:
            capitals = not capitals
            driver.light(Led.LED_CAPSL, capitals)
        else:
            letter = key.name.removeprefix("KEY_")
            word += letter if capitals else letter.lower()


def test_caps_lock_is_for_capitals_and_has_a_light(virtio: Virtio) -> None:
    keyboard = Keyboard()
    driver = virtio.attach(Input(keyboard)).drive(InputDriver)  # a real guest would do just as well
    keyboard.type("hello")
    keyboard.tap("capslock")
    keyboard.type("world\n")
    assert read_a_word(driver) == "helloWORLD"
    keyboard.wait_for_led(Led.LED_CAPSL)
