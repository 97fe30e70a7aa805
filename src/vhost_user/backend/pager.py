"""The pager of a session, from here: another process, which waits for pages in our place (C118 to C121)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhost_user.engine.memory.missing import MissingPages
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.fds import OwnedFds

if TYPE_CHECKING:
    from vhost_user.engine.memory.region import MemoryRegion

PROGRAM = Path(__file__).with_name("pager_process.py")
PATIENCE = 20.0
"""Seconds that it has for starting, and for each region: it waits for no front-end there."""
SLICE = 0.05
"""Seconds between two looks whether the session is to end."""


class Pager:
    """Started when a front-end announces post-copy, and ended with it. Used by the control thread only.

    ``must_go_on`` raises when the session is to end at once; ``ended`` is called, by a thread of this object,
    when the process has gone. Raises RequestRefused when there can be none.
    """

    def __init__(self, must_go_on: Callable[[str], None], ended: Callable[[], object]) -> None:
        self._must_go_on = must_go_on
        self._ended = ended
        if not sys.executable:
            raise RequestRefused("no Python is known that could run the pager (sys.executable)", rule="C118")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        asking, answering = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._control = ours
        try:
            with theirs, answering:
                self.missing = MissingPages(asking.fileno())
                asking.detach()
                self._process = self._started(theirs.fileno(), answering.fileno())
        except OSError as error:
            asking.close()
            ours.close()
            raise RequestRefused(f"there can be no pager: {error.strerror or error}", rule="C118") from error
        self._watch = threading.Thread(target=self._wait_for_end, name="pager-watch", daemon=True)
        self._watch.start()
        try:
            _, self._faults = self._answer()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _started(control: int, questions: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(os.getpid()), str(control), str(questions)]
        # A session of its own: what is typed at our terminal is not meant for it.
        return subprocess.Popen(  # noqa: S603  # our own words
            command,
            pass_fds=[control, questions],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_for_end(self) -> None:
        self._process.wait()
        self.missing.give_up()
        self._ended()

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None  # what the thread that waits for it has seen

    def take_faults(self) -> int:
        """The userfaultfd of the process, for the front-end; the caller's from now on. Once."""
        fd = self._faults.take_one()
        assert fd is not None  # checked when it came
        return fd

    def add(self, region: MemoryRegion, fd: int) -> int:
        """Have a region's pages awaited from now on; where they are in the address space of the pager.

        Raises RequestRefused when that cannot be done, MemoryTableError when the kernel cannot watch them.
        """
        start, length = region.file_span
        data = json.dumps({"start": start, "length": length}).encode()
        with contextlib.suppress(OSError):  # it has gone: the answer says so
            socket.send_fds(self._control, [data], [fd])
        answer, _ = self._answer()
        region.expect(self.missing, answer["number"])
        return int(answer["base"]) + region.file_offset - start

    def _answer(self) -> tuple[dict[str, Any], OwnedFds]:
        """What it says next."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        end = time.monotonic() + PATIENCE
        while not poll.poll(SLICE * 1000):
            self._must_go_on("the pager was waited for")
            if time.monotonic() > end:
                raise RequestRefused(f"the pager does not answer within {PATIENCE:.3g} s", rule="C118")
        try:
            data, arrived, _, _ = socket.recv_fds(self._control, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, arrived = b"", []
        with OwnedFds(arrived) as fds:
            if not data:
                raise RequestRefused("the pager has ended", rule="C118")
            answer: dict[str, Any] = json.loads(data)
            if "problem" in answer:
                raise RequestRefused(f"the pager: {answer['problem']}", rule="C118")
            if "ready" in answer and len(fds) != 1:
                raise RequestRefused(
                    "the pager's userfaultfd was lost on its way (RLIMIT_NOFILE)", rule="C118"
                )
            return answer, OwnedFds(fds.take())

    def close(self) -> None:
        """End the process. Whoever waits for a page is told that it does not come, unless all have come."""
        self.missing.give_up()
        self._process.kill()
        self._watch.join()
        self._control.close()
        faults: OwnedFds | None = getattr(self, "_faults", None)
        if faults is not None:
            faults.close()
