"""A board in a real guest: Linux's own drivers on one side, the page's WebSocket on the other."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.examples import load
from tests.support.live_page import LivePage
from vhost_user.board import Board
from vhost_user.board.server import PageServer
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.guest_drivers import locate_driver_kernel

pytestmark = pytest.mark.guest

CHIP = "/dev/gpiochip0"


def test_a_page_and_a_guest_on_one_board(virtio_guest: BootGuest) -> None:
    """The lesson's board, as docs/board.md has it; its console wants a newer QEMU and is left out."""
    lesson = load("board_traffic_light")
    panels = lesson.board.panels
    board = Board("A traffic light", lights=panels["lights"], bus=panels["bus"])
    with PageServer(board) as server, LivePage(server.url) as page:
        guest = virtio_guest(
            lesson.lights,
            lesson.bus,
            kernel=locate_driver_kernel(),
            modules=["i2c-dev", "tmp102"],
            programs=("gpioget", "gpioset", "i2ctransfer"),
        )
        page.shows("lights/Driver", "at work")
        guest.run(f"while ! test -c {CHIP}; do sleep 0.1; done")
        # A press on the page is what the guest reads.
        assert guest.run(f"gpioget {CHIP} 3") == "1\n"
        page.act("lights/Let me cross", 1)
        page.until(lambda: page.values["lights/Let me cross"]["pressed"])
        assert guest.run(f"gpioget {CHIP} 3") == "0\n"
        page.act("lights/Let me cross", 0)
        page.until(lambda: not page.values["lights/Let me cross"]["pressed"])
        assert guest.run(f"gpioget {CHIP} 3") == "1\n"
        # What the guest drives is lit on the page.
        page.shows("lights/red", False)
        holding = guest.start(f"gpioset --mode=time --sec=5 {CHIP} 0=1 1=1")
        page.until(lambda: page.values["lights/red"] and page.values["lights/yellow"])
        assert not page.values["lights/green"]
        assert holding.wait().status == 0
        page.until(lambda: not (page.values["lights/red"] or page.values["lights/yellow"]))
        # The slider is the temperature that the kernel's own driver reads.
        buses = guest.run("grep -l virtio /sys/class/i2c-adapter/i2c-*/name").split("/")
        bus = next(part for part in buses if part.startswith("i2c-") and part[4:].isdecimal())
        guest.run(f"echo tmp102 0x48 >/sys/bus/i2c/devices/{bus}/new_device")
        for celsius in (-4.5, 31.0):
            page.act("bus/Temperature", celsius)
            page.shows("bus/Temperature", celsius)
            assert guest.run("sleep 1; cat /sys/class/hwmon/hwmon*/temp1_input") == f"{celsius * 1000:.0f}\n"
        # And what the guest writes into a register is in the page's table.
        guest.run(f"i2ctransfer -f -y {bus[4:]} w3@0x48 1 0x61 0xb0")
        page.until(lambda: page.values["bus/TMP102"][1] == 0x61B0)
        assert page.refused == []


def said(page: LivePage, text: bytes) -> bool:
    return text in page.written


def test_the_terminal_of_a_page_is_that_of_a_guest(virtio_guest: BootGuest) -> None:
    """A shell on the console, typed into on one page and seen on another; its size is that of the page."""
    lesson = load("board_traffic_light")
    name = "terminal/port 0"
    with PageServer(lesson.board) as server, LivePage(server.url) as page, LivePage(server.url) as other:
        guest = virtio_guest(lesson.board.devices["terminal"])
        guest.run("while ! test -c /dev/hvc0; do sleep 0.1; done")
        guest.run("setsid getty -n -l /bin/sh -L 0 hvc0 vt100 </dev/null >/dev/null 2>&1 &")
        page.until(partial(said, page, b"# "))  # what was typed before is lost
        for cols, rows in ((100, 37), (64, 20)):
            page.act(name, {"size": [cols, rows]})
            # The guest hears of it by and by.
            wait = f"until test \"$(stty size)\" = '{rows} {cols}'; do sleep 0.1; done"
            page.act(name, {"keys": f"{wait}; echo $((6 * 7)) {cols}\r"})
            answer = f"42 {cols}\r\n".encode()
            for each in (page, other):
                each.until(partial(said, each, answer))
        page.act(name, {"keys": "echo be''gins; sleep 1000\r"})
        page.until(partial(said, page, b"begins"))  # before, the shell reads its line character by character
        page.act(name, {"keys": "\x03"})
        page.until(partial(said, page, b"^C"))
