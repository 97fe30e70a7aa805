"""A process with two devices: the one that is attacked, and the one whose heartbeat must not stop.

usage: two_devices.py VICTIM VICTIM_SOCKET BYSTANDER_SOCKET

VICTIM is `rng`, `blk` (64 MiB of memory), `blk-python` (the same without the fast path), FILE:CLASS, or the
name of any other device, which is made as in tests/support/every_device.py.
Both are served until SIGTERM, as by a program that uses the library. It prints `listening` when it is ready.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import signal
import sys
import threading
from pathlib import Path

from vhost_user import Listener, VhostUserBackend, VhostUserDaemon
from vhost_user.devices import Blk, MemoryStorage, Rng


def make(kind: str) -> VhostUserBackend:
    """The device under attack."""
    if kind == "rng":
        return Rng(random.Random(7).randbytes)
    if kind in {"blk", "blk-python"}:
        return Blk(MemoryStorage(64 << 20), num_queues=2, fast_path=kind == "blk")
    path, _, name = kind.rpartition(":")
    if not path:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        return importlib.import_module("tests.support.every_device").make(name)  # type: ignore[no-any-return]
    spec = importlib.util.spec_from_file_location("victim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = getattr(module, name)()
    assert isinstance(device, VhostUserBackend)
    return device


def main() -> None:
    """Serve both until SIGTERM."""
    kind, victim_socket, bystander_socket = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    with (
        VhostUserDaemon("victim", make(kind)) as victim,
        VhostUserDaemon("bystander", Rng(random.Random(11).randbytes)) as bystander,
        Listener.bind(Path(victim_socket)) as first,
        Listener.bind(Path(bystander_socket)) as second,
    ):
        victim.start(first)
        bystander.start(second)
        print("listening", flush=True)
        # A wait without a time limit would keep signals from the main thread on some platforms.
        while not ended.wait(0.1):
            pass
        victim.close()
        bystander.close()


if __name__ == "__main__":
    main()
