"""Devices under test: served in this process, driven over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from vhost_user import VhostUserBackend, VhostUserDaemon

Serve = Callable[[VhostUserBackend], socket.socket]


@pytest.fixture
def serve_device() -> Iterator[Serve]:
    """A function that serves a device and gives the front-end's end of its socket."""
    with ExitStack() as stack:

        def serve(device: VhostUserBackend) -> socket.socket:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            daemon = stack.enter_context(VhostUserDaemon("test", device))
            daemon.start_connection(theirs)
            return ours

        yield serve


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    """What holds for both kinds of ring is tested on both."""
    return bool(request.param)
