"""The end of a console that is a serial line: pyserial, with all its URLs (``/dev/ttyUSB0``, ``rfc2217://…``)."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from vhost_user.devices.console_ends import Line, ThreadEnd
from vhost_user.devices.library import library

_log = logging.getLogger(__name__)

BAUD = 115200
TURN = 0.1
"""Seconds after which a read that got nothing looks whether it is still wanted."""


class SerialEnd(ThreadEnd):
    """A serial line, by anything that ``serial.serial_for_url`` opens. Needs pyserial (extra ``serial``).

    A URL may have the speed behind a comma: ``/dev/ttyUSB0,9600``. Reads and writes of pyserial block, so
    each has a thread. Raises MissingLibraryError without pyserial, OSError when it cannot be opened.
    """

    def __init__(self, url: str) -> None:
        url, _, speed = url.partition(",")
        if speed and not speed.isdecimal():
            raise ValueError(f"the speed of the serial line {url} is {speed!r}: write it as {url},115200")
        self.serial: Any = library("serial", extra="serial").serial_for_url(
            url, baudrate=int(speed or BAUD), timeout=TURN
        )
        self._ended = threading.Event()

    async def carry(self, line: Line) -> None:
        """Read in a thread, until the line breaks."""
        line.connection(True)
        try:
            while not self._ended.is_set():
                data = await asyncio.to_thread(self._read)
                if data:
                    await line.send(data)
        except OSError as error:  # SerialException is one
            _log.error("the serial line of a console is gone: %s", error)
        finally:
            self._ended.set()
            line.connection(False)

    def _read(self) -> bytes:
        first: bytes = self.serial.read(1)
        return first + self.serial.read(self.serial.in_waiting) if first else b""

    def not_written(self, error: OSError) -> None:
        """The guest goes on without it."""
        _log.error("the serial line of a console takes nothing: %s", error)

    def write(self, data: bytes) -> None:
        """Write it in a thread."""
        if not self._ended.is_set():
            self.write_in_thread(self.serial.write, data)

    def close(self) -> None:
        """The line is closed."""
        self._ended.set()
        self.serial.close()
