"""Back-ends in this process for the suite to look at: ours, ours made wrong, and one that says yes to all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vhost_user import Device, VhostUserDaemon
from vhost_user.conformance import Target
from vhost_user.protocol.listener import Listener


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.fixture
def serve(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Target]:
    """Serve a device in this process; returns the target."""

    monkeypatch.setattr(
        "vhost_user.backend.draining.RESET_DRAIN", 0.02
    )  # for requests that are lost on purpose

    def start(device: Device, *, iommu: bool = True, **options: Any) -> Target:
        path = tmp_path / "backend.sock"
        listener = stack.enter_context(Listener.bind(path))
        daemon = stack.enter_context(VhostUserDaemon("under-test", device, iommu=iommu))
        device.daemon = daemon  # type: ignore[attr-defined]  # for mutants, which reach into it
        daemon.start(listener)
        return Target(path, pid=os.getpid(), patience=0.3, **options)

    return start
