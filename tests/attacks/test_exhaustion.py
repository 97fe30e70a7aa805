"""What a process runs out of may come back: it goes on then. A log that peers cannot fill (H91)."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.attacks.test_foreign_descriptors import answers, is_closed
from vhost_user.protocol.framing import Message, encode
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import VringState


@contextmanager
def no_descriptor_left(attack: Any) -> Iterator[None]:
    """The process can open nothing more for a while."""
    soft, hard = resource.prlimit(attack.pid, resource.RLIMIT_NOFILE)
    # The limit is on numbers: below it there may be gaps, which connections fill.
    resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(attack.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_C137_a_front_end_that_cannot_be_accepted_waits_until_it_can(arena: Callable[..., Any]) -> None:
    with arena("rng") as attack:
        with no_descriptor_left(attack):
            front = attack.front_end()
            attack.wait_in_log("a front-end cannot be accepted: Too many open files")
            time.sleep(0.3)  # it tries again and again, and does not fill the log or burn a CPU meanwhile
        front.bring_up()
        assert len(front.request(writable=8)) == 8
        assert attack.process.log.count("cannot be accepted") < 20


@pytest.mark.parametrize(
    ("message", "ends"),
    [
        pytest.param(encode(Ask.GET_FEATURES, 0), True, id="broken framing"),
        pytest.param(encode(Ask.SET_VRING_NUM, 1, VringState(0, 3).pack()), False, id="refusals"),
        pytest.param(b"\x01", False, id="an end inside a message"),
        pytest.param(b"", False, id="nothing at all"),
    ],
)
def test_H91_connections_without_end_do_not_fill_the_log(
    arena: Callable[..., Any], message: bytes, ends: bool
) -> None:
    with arena("rng") as attack:
        began, before = time.monotonic(), attack.process.log.count("\n")
        for _ in range(300):
            connection = attack.connect()
            if message:
                connection.send(Message(message))
            if ends:
                assert is_closed(connection)
            elif len(message) > 1:
                answers(connection)
            connection.close()
        lines = attack.process.log.count("\n") - before
        # Twenty of each kind in ten seconds; the kinds: came, is refused, is closed, has left, another waits.
        windows = 1 + (time.monotonic() - began) // 10
        assert lines <= 5 * 21 * windows, attack.process.log[-2000:]
