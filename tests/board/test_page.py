"""The page in a real browser: what is clicked changes what a driver reads, what it writes is shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from tests.support.browser import Browser, Page
from tests.support.front_end import until
from vhost_user.board import Board, Button, Led, Panel, Registers, Slider, Switch
from vhost_user.board.server import PageServer
from vhost_user.devices import Console, Eeprom, Gpio, I2c, I2cModel, Line, Register
from vhost_user.frontend import ConsoleDriver, GpioDriver, I2cDriver
from vhost_user.spec.gpio import GpioDirection, GpioIrqType
from vhost_user.testing.virtio import Virtio

LED, BUTTON, SWITCH, SPARE = range(4)


class Sensor(I2cModel):
    temperature = Register(0x00, size=2, signed=True)
    configuration = Register(0x01, size=2, default=0x60A0, writable=True)

    def is_at(self, celsius: float) -> None:
        self.temperature = round(celsius * 16) << 4


class Bench:
    """A board with a driver for each device, and pages that show it."""

    def __init__(self, virtio: Virtio, chromium: Browser) -> None:
        self.lines = Gpio("led", Line("button", rest=1), "switch", "spare")
        self.sensor = Sensor()
        self.console = Console()
        bus = I2c({0x48: self.sensor, 0x50: Eeprom(b"hello")})
        line = self.lines.line
        self.board = Board(
            "A bench",
            pins=Panel(
                self.lines,
                Led(line("led"), colour="red"),
                Button(line("button"), "Press me"),
                Switch(line("switch")),
            ),
            bus=Panel(
                bus,
                Slider("Temperature", self.sensor.is_at, -40, 125, step=0.25, start=20, unit="°C"),
                Registers(self.sensor),
            ),
            all=Panel(I2c({0x50: Eeprom(b"hello")})),
            terminal=self.console,
        )
        self.server = PageServer(self.board, attach="-device vhost-user-gpio-pci")
        self.gpio = virtio.attach(self.lines).drive(GpioDriver)
        self.i2c = virtio.attach(bus).drive(I2cDriver)
        self.terminal = virtio.attach(self.console).drive(ConsoleDriver)
        self._chromium = chromium
        self.pages: list[Page] = []

    def open(self) -> Page:
        page = self._chromium.open(self.server.url)
        self.pages.append(page)
        page.shows("#connection", "live")
        return page

    def celsius(self) -> float:
        (data,) = self.i2c.transfer(0x48, [b"\x00", 2])
        return (int.from_bytes(data, "big", signed=True) >> 4) / 16

    def close(self) -> None:
        for page in self.pages:
            page.close()
        self.server.close()


@pytest.fixture
def bench(virtio: Virtio, chromium: Browser) -> Iterator[Bench]:
    made = Bench(virtio, chromium)
    try:
        yield made
        for page in made.pages:
            assert page.troubles() == []
            assert [url for url in page.requests() if not url.startswith(made.server.url)] == []
    finally:
        made.close()


def control(name: str, more: str = "") -> str:
    return f'[data-control="{name}"] {more}'.strip()


def lit(page: Page, name: str) -> Callable[[bool], None]:
    lamp = control(name, ".lamp")

    def check(wanted: bool) -> None:
        word = f"{name.partition('/')[2]}: {'on' if wanted else 'off'}"
        page.until(f"document.querySelector('{lamp}').getAttribute('aria-label') === '{word}'")
        page.until(f"document.querySelector('{lamp}').classList.contains('lit') === {str(wanted).lower()}")

    return check


def test_what_the_driver_writes_lights_the_led_on_every_page(bench: Bench) -> None:
    pages = [bench.open(), bench.open()]
    bench.gpio.set_direction(LED, GpioDirection.OUT)
    for level in (1, 0, 1):
        bench.gpio.set_value(LED, level)
        for page in pages:
            lit(page, "pins/led")(level == 1)
    assert "A bench" in pages[0].text("h1")
    pages[0].shows(control("pins/Driver"), "at work")


def test_a_button_that_is_held_is_what_the_driver_reads(bench: Bench) -> None:
    page, other = bench.open(), bench.open()
    button = control("pins/Press me", "button")
    bench.gpio.set_direction(BUTTON, GpioDirection.IN)
    bench.gpio.set_irq_type(BUTTON, GpioIrqType.EDGE_FALLING)
    bench.gpio.arm(BUTTON)
    assert bench.gpio.value(BUTTON) == 1
    page.hold(button)
    assert bench.gpio.wait_irq(BUTTON)
    assert bench.gpio.value(BUTTON) == 0
    other.until(f"document.querySelector('{button}').getAttribute('aria-pressed') === 'true'")
    page.let_go(button)
    until(lambda: bench.gpio.value(BUTTON) == 1)
    # By the keyboard.
    page.focus(button)
    page.key(" ", up=False)
    until(lambda: bench.gpio.value(BUTTON) == 0)
    page.key(" ", down=False)
    until(lambda: bench.gpio.value(BUTTON) == 1)


def test_a_page_that_goes_lets_go_of_its_button(bench: Bench) -> None:
    page = bench.open()
    page.hold(control("pins/Press me", "button"))
    until(lambda: bench.gpio.value(BUTTON) == 0)
    page.goto("about:blank")
    until(lambda: bench.gpio.value(BUTTON) == 1)
    page.events.clear()


def test_a_click_turns_a_switch_on_both_pages(bench: Bench) -> None:
    page, other = bench.open(), bench.open()
    switch = control("pins/switch", "input")
    page.click(switch)
    until(lambda: bench.gpio.value(SWITCH) == 1)
    other.until(f"document.querySelector('{switch}').checked")
    other.click(switch)
    until(lambda: bench.gpio.value(SWITCH) == 0)
    page.until(f"!document.querySelector('{switch}').checked")
    bench.gpio.set_direction(SWITCH, GpioDirection.OUT)
    page.until(f"document.querySelector('{switch}').disabled")
    bench.gpio.set_direction(SWITCH, GpioDirection.IN)
    page.until(f"!document.querySelector('{switch}').disabled")


def test_a_slider_changes_what_the_driver_reads(bench: Bench) -> None:
    page, other = bench.open(), bench.open()
    assert bench.celsius() == 20
    page.focus(control("bus/Temperature", "input"))
    for _ in range(4):
        page.key("ArrowRight")
    until(lambda: bench.celsius() == 21)
    for each in (page, other):
        each.shows(control("bus/Temperature", "output"), "21 °C")
    bench.board.panels["bus"].controls["Temperature"].act(-4.5, "a program")
    for each in (page, other):
        each.shows(control("bus/Temperature", "output"), "-4.5 °C")
    assert bench.celsius() == -4.5


def test_the_registers_are_shown_and_edited(bench: Bench) -> None:
    page = bench.open()
    field = control("bus/Sensor", 'input[aria-label="configuration"]')
    temperature = control("bus/Sensor", 'input[aria-label="temperature"]')
    shown = f"document.querySelector('{field}').value"
    page.until(f"{shown} === '0x60a0'")
    bench.i2c.write(0x48, b"\x01\x12\x34")
    page.until(f"{shown} === '0x1234'")
    page.focus(temperature)
    page.evaluate(f"document.querySelector('{temperature}').select()")
    page.type("0xe700")
    page.key("Enter")
    until(lambda: bench.celsius() == -25)
    page.shows(control("bus/Sensor"), "-6400")
    # What does not fit is refused, and what was there is shown again.
    page.focus(field)
    page.evaluate(f"document.querySelector('{field}').select()")
    page.type("65536")
    page.key("Enter")
    page.shows("#refusal", "does not fit into 2 bytes")
    page.until(f"{shown} === '0x1234'")
    # What is being typed is not written over.
    page.evaluate(f"document.querySelector('{field}').select()")
    page.type("0x9")
    bench.i2c.write(0x48, b"\x01\x56\x78")
    page.shows(control("bus/Sensor"), str(0x5678))
    assert page.evaluate(shown) == "0x9"
    page.key("Escape")
    page.until(f"{shown} === '0x5678'")
    page.shows(control("all/0x50 Eeprom", "output"), "00: 68 65 6c 6c 6f ff")


def test_the_terminal_talks_to_the_console(bench: Bench) -> None:
    page = bench.open()
    view, keyboard = control("terminal/port 0", ".view"), control("terminal/port 0", ".keyboard")
    bench.terminal.write(b"\x1b[2J\x1b[Hgr\xc3")
    bench.terminal.write("ü\r\n".encode()[1:] + b"\x1b[1;31mlogin:\x1b[0m ")
    page.shows(view, "grü\nlogin:")
    page.until(f"document.querySelector('{view} .c1.bold').textContent === 'login:'")
    page.click(view)
    page.until(f"document.activeElement === document.querySelector('{keyboard}')")
    page.type("root ü")
    page.key("Enter")
    assert bench.terminal.read_until(b"\r") == "root ü\r".encode()
    page.key("c", control=True)
    page.key("ArrowUp")
    assert bench.terminal.read(4) == b"\x03\x1b[A"
    bench.terminal.write(b"root\r\n# ")
    page.shows(view, "login: root\n#")
    # Another page has what was written before it came.
    bench.open().shows(view, "login: root\n#")


def test_the_console_has_the_size_of_the_terminal(bench: Bench) -> None:
    page = bench.open()
    view = f"document.querySelector('{control('terminal/port 0', '.view')}')"
    sizes = []

    def differs(before: tuple[int, int]) -> bool:
        return bench.console.ports[0].size != before

    for height in (200, 400):
        before = bench.console.ports[0].size
        page.evaluate(f"{view}.style.height = '{height}px'")
        until(functools.partial(differs, before))
        sizes.append(bench.console.ports[0].size)
    (cols, rows), (same, more) = sizes
    assert cols == same > 40
    assert more > rows > 5
    until(lambda: (bench.terminal.read_configuration().cols, bench.terminal.config.rows) == (cols, more))
    bench.terminal.write(b"\x1b[999;999H*")
    page.until(f"{view}.children[1].children[{more - 1}].textContent === ' '.repeat({cols - 1}) + '*'")


def test_a_page_says_that_the_board_has_ended(bench: Bench) -> None:
    page = bench.open()
    bench.server.close()
    page.shows("#connection", "the board has ended")


def test_every_control_has_a_name(bench: Bench) -> None:
    page = bench.open()
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, button, textarea, [role=img]')]"
        ".filter((it) => !(it.getAttribute('aria-label') || it.labels?.length || it.textContent)).length"
    )
    assert nameless == 0
    page.shows("#attach summary", "attach a guest")


def test_the_screen_does_what_a_terminal_does(bench: Bench) -> None:
    """Control sequences, and what is shown of them."""
    page = bench.open()
    for given, shown in (
        ("one\r\ntwo", ["one", "two", ""]),
        ("12345678", ["12345", "678", ""]),
        ("a\r\nb\r\nc\r\nd", ["b", "c", "d"]),
        ("abc\x1b[2Dx", ["axc", "", ""]),
        ("abc\b\bx", ["axc", "", ""]),
        ("\x1b[2;3Hx\x1b[1;1Hy", ["y", "  x", ""]),
        ("abc\x1b[1G\x1b[K", ["", "", ""]),
        ("a\r\nb\r\nc\x1b[2J", ["", "", ""]),
        ("a\r\nb\r\nc\x1b[1;1H\x1b[L", ["", "a", "b"]),
        ("a\r\nb\r\nc\x1b[1;1H\x1b[M", ["b", "c", ""]),
        ("abcd\x1b[1;2H\x1b[P", ["acd", "", ""]),
        ("abcd\x1b[1;2H\x1b[@", ["a bcd", "", ""]),
        ("a\r\nb\r\nc\x1b[1;2r\x1b[2;1H\n", ["b", "", "c"]),
        ("\x1b[?1049hother\x1b[?1049lback", ["back", "", ""]),
        ("\x1b]0;title\x07x\x1b]2;other\x1b\\y", ["xy", "", ""]),
        ("\x1b[6n\x1b[c\x1b(Bx", ["x", "", ""]),
        ("\ta", ["    a", "", ""]),
        ("\x1b[31;99999999999999999999mx\x1b[;Hy", ["y", "", ""]),
        ("\x1b7abc\x1b8x", ["xbc", "", ""]),
        ("a\r\nb\x1b[1;1H\x1bM", ["", "a", "b"]),
    ):
        lines = page.evaluate(
            "import('./screen.js').then(({ Screen }) => { const it = new Screen(5, 3); "
            f"it.feed({given!r}); return it.lines.map((row) => row.map(([c]) => c).join('').trimEnd()); }})"
        )
        assert lines == shown, repr(given)
