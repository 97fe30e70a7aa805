"""The arena itself can fail: what it asserts is seen when it is not so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest


def test_an_ordinary_session_passes(arena: Callable[..., Any]) -> None:
    with arena("rng") as attack:
        front = attack.front_end()
        front.bring_up()
        assert len(front.request(writable=8)) == 8


def test_a_process_that_stops_for_half_a_second_fails(arena: Callable[..., Any]) -> None:
    def stall(attack: Any) -> None:
        os.kill(attack.pid, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (attack.pid, signal.SIGCONT)).start()
        time.sleep(0.7)

    def attacked() -> None:
        with arena("rng") as attack:
            stall(attack)

    with pytest.raises(AssertionError, match="was silent"):
        attacked()
