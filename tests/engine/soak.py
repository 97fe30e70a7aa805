"""The lost-kick soak (V049): round trips with suppression on both sides, until one never comes back.

    python tests/engine/soak.py                            # ten million on each kind of ring
    python tests/engine/soak.py --round-trips 1000000

Driver and device run in two threads of this process, neither in Python for a request: the driver's side is
the load generator, which sleeps on the call eventfd, the device's is the batch loop with a compiled disk.
Few requests in flight make both fall asleep all the time, which is where kicks get lost. A request that is
not answered for ten seconds is a stall: it ends the run.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.engine.pair import Pair  # noqa: E402 (after the path is set)
from vhost_user.engine.blk.fast_path import MemoryFastPath  # noqa: E402 (same)
from vhost_user.engine.device.request import Request  # noqa: E402 (same)
from vhost_user.engine.device.worker import Worker  # noqa: E402 (same)
from vhost_user.engine.driver.load import BlockLoad  # noqa: E402 (same)

DISK = 1 << 20


class Stall(Exception):  # noqa: N818 (what it is)
    """A request did not come back; the message shows both sides of the ring."""


def declined(request: Request) -> None:
    """The compiled disk takes every request of this load."""
    raise AssertionError(request.describe())


def soak(
    packed: bool,
    round_trips: int,
    *,
    event_idx: bool,
    depth: int,
    poll_microseconds: int = 0,
    stall_seconds: float = 10.0,
    then_polling: int = 0,
) -> dict[str, int]:
    """Run that many; what both sides counted. Raises Stall.

    Afterwards `then_polling` more, by a driver that does not sleep and a worker that may run on any CPU.
    """
    pair = Pair(packed, 64, event_idx=event_idx, regions=8 << 20)
    disk = MemoryFastPath(bytearray(DISK))
    worker = Worker([pair.vring], first_listener_id=1, poll_microseconds=poll_microseconds, crowded=True)

    def dispatch(_event: int, _events: int) -> None:
        pair.vring.process(declined, None, 1024, disk)

    thread = threading.Thread(target=worker.run, args=(dispatch,))
    thread.start()
    try:
        worker.update(pair.vring)
        for requests, polling in ((round_trips, False), (then_polling, True)):
            if polling:
                os.sched_setaffinity(thread.native_id or 0, range(os.cpu_count() or 1))
            if not requests:
                continue
            load = BlockLoad(
                pair.queue,
                depth=depth,
                block_size=512,
                span=DISK,
                requests=requests,
                polling=polling,
                stall_seconds=stall_seconds,
            )
            load.run()
            if load.stalled or load.completed != requests:
                raise Stall(
                    f"{load.completed} of {requests}: {pair.queue.describe()}\n{pair.vring.statistics()}"
                )
            if load.errors or load.length_errors:
                raise Stall(f"{load.errors} errors, {load.length_errors} wrong lengths")
        return {
            "round_trips": load.completed,
            "milliseconds": load.elapsed // 1_000_000,
            "missed_calls": pair.queue.missed_calls,
            "driver_kicks": pair.queue.kicks,
            "driver_kicks_suppressed": pair.queue.kicks_suppressed,
            **pair.vring.statistics(),
        }
    finally:
        worker.stop()
        thread.join()
        worker.remove(pair.vring)
        worker.close()
        disk.close()
        pair.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--round-trips", type=int, default=10_000_000, help="for each kind of ring")
    options = parser.parse_args()
    dice = random.Random(49)
    for packed in (False, True):
        left = options.round_trips
        began = time.monotonic()
        total: dict[str, int] = {}
        while left:
            part = min(left, 250_000)
            counts = soak(
                packed,
                part,
                event_idx=dice.random() < 0.5,
                depth=dice.choice((1, 1, 2, 3, 8, 32)),
                poll_microseconds=dice.choice((0, 0, 0, 5)),
            )
            total = {name: total.get(name, 0) + count for name, count in counts.items()}
            left -= part
            print(f"{'packed' if packed else 'split'}: {left} to go", flush=True)
        print(
            f"{'packed' if packed else 'split'}: no stall, {time.monotonic() - began:.0f} s, {total}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
