"""The page's server: who is let in, that nobody holds up a device, and that nothing is left of it."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

from tests.support.front_end import until
from tests.support.live_page import LivePage
from vhost_user.board import Board, Button, Led, Panel, Slider
from vhost_user.board import server as server_module
from vhost_user.board.server import MAX_PAGES, PageServer, page_files
from vhost_user.devices import Console, Gpio, Line
from vhost_user.devices.library import MissingLibraryError
from vhost_user.frontend import ConsoleDriver, GpioDriver
from vhost_user.spec.gpio import GpioDirection
from vhost_user.testing.leaks import Resources
from vhost_user.testing.virtio import Virtio


@pytest.fixture
def gpio() -> Gpio:
    return Gpio("led", Line("button", rest=1))


@pytest.fixture
def board(gpio: Gpio) -> Board:
    return Board(
        "A lamp", pins=Panel(gpio, Led(gpio.line("led")), Button(gpio.line("button"))), terminal=Console()
    )


@pytest.fixture
def server(board: Board) -> Iterator[PageServer]:
    with PageServer(board, attach="-device vhost-user-gpio-pci") as made:
        yield made


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str


def ask(
    server: PageServer,
    path: str | None = None,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Ask with exactly these headers, and Host as it is right unless it is given."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        connection.putrequest(method, place.path if path is None else path, skip_host=True)
        for name, value in {"Host": place.netloc, **headers}.items():
            if value:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()


def path_of(server: PageServer, name: str) -> str:
    return urlsplit(server.url).path + name


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
PLACES = [
    ("", "GET", {}),
    ("board.js", "GET", {}),
    ("api", "GET", {}),
    ("api", "POST", {}),
    ("live", "GET", UPGRADE),
]
NAMES = ["page", "file", "api", "api to move", "websocket"]


@pytest.mark.parametrize(("place", "method", "headers"), PLACES, ids=NAMES)
def test_a_foreign_host_is_refused(
    server: PageServer, place: str, method: str, headers: dict[str, str]
) -> None:
    port = urlsplit(server.url).port
    for host in (
        "board.example",
        f"board.example:{port}",
        f"127.0.0.1.board.example:{port}",
        "127.0.0.1",
        "",
    ):
        answer = ask(server, path_of(server, place), method, None, {**headers, "Host": host})
        assert answer.status in {400, 421}, host  # 400: HTTP itself wants a name


@pytest.mark.parametrize(("place", "method", "headers"), PLACES, ids=NAMES)
def test_a_foreign_origin_is_refused(
    server: PageServer, place: str, method: str, headers: dict[str, str]
) -> None:
    for origin in (
        "http://board.example",
        "null",
        "http://127.0.0.1",
        "https://" + urlsplit(server.url).netloc,
    ):
        answer = ask(server, path_of(server, place), method, None, {**headers, "Origin": origin})
        assert answer.status == 403, origin


@pytest.mark.parametrize(("place", "method", "headers"), PLACES, ids=NAMES)
def test_without_the_token_there_is_nothing(
    server: PageServer, place: str, method: str, headers: dict[str, str]
) -> None:
    right = urlsplit(server.url).path.strip("/")
    assert len(right) >= 32
    for wrong in ("x", right[:-1], right + "x", right.swapcase(), "", "%00", "ü".encode().hex()):
        answer = ask(server, f"/{wrong}/{place}", method, None, headers)
        assert answer.status == 403, wrong
        assert right not in answer.text


def test_each_server_has_a_token_of_its_own(board: Board, server: PageServer) -> None:
    with PageServer(board) as other:
        assert urlsplit(other.url).path != urlsplit(server.url).path
        assert ask(server, urlsplit(other.url).path).status == 403


def test_the_page_is_strict(server: PageServer) -> None:
    place = urlsplit(server.url)
    for path, status in (
        (place.path, 200),
        ("/", 403),
        (place.path + "gone", 404),
        (place.path + "..%2f__init__.py", 404),
        (place.path + "../x", 404),
    ):
        answer = ask(server, path)
        assert answer.status == status
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert f"ws://{place.netloc}" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert ask(server, place.path, "DELETE").status == 403
    name = f"localhost:{place.port}"
    by_name = ask(server, headers={"Host": name, "Origin": f"http://{name}"})
    assert by_name.status == 200


def test_the_page_needs_nothing_from_elsewhere(server: PageServer) -> None:
    files = page_files()
    assert {"index.html", "board.js", "board.css", "controls/led.js"} <= files.keys()
    for name, (data, kind) in files.items():
        text = data.decode()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), name
        assert "https://" not in text, name
        answer = ask(server, path_of(server, name))
        assert answer.status == 200
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
    html = files["index.html"][0].decode()
    assert "style=" not in html
    assert "onclick" not in html


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1"])
def test_other_addresses_than_loopback_are_refused(board: Board, address: str) -> None:
    with pytest.raises(ValueError, match=r"can be reached from other machines.*ssh -L"):
        PageServer(board, address=address)


def test_addresses_of_loopback_are_not(board: Board) -> None:
    with pytest.raises(ValueError, match=r"'board\.example' is not an address"):
        PageServer(board, address="board.example")
    for address, name in (("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")):
        with PageServer(board, address=address) as server:
            assert urlsplit(server.url).hostname == name
            assert ask(server).status == 200


def test_a_port_that_is_taken_is_an_error(board: Board, server: PageServer) -> None:
    with pytest.raises(OSError, match="in use"):
        PageServer(board, port=urlsplit(server.url).port or 0)


def test_without_the_library_the_extra_is_named(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp.web", None)
    with pytest.raises(MissingLibraryError, match=r"vhost-user\[board\]"):
        PageServer(board)


def test_a_program_asks_and_moves(server: PageServer, gpio: Gpio) -> None:
    told = json.loads(ask(server, path_of(server, "api")).text)
    assert told["board"]["title"] == "A lamp"
    assert told["values"]["pins/button"] == {"pressed": False, "driven": False}
    assert told["values"]["terminal/port 0"]["text"] == ""
    for body, status in (
        (b'{"control": "pins/button", "value": 1}', 200),
        (b'{"control": "pins/button", "value": 7}', 400),
        (b"nonsense", 400),
        (b"x" * 70_000, 413),
    ):
        assert ask(server, path_of(server, "api"), "POST", body).status == status
    assert gpio.line("button").level == 0
    server.close()
    assert gpio.line("button").level == 1


def test_a_page_is_told_and_moves(server: PageServer, gpio: Gpio, virtio: Virtio) -> None:
    driver = virtio.attach(gpio).drive(GpioDriver)
    with LivePage(server.url) as page, LivePage(server.url) as other:
        page.shows("pins/led", False)
        driver.set_direction(0, GpioDirection.OUT)
        driver.set_value(0, 1)
        for each in (page, other):
            each.shows("pins/led", True)
        page.act("pins/button", 1)
        other.until(lambda: other.values["pins/button"]["pressed"])
        assert driver.value(1) == 0
        page.act("pins/led", 1)
        page.until(lambda: page.refused == ["led cannot be moved from here"])
        page.send("nonsense")
        page.until(lambda: page.refused[1:] == ["what came is not JSON"])
    until(lambda: gpio.line("button").level == 1, "a page that is closed lets go")
    assert driver.value(1) == 1


def test_a_page_that_does_not_read_holds_up_nobody(server: PageServer, board: Board, virtio: Virtio) -> None:
    """More is written than all buffers on the way to a page have room for."""
    device = board.devices["terminal"]
    guest = virtio.attach(device).drive(ConsoleDriver)
    place = urlsplit(server.url)
    with socket.socket() as slow, LivePage(server.url) as page:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((place.hostname, place.port))
        lines = [f"GET {place.path}live HTTP/1.1", f"Host: {place.netloc}"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        slow.sendall("\r\n".join([*lines, "", ""]).encode())
        assert slow.recv(12) == b"HTTP/1.1 101"
        total = 0
        while total < 16 << 20:
            total += guest.write(b"x" * 4000)
        guest.write(b"the end\n")
        page.until(lambda: page.written.endswith(b"the end\n"))


def test_hundreds_of_changes_are_one(server: PageServer, gpio: Gpio) -> None:
    with LivePage(server.url) as page:
        page.shows("pins/led", False)
        messages = 0
        for _ in range(20_000):
            gpio.line("led").toggle()
        gpio.line("led").set(1)
        while page.values["pins/led"] is not True:
            page.receive()
            messages += 1
        assert messages < 10_000


def test_pages_have_a_number(server: PageServer) -> None:
    pages = [LivePage(server.url) for _ in range(MAX_PAGES)]
    try:
        for page in pages:
            page.receive()
        answer = ask(server, path_of(server, "live"), headers=UPGRADE)
        assert answer.status == 503
        assert "close one" in answer.text
        pages.pop().close()

        def is_let_in() -> bool:
            try:
                pages.append(LivePage(server.url))
            except Exception:  # noqa: BLE001  # the last one has not gone yet
                return False
            return True

        until(is_let_in, "there is room again")
    finally:
        for page in pages:
            page.close()


def test_nothing_is_left_of_it(board: Board) -> None:
    before = Resources.now()
    server = PageServer(board)
    pages = [LivePage(server.url) for _ in range(3)]
    for page in pages:
        page.receive()
        page.receive()
    server.close()
    server.close()
    assert not [thread for thread in threading.enumerate() if thread.name == server_module.THREAD]
    for page in pages:
        with pytest.raises(TypeError, match="8:1001"):  # what the library says of a message that is a close
            page.receive()
        page.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server)
    assert before.left_behind((server_module.THREAD,)) == []


def test_a_page_that_does_not_close_is_left_alone_in_the_end(board: Board) -> None:
    before = Resources.now()
    server = PageServer(board)
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port)) as silent:
        lines = [f"GET {place.path}live HTTP/1.1", f"Host: {place.netloc}"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        silent.sendall("\r\n".join([*lines, "", ""]).encode())
        assert silent.recv(12) == b"HTTP/1.1 101"
        server.close()
        assert not [thread for thread in threading.enumerate() if thread.name == server_module.THREAD]
    assert before.left_behind((server_module.THREAD,)) == []


def test_a_control_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Its author's fault; the program ends all the same."""
    hangs, goes_on = threading.Event(), threading.Event()

    def stick(_: float) -> None:
        hangs.set()
        goes_on.wait(60)

    hanging = Board(pins=Panel(Gpio("x"), Slider("Stuck", stick, 0, 1)))
    server = PageServer(hanging)
    page = LivePage(server.url)
    try:
        page.act("pins/Stuck", 1)
        assert hangs.wait(10)
        server.close()
        assert "does not end" in caplog.text
    finally:
        goes_on.set()
        server._thread.join(10)
        page.close()
    assert not server._thread.is_alive()
