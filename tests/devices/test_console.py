"""The console with its ports, driven in this process; C053, C054, C075, C128, C129, C130, C134."""

from __future__ import annotations

import asyncio
import functools
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.drivers import resume
from tests.support.front_end import until
from tests.support.killed_programs import lives, served
from vhost_user.devices import Console, End, Port
from vhost_user.frontend import ConsoleDriver, PeerTimeout
from vhost_user.spec.console import ConsoleControl, ConsoleEvent, ConsoleFeature
from vhost_user.testing.expect import Expect
from vhost_user.testing.virtio import Virtio

PROMPT = 0.5
"""Seconds in which a stop is to be answered although the other end takes nothing."""


class Recorder(End):
    """Keeps what the guest wrote; while it is full, it takes nothing."""

    def __init__(self) -> None:
        self.data = b""
        self.full = False
        self.waiting = 0

    async def carry(self, line: Any) -> None:
        line.connection(True)
        await asyncio.Event().wait()

    async def drained(self) -> None:
        self.waiting += 1
        try:
            while self.full:  # noqa: ASYNC110  # it is set by another thread
                await asyncio.sleep(0.001)
        finally:
            self.waiting -= 1

    def write(self, data: bytes) -> None:
        self.data += data

    def has(self, length: int) -> bool:
        return len(self.data) >= length


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., ConsoleDriver]:
    """Serve a console, and bring a driver up on it."""

    def up(console: Console, **options: Any) -> ConsoleDriver:
        return virtio.attach(console, packed=packed).drive(ConsoleDriver, **options)

    return up


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data.upper())
        await writer.drain()


def test_a_plain_console_talks_both_ways(drive: Callable[..., ConsoleDriver]) -> None:
    driver = drive(Console(upper, cols=132, rows=43))
    assert (driver.config.cols, driver.config.rows, driver.config.max_nr_ports) == (132, 43, 1)
    assert not driver.multiport
    driver.write(b"hello\n")
    assert driver.read_until(b"\n") == b"HELLO\n"
    data = random.Random(5).randbytes(300_000).hex().upper().encode()
    sender = threading.Thread(
        target=lambda: [driver.write(data[i : i + 3000]) for i in range(0, 60_000, 3000)]
    )
    sender.start()
    sender.join()
    assert driver.read(60_000) == data[:60_000]


def test_ports_are_introduced_with_names_and_sizes(drive: Callable[..., ConsoleDriver]) -> None:
    console = Console(upper, Port(upper, name="org.agent", console=False), cols=100, rows=37)
    driver = drive(console)
    assert driver.multiport
    assert driver.config.max_nr_ports == 2
    driver.attend(lambda: len(driver.ports) == 2 and all(port.host_open for port in driver.ports.values()))
    assert driver.ports[0].console
    assert driver.ports[0].size == (100, 37)
    assert (driver.ports[1].console, driver.ports[1].name) == (False, "org.agent")
    driver.open(0)
    driver.open(1)
    driver.write(b"one", port=0)
    driver.write(b"two", port=1)
    assert (driver.read(3, port=0), driver.read(3, port=1)) == (b"ONE", b"TWO")


def test_a_driver_without_multiport_gets_the_first_port(drive: Callable[..., ConsoleDriver]) -> None:
    driver = drive(Console(upper, Port(upper, name="other")), features=ConsoleFeature.SIZE, num_queues=2)
    driver.write(b"still here")
    assert driver.read(10) == b"STILL HERE"


def test_what_is_typed_before_the_guest_opens_a_port_waits(drive: Callable[..., ConsoleDriver]) -> None:
    terminal = Expect(timeout=10)
    driver = drive(Console(terminal, max_ports=2))
    driver.attend(lambda: driver.ports and driver.ports[0].host_open)
    typing = threading.Thread(target=terminal.send, args=["early"])
    typing.start()
    with pytest.raises(PeerTimeout):
        driver.read(1, timeout=0.05)
    driver.open(0)
    assert driver.read(5) == b"early"
    typing.join()


