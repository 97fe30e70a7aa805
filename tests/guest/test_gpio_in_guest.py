"""Buttons and LEDs of a real guest: Linux's own driver (gpio-virtio) and the tools of libgpiod."""

from __future__ import annotations

import pytest

from tests.support.front_end import until
from vhost_user.devices import Gpio, Line
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_drivers import locate_driver_kernel
from vhost_user.testing.guest_qemu import locate_qemu

pytestmark = pytest.mark.guest

CHIP = "/dev/gpiochip0"
TOOLS = ("gpioinfo", "gpioget", "gpioset", "gpiomon")


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def enabled(line: Line, kind: GpioIrqType) -> None:
    until(lambda: line.irq_type is kind, "the interrupt is as the guest wants it")


def told(line: Line) -> None:
    until(lambda: not line.latched, "the guest was told")


def test_lines_are_read_and_written(virtio_guest: BootGuest) -> None:
    """The installed QEMU will do. That of 7.2 does not hand the feature IRQ on."""
    lit: list[int] = []
    board = Gpio(Line("button", rest=1), Line("led", on_change=lit.append), "")
    button, led = board.line("button"), board.line("led")
    guest = virtio_guest(board, kernel=locate_driver_kernel(), programs=TOOLS)
    info = guest.run(f"gpioinfo {CHIP}")
    assert "3 lines" in info
    assert '"button"' in info
    assert '"led"' in info
    assert "unnamed" in info
    assert guest.run(f"gpioget {CHIP} 0") == "1\n"
    button.press()
    assert guest.run(f"gpioget {CHIP} 0") == "0\n"
    guest.run(f"gpioset {CHIP} 1=1")  # and lets go of it
    assert lit == [1, 0]
    assert led.direction is GpioDirection.NONE
    holding = guest.start(f"gpioset --mode=time --sec=1 {CHIP} 1=1")
    led.wait(1, timeout=30)
    assert holding.wait().status == 0
    led.wait(0)


def test_edges_interrupt(virtio_guest: BootGuest) -> None:
    board = Gpio(Line("button", rest=1))
    button = board.line("button")
    guest = virtio_guest(board, kernel=locate_driver_kernel(), programs=TOOLS, qemu=locate_qemu())
    for option, kind, word, count in (
        ("--falling-edge", GpioIrqType.EDGE_FALLING, "FALLING EDGE", 3),
        ("--rising-edge", GpioIrqType.EDGE_RISING, "RISING EDGE", 3),
        ("", GpioIrqType.EDGE_BOTH, "EDGE", 6),
    ):
        command = guest.start(f"gpiomon --num-events={count} {option} {CHIP} 0")
        enabled(button, kind)
        for _ in range(3):
            button.press()
            if kind is GpioIrqType.EDGE_BOTH:
                told(button)
            button.release()
            told(button)
        assert command.wait().output.count(word) == count
        enabled(button, GpioIrqType.NONE)


def test_C054_a_pause_loses_no_press_and_a_reboot_begins_anew(virtio_guest: BootGuest, packed: bool) -> None:
    board = Gpio("first", "second")
    board.packed = packed
    guest = virtio_guest(board, kernel=locate_driver_kernel(), programs=TOOLS, qemu=locate_qemu())
    for _ in range(2):
        for number, line in enumerate(board.lines):
            guest.run(f"gpiomon --num-events=4 --rising-edge {CHIP} {number} </dev/null >/{number} 2>&1 &")
            enabled(line, GpioIrqType.EDGE_RISING)
        for _ in range(4):
            board.line("second").press()  # overtakes the buffer of the first
            board.line("second").release()
            told(board.line("second"))
            guest.qmp("stop")
            board.line("first").press()
            board.line("first").release()
            guest.qmp("cont")
            told(board.line("first"))
        for number, line in enumerate(board.lines):
            enabled(line, GpioIrqType.NONE)
            # It lets go of the line, and then writes what it has to say.
            assert (
                guest.run(f"while pidof gpiomon >/dev/null; do sleep 0.1; done; grep -c RISING /{number}")
                == "4\n"
            )
        guest.reboot()
