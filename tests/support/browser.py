"""A browser for tests: headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 30.0
"""Seconds that a browser may take for anything."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    ),
    *(
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-component-update",
    ),
    # A page that is not in front is as quick as the one that is.
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    "--disable-backgrounding-occluded-windows",
)
WATCHED = {"Network.requestWillBeSent", "Log.entryAdded", "Runtime.exceptionThrown"}
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowRight": 39, "c": 67}


def program() -> str:
    """The browser's program."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found is not None, "there is no Chromium: `tools/bootstrap peers` brings it"
    return found


class Page:
    """One page of a browser. What it asked for, and what went wrong in it, is in ``events``."""

    def __init__(self, browser: Browser, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._browser, self._socket = browser, socket
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """A method of the DevTools protocol; gives its result."""
        return self._browser.run(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            if message.get("method") in WATCHED:
                self.events.append(message)

    def goto(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true in the page; it may fail while the page is loading."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(
            f"(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()"
        ):
            assert time.monotonic() < end, f"{expression} is not so: {self.text('body')}"
            time.sleep(0.01)

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def shows(self, selector: str, text: str) -> None:
        """Wait until an element has this text in it."""
        self.until(f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(text)})")

    def middle(self, selector: str) -> dict[str, float]:
        """Where the middle of an element is."""
        self.call("Page.bringToFront")
        element = f"document.querySelector({json.dumps(selector)})"
        found = self.evaluate(
            f"(() => {{ const it = {element}; it.scrollIntoView({{block: 'center'}}); "
            "const box = it.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return {"x": found[0], "y": found[1]}

    def hold(self, selector: str) -> None:
        """Put the mouse on an element, and press."""
        place = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        self.call("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **place)

    def let_go(self, selector: str) -> None:
        """Let go of the mouse."""
        place = self.middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **place)

    def click(self, selector: str) -> None:
        """Click an element with the mouse."""
        self.hold(selector)
        self.let_go(selector)

    def focus(self, selector: str) -> None:
        """Go to an element, as by Tab."""
        self.call("Page.bringToFront")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, key: str, *, control: bool = False, up: bool = True, down: bool = True) -> None:
        """Press a key and let go of it, or one of both."""
        description = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 2 if control else 0}
        if down:
            # The text is what makes it do what it does, such as leaving a field.
            text = {"Enter": "\r", " ": " "}.get(key)
            self.call(
                "Input.dispatchKeyEvent",
                type="rawKeyDown" if text is None else "keyDown",
                **description,
                **({} if text is None else {"text": text}),
            )
        if up:
            self.call("Input.dispatchKeyEvent", type="keyUp", **description)

    def troubles(self) -> list[str]:
        """What the page complained of: exceptions, and what its policy kept from it."""
        self.evaluate("0")  # what happened until now has been told
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The address of everything that the page asked for."""
        self.evaluate("0")
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def close(self) -> None:
        """Close the page, as its user does."""
        self.call("Page.close")
        self._browser.run(self._socket.close())


class Browser:
    """Chromium with a profile of its own; see ``browser``."""

    def __init__(self, profile: Path) -> None:
        command = [program(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = (profile / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._loop = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None
        self._place = ""
        try:
            self._begin(profile / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise

    def _begin(self, told: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not (told.exists() and len(told.read_text().splitlines()) == 2):
            assert self._process.poll() is None, Path(self._log.name).read_text()
            assert time.monotonic() < end, f"the browser does not begin: {Path(self._log.name).read_text()}"
            time.sleep(0.01)
        port, self._path = told.read_text().splitlines()
        self._place = f"127.0.0.1:{port}"
        self._session = self.run(self._make_session())

    async def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop of this browser."""
        return self._loop.run(coroutine)

    def open(self, url: str) -> Page:
        """Open a page of this address."""
        page = Page(self, self.run(self._open()))
        for domain in ("Page", "Network", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        page.goto(url)
        return page

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        assert self._session is not None
        async with self._session.put(f"http://{self._place}/json/new?about:blank") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        return await self._session.ws_connect(address, max_msg_size=0)

    def close(self) -> None:
        """End it, and everything that it started."""
        try:
            if self._session is not None:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    self.run(self._leave())
                self.run(self._session.close())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(PATIENCE)
        finally:
            self._loop.close()
            # Its group is its own; a browser that has ended leaves nobody in it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._log.close()

    async def _leave(self) -> None:
        assert self._session is not None
        async with self._session.ws_connect(f"ws://{self._place}{self._path}") as socket:
            await socket.send_json({"id": 1, "method": "Browser.close"})
            await socket.receive(timeout=PATIENCE)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A ``Browser`` that ends with the block, and its profile with it."""
    made = Browser(profile)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(profile, ignore_errors=True)