def test_ports_come_and_go(drive: Callable[..., ConsoleDriver]) -> None:
    console = Console(upper, max_ports=3)
    driver = drive(console)
    driver.attend(lambda: driver.ports and driver.ports[0].host_open)
    added = console.plug(Port(upper, name="new", console=False))
    driver.attend(lambda: 1 in driver.ports and driver.ports[1].host_open)
    assert driver.ports[1].name == "new"
    driver.open(1)
    driver.write(b"x", port=1)
    assert driver.read(1, port=1) == b"X"
    console.unplug(added)
    driver.attend(lambda: 1 not in driver.ports)
    console.plug(Port(upper, name="again"))
    driver.attend(lambda: 1 in driver.ports and driver.ports[1].name == "again")
    console.plug(Port())
    with pytest.raises(ValueError, match="there are 3 ports already"):
        console.plug(Port())
    with pytest.raises(ValueError, match="not a port of this console"):
        console.unplug(added)


def test_C130_a_resize_is_told(drive: Callable[..., ConsoleDriver]) -> None:
    console = Console(upper)
    driver = drive(console)
    until(lambda: driver.config_changes == 1, "what makes Linux read the size")
    console.resize(132, 50)
    until(lambda: driver.config_changes == 2, "the change")
    config = driver.read_configuration()
    assert (config.cols, config.rows) == (132, 50)


def test_a_resize_of_a_port_is_a_control_message(drive: Callable[..., ConsoleDriver]) -> None:
    console = Console(upper, Port(upper, name="second"))
    driver = drive(console)
    driver.attend(lambda: len(driver.ports) == 2 and all(port.host_open for port in driver.ports.values()))
    console.resize(90, 30, port=1)
    driver.attend(lambda: driver.ports[1].size == (90, 30))
    assert driver.ports[0].size == (80, 25)


def test_C129_emergency_writes_are_characters_and_the_same_twice_is_two(
    drive: Callable[..., ConsoleDriver],
) -> None:
    end = Recorder()
    driver = drive(Console(end))
    driver.emergency(b"bell\n")
    until(lambda: end.data == b"bell\n", "the text")
    # QEMU's generic device writes the whole space for one field.
    space = driver.read_config(0, 12)
    driver.frontend.set_config(0, space[:8] + b"!\0\0\0")
    until(lambda: end.data == b"bell\n!", "one more")


@pytest.mark.alone
@pytest.mark.parametrize("number", [0, 1], ids=["first port", "second port"])
def test_C054_a_stop_while_the_other_end_takes_nothing_is_answered_and_nothing_is_lost_or_doubled(
    drive: Callable[..., ConsoleDriver], number: int
) -> None:
    end = Recorder()
    driver = drive(Console(Port(end), max_ports=2) if not number else Console("null", Port(end, name="x")))
    queue = driver.queue(5 if number else 1)
    lines = [f"line {i}\n".encode() * 500 for i in range(40)]  # five times as much as is taken
    sent = b""
    for round_ in range(4):
        end.full = True
        pending = [queue.submit(line) for line in lines]
        until(lambda: end.waiting, "the first request")
        end.full = bool(round_ % 2)
        before = time.monotonic()
        driver.stop_queue(queue.index)
        assert time.monotonic() - before < PROMPT + 0.1
        resume(driver, queue.index)
        end.full = False
        for one in pending:
            one.wait(10)
            one.release()
        sent += b"".join(lines)
        until(functools.partial(end.has, len(sent)), "all of it")
        assert end.data == sent


def test_C053_what_was_not_read_when_the_queue_stopped_comes_after_the_restart(
    drive: Callable[..., ConsoleDriver],
) -> None:
    terminal = Expect(timeout=10)
    driver = drive(Console(terminal))
    driver.stop_queue(0)
    terminal.send("while stopped")
    resume(driver, 0)
    assert driver.read(13) == b"while stopped"
    terminal.send(b"x" * 200_000)  # more than all its buffers
    assert driver.read(200_000) == b"x" * 200_000


def test_C075_C134_after_a_reset_and_a_new_driver_ports_are_introduced_again(
    virtio: Virtio, packed: bool
) -> None:
    attached = virtio.attach(Console(upper, Port(upper, name="x", console=False)), packed=packed)
    for _ in range(3):
        driver = attached.drive(ConsoleDriver)
        ports = driver.ports
        driver.attend(lambda: len(ports) == 2 and ports[1].host_open)  # noqa: B023  # called at once
        driver.open(1)
        driver.write(b"again", port=1)
        assert driver.read(5, port=1) == b"AGAIN"
        driver.frontend.reset_device(need_reply=True)
        attached.disconnect()


