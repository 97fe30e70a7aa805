"""``PageServer``: the page of a board, on this machine only.

Three things keep others out. It listens on a loopback address. Every request needs the token, which is drawn
anew each time and is a part of the address. And the headers Host and Origin have to name this server, so that
no page from elsewhere, and no name that is made to lead here (DNS rebinding), can talk to it through the
browser of somebody who knows the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib.resources
import ipaddress
import json
import logging
import secrets
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vhost_user.board.board import Board
from vhost_user.board.viewer import Viewer
from vhost_user.devices.library import library

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

_log = logging.getLogger(__name__)

LOOK = 0.025
"""Seconds from one look of a page at the board to the next: what changes more often is seen less often."""
MAX_PAGES = 32
MAX_MESSAGE = 1 << 16
"""Bytes of a message from a page."""
HEARTBEAT = 20.0
"""Seconds; a page that does not answer for half of that is gone."""
PATIENCE = 1.0
"""Seconds that pages are given to close, in the end."""
THREAD = "vhost-user-board"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer:
    """Serves the page of a board from a thread: ``with PageServer(board) as page: page.url``.

    It needs aiohttp (extra: board). ``port`` 0 is any that is free. ``attach`` is what the page says of how
    to plug the devices into a guest. Devices need not be served, and nothing that a page does, or does not
    do, holds them up. Raises ValueError for an address that is not a loopback one, MissingLibraryError
    without aiohttp, OSError when the port cannot be had.
    """

    def __init__(self, board: Board, *, address: str = "127.0.0.1", port: int = 0, attach: str = "") -> None:
        self._web: Any = library("aiohttp.web", extra="board")
        self._board = board
        self._attach = attach
        self._token = secrets.token_urlsafe(32)
        self._viewers: dict[Viewer, web.WebSocketResponse] = {}
        self._program = Viewer(board)
        """Who asks without a WebSocket."""
        self._files = page_files()
        family, host = _loopback(address)
        self._socket = socket.create_server((host, port), family=family)
        try:
            port = self._socket.getsockname()[1]
            name = f"[{host}]" if family == socket.AF_INET6 else host
            self._names = {f"{name}:{port}", f"localhost:{port}"}
            self._names |= {name, "localhost"} if port == 80 else set()  # a browser leaves it out
            self.url = f"http://{name}:{port}/{self._token}/"
            """The address of the page, with the token."""
            self._loop: asyncio.AbstractEventLoop | None = None
            self._stop = asyncio.Event()
            self._begun = threading.Event()
            self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._thread.start()
        except BaseException:
            self._socket.close()
            raise
        self._begun.wait()

    def close(self) -> None:
        """End it: pages are told that the board has ended. May be called again."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5 * PATIENCE)
        if self._thread.is_alive():
            _log.warning("the page's server does not end: a control of the board holds it up")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # In the thread of the server

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001  # in a thread of its own nobody else would tell
            _log.exception("the page of the board has ended")
        finally:
            self._program.close()
            self._socket.close()
            self._begun.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = self._web.Application(middlewares=[self._guard()], client_max_size=MAX_MESSAGE)
        app.router.add_get("/{token}/live", self._live)
        app.router.add_get("/{token}/api", self._ask)
        app.router.add_post("/{token}/api", self._move)
        app.router.add_get("/{token}/{file:.*}", self._file)
        # No log of requests: it would have the token in it.
        runner = self._web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=PATIENCE)
        await runner.setup()
        try:
            await self._web.SockSite(runner, self._socket).start()
            self._begun.set()
            await self._stop.wait()
            await self._say_goodbye()
        finally:
            await runner.cleanup()

    async def _say_goodbye(self) -> None:
        closing = [page.close(code=1001, message=b"the board has ended") for page in self._viewers.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), PATIENCE)

    def _guard(self) -> Any:
        """Looks at every request before anything else does, and puts its headers on every answer."""

        async def guard(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            try:
                refusal = self._refusal(request)
                answer = await handler(request) if refusal is None else refusal
            except self._web.HTTPException as error:  # no such address, or a way of asking that it has not
                answer = self._text(error.status, error.reason)
            if not answer.prepared:
                self._add_headers(answer, request.headers.get("Host", ""))
            return answer

        return self._web.middleware(guard)

    def _add_headers(self, answer: web.StreamResponse, host: str) -> None:
        answer.headers.update(_HEADERS)
        known = host if host in self._names else next(iter(sorted(self._names)))
        answer.headers["Content-Security-Policy"] = _POLICY.format(host=known)

    def _refusal(self, request: web.Request) -> web.Response | None:
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if host not in self._names:
            return self._text(421, f"this is the page of a board; it has no name such as {host!r}")
        # A browser says where a WebSocket or a POST comes from. Who says nothing is not a browser's page.
        if origin is not None and origin != f"http://{host}":
            return self._text(403, "a page from elsewhere may not talk to a board")
        token = request.match_info.get("token", "")
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return self._text(
                403, "the token is missing or not right: use the address that the program printed"
            )
        return None

    def _text(self, status: int, text: str) -> web.Response:
        answer: web.Response = self._web.Response(status=status, text=text + "\n")
        return answer

    async def _file(self, request: web.Request) -> web.Response:
        """A file of the page."""
        found = self._files.get(request.match_info["file"] or "index.html")
        if found is None:
            return self._text(404, "there is no such file")
        data, kind = found
        answer: web.Response = self._web.Response(body=data, content_type=kind, charset="utf-8")
        return answer

    async def _ask(self, _request: web.Request) -> web.Response:
        """All values, for a program."""
        told = {"board": self._board.describe(), "values": self._program.values()}
        answer: web.Response = self._web.json_response(told)
        return answer

    async def _move(self, request: web.Request) -> web.Response:
        """Move a control, for a program. What it presses stays pressed until it lets go."""
        why = self._program.act(await request.read())
        return self._text(200, "done") if why is None else self._text(400, why)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket: the board, then what changes; what the page moves."""
        if len(self._viewers) >= MAX_PAGES:
            return self._text(503, f"{MAX_PAGES} pages are open: close one")
        page: web.WebSocketResponse = self._web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE, timeout=PATIENCE, compress=False
        )
        self._add_headers(page, request.headers["Host"])
        viewer = Viewer(self._board)
        self._viewers[viewer] = page
        sending = None
        try:
            await page.prepare(request)
            await page.send_json({"board": self._board.describe(), "attach": self._attach})
            sending = asyncio.create_task(self._send(page, viewer))
            async for message in page:
                if message.type == self._web.WSMsgType.TEXT and (why := viewer.act(message.data)) is not None:
                    await page.send_json({"refused": why})
        except ConnectionError:
            pass
        finally:
            del self._viewers[viewer]
            viewer.close()
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return page

    async def _send(self, page: web.WebSocketResponse, viewer: Viewer) -> None:
        """Tell the page what changed, again and again; while it does not read, nothing is looked at."""
        with contextlib.suppress(ConnectionError):
            while True:
                if news := viewer.news():
                    await page.send_str(json.dumps({"values": news}))
                await asyncio.sleep(LOOK)


def _loopback(address: str) -> tuple[socket.AddressFamily, str]:
    """Family and address to listen at. Raises ValueError for any that others can reach."""
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        raise ValueError(f"{address!r} is not an address, such as 127.0.0.1 or ::1") from None
    if not found.is_loopback:
        raise ValueError(
            f"{address} can be reached from other machines, and whoever reaches a board moves what a guest "
            "reads: use 127.0.0.1, and from elsewhere `ssh -L PORT:localhost:PORT`"
        )
    return (socket.AF_INET if found.version == 4 else socket.AF_INET6), str(found)


def page_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page by their names, each with its type; nothing else is ever sent."""
    found: dict[str, tuple[bytes, str]] = {}
    folders = [("", importlib.resources.files("vhost_user.board") / "page")]
    for prefix, folder in folders:
        for each in folder.iterdir():
            if each.is_dir():
                folders.append((f"{prefix}{each.name}/", each))
            elif (suffix := "." + each.name.rpartition(".")[2]) in _TYPES:
                found[prefix + each.name] = (each.read_bytes(), _TYPES[suffix])
    return found
