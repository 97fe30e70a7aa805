"""What a test left behind in this process: file descriptors, mappings and threads of our kinds."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_KINDS = ("socket:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "/memfd:")
PATIENCE = 1.0
"""Seconds that threads which were told to end may take."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process has at one moment: fd → what it is, shared mappings, threads."""

    descriptors: dict[int, str]
    mappings: dict[str, str]
    threads: frozenset[threading.Thread]

    @classmethod
    def now(cls) -> Self:
        """Look."""
        return cls(_descriptors(), _mappings(), frozenset(threading.enumerate()))

    def left_behind(self, thread_names: tuple[str, ...]) -> list[str]:
        """What is there now and was not then, a sentence each.

        Threads count when their name begins with one of ``thread_names``: others are the test's own.
        """
        found = self._left_behind(thread_names)
        deadline = time.monotonic() + PATIENCE
        while found and time.monotonic() < deadline:
            gc.collect()  # what only a cycle of references keeps is not lost
            time.sleep(0.01)
            found = self._left_behind(thread_names)
        return found

    def _left_behind(self, thread_names: tuple[str, ...]) -> list[str]:
        now = Resources.now()
        found = [
            f"file descriptor {fd} was left open: {what}"
            for fd, what in sorted(now.descriptors.items())
            if self.descriptors.get(fd) != what
        ]
        found += [
            f"memory was left mapped: {what} at {place}"
            for place, what in sorted(now.mappings.items())
            if self.mappings.get(place) != what
        ]
        found += [
            f"thread {thread.name!r} still runs"
            for thread in sorted(now.threads - self.threads, key=lambda thread: thread.name)
            if thread.name.startswith(thread_names) and thread.is_alive()
        ]
        return found


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            what = str(entry.readlink())
        except OSError:  # the one the directory was read with
            continue
        if what.startswith(_KINDS):
            found[int(entry.name)] = what
    return found


def _mappings() -> dict[str, str]:
    found = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/memfd:"):
            found[fields[0]] = fields[5]
    return found