def test_several_consoles_in_one_program(virtio: Virtio) -> None:
    drivers = [virtio.attach(Console(upper)).drive(ConsoleDriver) for _ in range(3)]
    for number, driver in enumerate(drivers):
        driver.write(f"number {number}".encode())
    for number, driver in enumerate(drivers):
        assert driver.read(8) == f"NUMBER {number}".encode()


def test_a_session_that_fails_is_told_and_the_console_goes_on(virtio: Virtio) -> None:
    async def failing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        raise RuntimeError("the robot fell over")

    driver = virtio.attach(Console(failing)).drive(ConsoleDriver)
    driver.write(b"x")
    until(lambda: virtio.errors, "the failure")
    assert "the robot fell over" in virtio.errors[0]
    virtio.errors.clear()
    driver.write(b"nobody reads this")


def test_expect_logs_in_runs_and_fails_in_words(virtio: Virtio) -> None:
    terminal = Expect(timeout=10)
    driver = virtio.attach(Console(terminal)).drive(ConsoleDriver)

    def guest() -> None:
        driver.write(b"\x1b[1mDebian\x1b[0m\r\nbox login: ")
        assert driver.read_until(b"\r") == b"root\r"
        driver.write(b"root\r\nPassword: ")
        assert driver.read_until(b"\r") == b"secret\r"
        for status, output in ((0, b"Linux\r\n"), (3, b"no such thing\r\n")):
            driver.write(b"\r\n# \x1b[6")
            driver.write(b"n")
            command = driver.read_until(b"\r")
            mark = re.search(rb"_''(\w+);", command)
            assert mark is not None
            driver.write(command + b"\n_" + mark[1] + b"\r\n" + output)
            driver.write(b"_" + mark[1] + b":%d\r\n" % status)
        driver.write(b"# ")

    side = threading.Thread(target=guest)
    side.start()
    terminal.log_in("root", "secret")
    assert terminal.run("uname") == "Linux\n"
    with pytest.raises(AssertionError, match=r"(?s)'nothing' ended with status 3.*no such thing"):
        terminal.run("nothing")
    side.join()
    with pytest.raises(AssertionError, match="did not say 'more' in time"):
        terminal.expect("more", timeout=0.01)
    assert terminal.transcript.startswith("Debian\r\nbox login: ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Console("teletype"), "'teletype' is not the other end of a console"),
        (lambda: Console("tcp"), "'tcp' is not the other end"),
        (lambda: Console("tcp:nowhere"), "is not HOST:PORT"),
        (lambda: Console(Port(name="a/b")), "cannot be named 'a/b'"),
        (lambda: Console("null", "null", max_ports=1), "2 ports are given"),
        (lambda: Console(max_ports=128), "127 are possible"),
        (lambda: Console("serial:/dev/null,fast"), "write it as /dev/null,115200"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make: Callable[[], Console], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_conformance_profile_knows_it() -> None:
    from vhost_user.conformance.profile import PROFILES, guess

    console = Console()
    assert guess(console.features(), console.num_queues()) == "console"
    assert PROFILES["console"].works


@pytest.mark.parametrize("options", [[], ["--max-ports=2"]], ids=["plain", "multiport"])
def test_C134_a_program_that_was_killed_goes_on_where_it_was(tmp_path: Path, options: list[str]) -> None:
    """As with a VMM that connects again: the guest has its ports open and says nothing of them."""
    line = tmp_path / "line"
    program = served(tmp_path, "console", f"--end=unix-listen:{line}", *options)
    waiting = (0, 0)
    with lives(program, range(4 if options else 2)) as each:
        for life, front in each:
            if options and life == 0:
                for event in (ConsoleEvent.DEVICE_READY, ConsoleEvent.PORT_READY, ConsoleEvent.PORT_OPEN):
                    front.request(3, ConsoleControl(0, event, 1).pack())
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(line))
                _, address = waiting if life else front.post(0, writable=64)
                client.sendall(b"typed %d" % life)
                assert front.collect(0)[1] == 7
                assert front.memory.read(address, 7) == b"typed %d" % life
                waiting = front.post(0, writable=64)  # in flight while the program dies
                front.request(1, b"said %d" % life)
                assert client.recv(64) == b"said %d" % life
