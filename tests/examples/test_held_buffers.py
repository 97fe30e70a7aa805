"""Two examples whose buffers wait: a button and a terminal. Stop, restart and reset with buffers held.

C053, C054, C060, C075, C129, C130, C134.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support.drivers import resume
from tests.support.examples import EXAMPLES, load
from vhost_user.frontend import ConsoleDriver, GpioDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.protocol.errors import PeerTimeout
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.virtio import Virtio, VirtioDevice

PROMPT = 0.1
"""Seconds in which GET_VRING_BASE is to be answered although buffers are held."""


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def board(virtio: Virtio, packed: bool) -> tuple[Any, GpioDriver, VirtioDevice]:
    device = load("button").Board()
    attached = virtio.attach(device, packed=packed)
    return device, attached.drive(GpioDriver), attached


@pytest.fixture
def terminal(virtio: Virtio, packed: bool) -> tuple[Any, ConsoleDriver, VirtioDevice]:
    device = load("terminal").Terminal()
    attached = virtio.attach(device, packed=packed)
    return device, attached.drive(ConsoleDriver), attached


def test_they_are_short() -> None:
    for name in ("button", "terminal"):
        lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
        code = [line for line in lines if line.strip() and not line.strip().startswith(('"""', "#"))]
        assert len(code) <= 40, name


def test_a_button_pressed_by_another_thread_interrupts(board: tuple[Any, GpioDriver, VirtioDevice]) -> None:
    device, gpio, _ = board
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    gpio.arm(0)
    gpio.arm(1)
    assert gpio.direction(0) == GpioDirection.IN
    thread = threading.Thread(target=device.press)
    thread.start()
    assert gpio.wait_irq(0)
    thread.join()
    assert gpio.value(0) == 1
    gpio.set_value(1, 1)
    assert device.levels == [1, 1]
    with pytest.raises(PeerTimeout):
        gpio.wait_irq(1, timeout=0.01)


def test_a_refused_request_is_an_answer_and_logs_no_error(
    board: tuple[Any, GpioDriver, VirtioDevice], virtio: Virtio
) -> None:
    _, gpio, _ = board
    with pytest.raises(DeviceError, match="status 1"):
        gpio.value(7)
    assert virtio.errors == []


@pytest.mark.alone
def test_C054_a_stop_with_buffers_held_is_answered_at_once_and_loses_none(
    board: tuple[Any, GpioDriver, VirtioDevice],
) -> None:
    device, gpio, _ = board
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    gpio.arm(1)
    gpio.arm(0)
    device.events.take_where(lambda _: False)  # both are held by the device now
    for _ in range(3):
        before = time.monotonic()
        for queue in (0, 1):
            gpio.stop_queue(queue)
        assert time.monotonic() - before < PROMPT
        for queue in (0, 1):
            resume(gpio, queue)
    device.press()
    assert gpio.wait_irq(0)
    assert gpio.value(0) == 1


@pytest.mark.alone
def test_C134_a_driver_that_goes_with_buffers_held_leaves_a_device_for_the_next(
    board: tuple[Any, GpioDriver, VirtioDevice],
) -> None:
    device, gpio, attached = board
    for _ in range(3):
        gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)
        gpio.arm(0)
        device.events.take_where(lambda _: False)
        before = time.monotonic()
        attached.disconnect()
        gpio = attached.drive(GpioDriver)
        assert time.monotonic() - before < 5 * PROMPT
        gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)
        gpio.arm(0)
        device.press(False)
        assert gpio.wait_irq(0)


@pytest.mark.alone
def test_C075_a_reset_with_buffers_held_is_answered_at_once(
    board: tuple[Any, GpioDriver, VirtioDevice],
) -> None:
    device, gpio, _ = board
    gpio.arm(0)
    device.events.take_where(lambda _: False)
    before = time.monotonic()
    gpio.frontend.reset_device(need_reply=True)
    assert time.monotonic() - before < PROMPT


def test_a_line_typed_comes_back_and_what_was_said_meanwhile_too(
    terminal: tuple[Any, ConsoleDriver, VirtioDevice],
) -> None:
    device, console, _ = terminal
    console.write(b"hello\n")
    assert console.read_until(b"\n") == b"HELLO\n"
    console.stop_queue(0)
    assert device.to_guest.post(b"said while the queue was stopped\n")
    resume(console, 0)
    assert console.read_until(b"\n") == b"said while the queue was stopped\n"
    device.to_guest.post(bytes(100_000) + b"\n")  # more than all of its buffers
    assert len(console.read_until(b"\n")) == 100_001


def test_C130_a_resize_is_told_once_and_C129_the_rest_is_read_only(
    terminal: tuple[Any, ConsoleDriver, VirtioDevice],
) -> None:
    device, console, _ = terminal
    assert (console.config.cols, console.config.rows) == (80, 25)
    device.resize(132, 43)
    assert console.config_changed.wait(10)
    assert console.config_changes == 1
    config = console.read_configuration()
    assert (config.cols, config.rows) == (132, 43)
    console.frontend.set_config(8, b"!\0\0\0")
    assert device.config.emerg_wr == ord("!")


@pytest.mark.alone
def test_C054_a_terminal_stops_at_once(terminal: tuple[Any, ConsoleDriver, VirtioDevice]) -> None:
    device, console, _ = terminal
    assert device.to_guest.has_buffer
    before = time.monotonic()
    for queue in (0, 1):
        console.stop_queue(queue)
    assert time.monotonic() - before < PROMPT
