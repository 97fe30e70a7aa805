r"""``Expect``: talk to a guest over its console, as somebody at the terminal would.

with Expect() as terminal:
    Console(terminal).start("/tmp/console.sock")       # and a guest boots with it
    terminal.log_in("root", "secret")
    assert terminal.run("uname -s") == "Linux\n"
"""

from __future__ import annotations

import asyncio
import codecs
import re
import secrets
import threading
import time
from types import TracebackType
from typing import Self

from vhost_user.devices.console_ends import End, Line

PATIENCE = 60.0
"""Seconds that a guest may take to say something, if nothing else is said."""
SHOWN = 2000
"""Characters of what came last that a failure shows."""
PROMPT = r"[#$] $"
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\^_=>])")
_BEGUN_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*)?\Z")


class ExpectError(AssertionError):
    """The guest did not say what was expected; the text shows what it said."""


class CommandError(ExpectError):
    """A command that ``run`` gave to the guest's shell failed."""

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(
            f"the command {command!r} ended with status {status} in the guest:\n{output[-SHOWN:]}"
        )
        self.status = status
        self.output = output


class Expect(End):
    """An end of a console for a test: waits for what the guest says, and answers.

    Use it from one thread. ``timeout`` is in seconds, for everything that waits. ``encoding`` is that of the
    guest; what is not in it is shown as a replacement character. Escape sequences, by which a shell asks
    where the cursor is and colours what it says, are left out.
    """

    def __init__(self, *, timeout: float = PATIENCE, encoding: str = "utf-8") -> None:
        self.timeout = timeout
        self.encoding = encoding
        self.transcript = ""
        """Everything the guest has said."""
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._begun = ""
        """An escape sequence whose end has not come yet."""
        self._seen = 0
        """What comes before was expected already."""
        self._said = threading.Condition()
        self._line: Line | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # The end of the console

    async def carry(self, line: Line) -> None:
        """Be there until the device is closed."""
        with self._said:
            self._line, self._loop = line, asyncio.get_running_loop()
            self._said.notify_all()
        line.connection(True)
        await asyncio.Event().wait()

    def write(self, data: bytes) -> None:
        """The guest said this."""
        with self._said:
            text = _ESCAPE_SEQUENCE.sub("", self._begun + self._decoder.decode(data))
            begun = _BEGUN_SEQUENCE.search(text)
            self._begun = begun[0] if begun else ""
            self.transcript += text.removesuffix(self._begun)
            self._said.notify_all()

    def close(self) -> None:
        """The device is closed."""
        with self._said:
            self._line = self._loop = None

    # For the test

    def expect(self, pattern: str | re.Pattern[str], *, timeout: float | None = None) -> re.Match[str]:
        """Wait until the guest says something that the pattern is found in; gives the match.

        What came before it and itself is not looked at again. Raises ExpectError.
        """
        compiled = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        with self._said:
            while (found := compiled.search(self.transcript[self._seen :])) is None:
                left = end - time.monotonic()
                if left <= 0:
                    said = self.transcript[self._seen :][-SHOWN:]
                    raise ExpectError(f"the guest did not say {compiled.pattern!r} in time. It said:\n{said}")
                self._said.wait(left)
            self._seen += found.end()
            return found

    def send(self, text: str | bytes) -> None:
        """Type this. Raises ExpectError when there is no guest that reads it."""
        data = text.encode(self.encoding) if isinstance(text, str) else text
        with self._said:
            self._said.wait_for(lambda: self._loop is not None, self.timeout)
            line, loop = self._line, self._loop
        if line is None or loop is None:
            raise ExpectError("no device serves this end of a console: Console(expect) makes one")
        try:
            asyncio.run_coroutine_threadsafe(line.send(data), loop).result(self.timeout)
        except TimeoutError as error:
            raise ExpectError(f"the guest does not read its console; {data!r} was typed") from error

    def send_line(self, text: str = "") -> None:
        """Type this and Return."""
        self.send(text + "\r")

    def log_in(self, user: str = "root", password: str | None = None, *, prompt: str = PROMPT) -> None:
        """Wait for the login prompt and log in; afterwards the shell waits for a command."""
        self.expect(r"login: *$")
        self.send_line(user)
        if password is not None:
            self.expect(r"[Pp]assword: *$")
            self.send_line(password)
        self.expect(prompt)

    def run(self, command: str, *, timeout: float | None = None) -> str:
        """Run one line in the guest's shell; gives what it printed, with plain newlines.

        Raises CommandError when its status is not 0, ExpectError when it does not end.
        """
        # The mark is typed in two parts, so that the echo of what was typed does not look like its output.
        mark = secrets.token_hex(4)
        self.send_line(f"echo _''{mark}; {command}; echo _''{mark}:$?")
        self.expect(rf"_{mark}\r?\n", timeout=timeout)
        found = self.expect(rf"(?s)\A(.*?)_{mark}:(\d+)\r?\n", timeout=timeout)
        output, status = found[1].replace("\r\n", "\n"), int(found[2])
        self.expect(PROMPT, timeout=timeout)
        if status:
            raise CommandError(command, status, output)
        return output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
