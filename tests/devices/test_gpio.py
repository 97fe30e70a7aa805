"""GPIO lines driven in this process; C053, C054, C075, C124, C134; virtio 1.4, 5.18.6."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.drivers import resume
from vhost_user.devices import Gpio, Line
from vhost_user.frontend import DeviceError, GpioDriver, PeerTimeout
from vhost_user.spec.gpio import GpioDirection, GpioIrqRequest, GpioIrqType, GpioRequest, GpioRequestType
from vhost_user.testing.virtio import Virtio, VirtioDevice

PROMPT = 0.5
Drive = Callable[[Gpio], GpioDriver]
IN, OUT, NONE = GpioDirection.IN, GpioDirection.OUT, GpioDirection.NONE


@pytest.fixture
def attached(virtio: Virtio, packed: bool) -> Callable[[Gpio], VirtioDevice]:
    return lambda board: virtio.attach(board, packed=packed)


@pytest.fixture
def drive(attached: Callable[[Gpio], VirtioDevice]) -> Drive:
    return lambda board: attached(board).drive(GpioDriver)


def interrupted(gpio: GpioDriver, line: int) -> bool:
    """An interrupt came, as Linux sees it: a buffer that comes back INVALID is queued again."""
    while not gpio.wait_irq(line):
        pass
    return True


def quiet(gpio: GpioDriver, line: int) -> None:
    """No interrupt of the line comes: what the driver asks afterwards is answered, and there is none yet."""
    gpio.arm(line)
    gpio.value(line)
    with pytest.raises(PeerTimeout):
        gpio.wait_irq(line, timeout=0.02)


def test_names_directions_and_values(drive: Drive) -> None:
    board = Gpio(Line("button", rest=1), "led", "", "Red LED Vdd")
    gpio = drive(board)
    assert gpio.config.ngpio == 4
    assert gpio.names() == ["button", "led", "", "Red LED Vdd"]
    assert [gpio.direction(line) for line in range(4)] == [NONE] * 4
    assert gpio.value(0) == 1
    gpio.set_direction(0, IN)
    gpio.set_value(1, 1)
    assert board.line("led").level == 0  # not an output yet
    gpio.set_direction(1, OUT)
    assert (gpio.direction(1), gpio.value(1), board.line("led").level) == (OUT, 1, 1)
    gpio.set_value(1, 0)
    assert board.line(1).level == 0
    board.line("button").press()
    assert gpio.value(0) == 0
    board.line("button").toggle()
    assert gpio.value(0) == 1


def test_without_names_there_are_none(drive: Drive) -> None:
    gpio = drive(Gpio("", ""))
    assert gpio.config.gpio_names_size == 0
    with pytest.raises(DeviceError, match="GET_LINE_NAMES"):
        gpio._ask(GpioRequestType.GET_LINE_NAMES, 0, 0, 16)


def test_a_program_hears_of_outputs_and_may_answer(drive: Drive) -> None:
    seen: list[int] = []
    button = Line("button")

    def answer(level: int) -> None:
        seen.append(level)
        button.set(level)

    board = Gpio(button, Line("led", on_change=answer))
    gpio = drive(board)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    gpio.set_direction(1, OUT)
    gpio.arm(0)
    waiting = threading.Thread(target=board.line("led").wait, args=(1,))
    waiting.start()
    gpio.set_value(1, 1)
    assert gpio.wait_irq(0)
    waiting.join(10)
    assert not waiting.is_alive()
    gpio.set_value(1, 1)
    gpio.set_value(1, 0)
    assert seen == [1, 0]
    with pytest.raises(TimeoutError, match="'led', OUT, 0> is not 1"):
        board.line("led").wait(1, timeout=0.01)


@pytest.mark.parametrize(
    ("kind", "levels", "interrupts"),
    [
        (GpioIrqType.EDGE_RISING, [1, 0, 1], [True, False, True]),
        (GpioIrqType.EDGE_FALLING, [1, 0, 1], [False, True, False]),
        (GpioIrqType.EDGE_BOTH, [1, 0, 0], [True, True, False]),
        (GpioIrqType.LEVEL_HIGH, [1, 0, 1, 1], [True, False, True, True]),
        (GpioIrqType.LEVEL_LOW, [0, 1, 0, 0], [True, False, True, True]),
    ],
)
def test_each_type_of_interrupt(
    drive: Drive, kind: GpioIrqType, levels: list[int], interrupts: list[bool]
) -> None:
    board = Gpio("button")
    gpio = drive(board)
    if kind is GpioIrqType.LEVEL_LOW:
        board.line(0).set(1)
    gpio.set_direction(0, IN)
    gpio.set_irq_type(0, kind)
    quiet(gpio, 0)
    for level, interrupt in zip(levels, interrupts, strict=True):
        board.line(0).set(level)
        if interrupt:
            assert gpio.wait_irq(0)
        else:
            quiet(gpio, 0)


def test_an_edge_while_masked_is_kept_once_and_a_level_is_not(drive: Drive) -> None:
    board = Gpio("edge", "level")
    gpio = drive(board)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    gpio.set_irq_type(1, GpioIrqType.LEVEL_HIGH)
    for _ in range(3):
        for line in board.lines:
            line.press()
            line.release()
    assert gpio.wait_irq(0)
    quiet(gpio, 0)
    quiet(gpio, 1)
    board.line("level").press()
    for _ in range(3):
        assert gpio.wait_irq(1)  # as long as it lasts


def test_an_edge_that_was_kept_is_forgotten_when_the_interrupt_is_turned_off(drive: Drive) -> None:
    board = Gpio("button")
    gpio = drive(board)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    board.line(0).press()
    gpio.set_irq_type(0, GpioIrqType.NONE)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    quiet(gpio, 0)


@pytest.mark.parametrize("how", ["type", "direction none", "direction out"])
def test_buffers_come_back_invalid_when_the_interrupt_is_turned_off(drive: Drive, how: str) -> None:
    gpio = drive(Gpio("button"))
    assert not gpio.wait_irq(0)  # unmasked, but not enabled
    gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)
    quiet(gpio, 0)
    if how == "type":
        gpio.set_irq_type(0, GpioIrqType.NONE)
    else:
        gpio.set_direction(0, NONE if how == "direction none" else OUT)
    assert not gpio.wait_irq(0)


def test_direction_none_discards_what_was_said_of_the_line(drive: Drive) -> None:
    board = Gpio("led")
    gpio = drive(board)
    gpio.set_value(0, 1)
    gpio.set_direction(0, OUT)
    gpio.set_direction(0, NONE)
    assert board.line(0).level == 0
    gpio.set_direction(0, OUT)
    assert gpio.value(0) == 0


@pytest.mark.parametrize(
    ("kind", "line", "value"),
    [
        (0, 0, 0),
        (7, 0, 0),
        (0xFFFF, 0, 0),
        (GpioRequestType.GET_VALUE, 2, 0),
        (GpioRequestType.SET_VALUE, 0xFFFF, 1),
        (GpioRequestType.SET_VALUE, 0, 2),
        (GpioRequestType.SET_DIRECTION, 0, 3),
        (GpioRequestType.SET_DIRECTION, 0, 0xFFFF_FFFF),
        (GpioRequestType.SET_IRQ_TYPE, 0, 5),
        (GpioRequestType.SET_IRQ_TYPE, 1, GpioIrqType.EDGE_BOTH),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    virtio: Virtio, drive: Drive, kind: int, line: int, value: int
) -> None:
    board = Gpio("in", "out")
    gpio = drive(board)
    gpio.set_direction(1, OUT)
    before = [each.saved() for each in board.lines]
    assert gpio.queues[0].request(GpioRequest(kind, line, value).pack(), 2) == b"\1\0"
    assert [each.saved() for each in board.lines] == before
    assert virtio.errors == []


def test_without_the_feature_there_are_no_interrupts(virtio: Virtio, packed: bool) -> None:
    gpio = virtio.attach(Gpio("button"), packed=packed, features=0).drive(GpioDriver)
    with pytest.raises(DeviceError, match="SET_IRQ_TYPE"):
        gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)


@pytest.mark.alone
def test_C054_a_stop_with_buffers_held_is_answered_at_once_and_no_edge_is_lost(drive: Drive) -> None:
    board = Gpio("button", "other")
    gpio = drive(board)
    for line in (0, 1):
        gpio.set_irq_type(line, GpioIrqType.EDGE_RISING)
        quiet(gpio, line)
    for _ in range(3):
        before = time.monotonic()
        for queue in (0, 1):
            gpio.stop_queue(queue)
        assert time.monotonic() - before < PROMPT
        board.line("button").press()
        board.line("button").release()
        for queue in (0, 1):
            resume(gpio, queue)
        assert interrupted(gpio, 0)
        gpio.arm(0)
    board.line("other").press()
    assert interrupted(gpio, 1)  # its buffer was older than those that were used, and is not lost


def test_C054_a_buffer_that_others_overtook_comes_back_with_a_status(drive: Drive) -> None:
    board = Gpio("old", "new")
    gpio = drive(board)
    for line in (0, 1):
        gpio.set_irq_type(line, GpioIrqType.EDGE_RISING)
        quiet(gpio, line)
    board.line("new").press()
    assert gpio.wait_irq(1)
    gpio.arm(1)
    gpio.stop_queue(1)
    resume(gpio, 1)
    pending = gpio._interrupts[0]
    assert pending.wait(10) == b"\0"
    assert pending.length == 1  # Linux takes no other for an answer


def test_C075_a_reset_makes_all_lines_inactive(drive: Drive) -> None:
    board = Gpio("button", "led")
    gpio = drive(board)
    gpio.set_value(1, 1)
    gpio.set_direction(1, OUT)
    gpio.set_irq_type(0, GpioIrqType.EDGE_BOTH)
    gpio.arm(0)
    gpio.frontend.reset_device(need_reply=True)
    assert [line.saved() for line in board.lines] == [[0, 0, 0, 0]] * 2
    assert board.line("led").level == 0


def test_C134_a_driver_that_goes_with_buffers_held_leaves_a_device_for_the_next(
    attached: Callable[[Gpio], VirtioDevice],
) -> None:
    board = Gpio("button")
    device = attached(board)
    for _ in range(3):
        gpio = device.drive(GpioDriver)
        gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
        quiet(gpio, 0)
        board.line(0).press()
        assert gpio.wait_irq(0)
        board.line(0).release()
        gpio.arm(0)


def test_C124_what_the_driver_said_goes_along_in_a_migration(virtio: Virtio, packed: bool) -> None:
    here, there = Gpio("button", "led"), Gpio("button", "led")
    source = virtio.attach(here, packed=packed)
    gpio = source.drive(GpioDriver)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    here.line(0).press()
    gpio.set_value(1, 1)
    gpio.set_direction(1, OUT)
    for queue in (0, 1):
        gpio.stop_queue(queue)
    destination = virtio.attach(there, packed=packed)
    destination.load_state(source.save_state())
    assert there.line("led").level == 1
    after = destination.drive(GpioDriver)
    assert after.direction(1) is OUT
    assert after.wait_irq(0)  # the edge that was latched


@pytest.mark.parametrize(
    "state", [None, b"", [], [[0, 0, 0]], [[0, 0, 0, 0]] * 2, [[3, 0, 0, 0]], [[0, 2, 0, 0]], [["0"] * 4]]
)
def test_C125_a_state_that_makes_no_sense_is_refused(state: object) -> None:
    board = Gpio("one")
    with pytest.raises(ValueError, match=r"state|not a valid|level"):
        board.load_state(state, 1)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "at least one"),
        (("a", "a"), "same name"),
        (("lämp",), "ASCII"),
        (("a\0b",), "ASCII"),
    ],
)
def test_lines_that_make_no_sense_are_refused(lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Gpio(*lines)


def test_a_line_belongs_to_one_device_and_works_before_it_is_served() -> None:
    line = Line("button")
    Gpio(line)
    with pytest.raises(ValueError, match="belongs to a device"):
        Gpio(line)
    line.press()
    assert line.level == 1
    with pytest.raises(ValueError, match="0 or 1"):
        line.set(2)
    with pytest.raises(ValueError, match="0 or 1"):
        Line(rest=7)


def test_C134_a_driver_that_was_at_work_before_hears_of_its_button(virtio: Virtio, packed: bool) -> None:
    """What a new program meets after SIGKILL: rings in the middle, a driver that says nothing again."""
    board = Gpio("button", "led")
    gpio = virtio.attach(board, packed=packed).drive(GpioDriver)
    gpio.set_irq_type(0, GpioIrqType.EDGE_RISING)
    gpio.set_value(1, 0)
    gpio.set_direction(1, OUT)
    quiet(gpio, 0)
    for queue in (0, 1):
        gpio.stop_queue(queue)
    board.reset()  # a new program knows nothing
    for queue in (0, 1):
        resume(gpio, queue)
    quiet(gpio, 0)
    board.line("button").press()
    assert gpio.wait_irq(0)
    gpio.set_value(1, 1)
    board.line("led").wait(1)


def test_an_event_buffer_that_names_no_line_comes_back(drive: Drive) -> None:
    gpio = drive(Gpio("button"))
    events = gpio.queues[1]
    for readable in (b"", b"\0", GpioIrqRequest(1).pack(), GpioIrqRequest(0xFFFF).pack()):
        assert events.request(readable, 1) == b"\0"
