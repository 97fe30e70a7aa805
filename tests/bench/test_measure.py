"""One load on one back-end: figures add up, and whatever goes wrong is said."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.bench.cpu_time import own_cpu_seconds, process_cpu_seconds
from vhost_user.bench.devices import DEVICES, Memory
from vhost_user.bench.measure import Load, LoadError, measure
from vhost_user.frontend import BlockDriver
from vhost_user.frontend.load import run_block_load
from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.blk import BlkConfig, BlkFeature

MEBIBYTE = 1 << 20
SHORT = Load(seconds=None, requests=200, depth=4)


@contextmanager
def served(device: Device) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("bench-test", device) as daemon:
        daemon.start_connection(theirs)
        yield ours


@pytest.mark.parametrize("name", sorted(set(DEVICES)))
@pytest.mark.parametrize("packed", [False, True])
def test_every_measured_device_answers_everything_well(name: str, packed: bool) -> None:
    load = replace(SHORT, read_percent=70, packed=packed, queues=2)
    with served(DEVICES[name](MEBIBYTE, 2)) as target:
        measurement = measure(target, load, pid=os.getpid())
    result = measurement.result
    assert measurement.problems() == []
    assert not measurement.failed
    assert result.requests == result.reads + result.writes == 400
    assert result.bytes_moved == 400 * 4096
    assert sum(result.histogram.values()) == 400
    assert measurement.backend_cpu_seconds is not None
    assert measurement.backend_cpu_seconds > 0
    json.dumps(measurement.as_dict())


@pytest.mark.parametrize("name", ["handle", "handle_batch"])
def test_a_memory_disk_keeps_what_was_written(name: str) -> None:
    load = replace(SHORT, read_percent=50, verify=True, requests=4000, span=64 << 10)
    with served(DEVICES[name](MEBIBYTE)) as target:
        measurement = measure(target, load)
    assert measurement.result.verified > 0
    assert measurement.problems() == []


def test_a_disk_that_forgets_is_found_out() -> None:
    load = replace(SHORT, read_percent=50, verify=True, requests=4000, span=64 << 10)
    with served(DEVICES["zeroes"](MEBIBYTE)) as target:
        measurement = measure(target, load)
    assert measurement.failed
    assert "did not hold what had been written" in " ".join(measurement.problems())


def test_errors_of_the_device_are_counted() -> None:
    class Broken(Memory):
        def handle(self, request: Request) -> None:
            request.skip_writable(request.writable - 1)
            request.write(b"\x01")

    with served(Broken(MEBIBYTE)) as target:
        measurement = measure(target, SHORT)
    assert measurement.result.errors == 200
    assert measurement.failed
    assert "200 requests were answered with an error status" in measurement.problems()


def test_V014_wrong_used_lengths_are_counted() -> None:
    class Silent(Memory):
        def handle(self, request: Request) -> None:
            request.write_last(b"\0")
            request.complete(0)

    with served(Silent(MEBIBYTE)) as target:
        measurement = measure(target, SHORT)
    assert measurement.result.length_errors == 200
    assert "V014" in " ".join(measurement.problems())


def test_progress_can_end_a_load_early() -> None:
    seen: list[int] = []

    def progress(requests: int, seconds: float) -> bool:
        assert seconds > 0
        seen.append(requests)
        return True

    with served(Memory(MEBIBYTE)) as target:
        measurement = measure(target, replace(SHORT, requests=None, seconds=60), progress=progress)
    assert len(seen) >= 1
    assert measurement.result.requests >= seen[0] > 0
    assert measurement.result.seconds < 30


def test_a_back_end_that_goes_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhost_user.bench.measure.STALL_SECONDS", 0.2)
    answered = threading.Event()

    class Mortal(Memory):
        def handle(self, request: Request) -> None:
            super().handle(request)
            answered.set()

    ours, theirs = socket.socketpair()
    with VhostUserDaemon("bench-test", Mortal(MEBIBYTE)) as daemon:
        daemon.start_connection(theirs)

        def end() -> None:
            answered.wait()
            daemon.stop()

        threading.Thread(target=end).start()
        measurement = measure(ours, replace(SHORT, requests=None, seconds=60, polling=False))
    assert measurement.hung_up
    assert measurement.failed
    assert "closed the connection" in measurement.problems()[0]


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (replace(SHORT, size=600), "sectors of 512"),
        (replace(SHORT, depth=0), "depth of 0"),
        (replace(SHORT, seconds=None, requests=None), "how long"),
        (replace(SHORT, ring_size=16, depth=17), "no room for a depth of 17"),
        (replace(SHORT, offset=512), "not a multiple of the size"),
        (replace(SHORT, size=2 * MEBIBYTE), "do not fit"),
        (replace(SHORT, offset=MEBIBYTE), "do not fit"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(load: Load, words: str) -> None:
    with served(Memory(MEBIBYTE)) as target, target, pytest.raises(LoadError, match=words):
        measure(target, load)


def test_a_read_only_disk_is_not_written() -> None:
    device = Memory(MEBIBYTE)
    device.device_features |= BlkFeature.RO
    with served(device) as target, pytest.raises(LoadError, match="read-only"):
        measure(target, replace(SHORT, read_percent=0))


def test_a_device_that_is_no_disk_is_told() -> None:
    device = Memory(MEBIBYTE)
    device.config = BlkConfig()
    with served(device) as target, pytest.raises(LoadError, match="is it a block device"):
        measure(target, SHORT)


def test_a_wrong_process_id_is_told_before_the_load() -> None:
    with served(Memory(MEBIBYTE)) as target, target, pytest.raises(ProcessLookupError, match="no process"):
        measure(target, SHORT, pid=0)


def test_a_ring_that_is_not_offered_is_told() -> None:
    device = Memory(MEBIBYTE)
    device.packed = False
    with served(device) as target, pytest.raises((RequestRefused, Exception), match="RING_PACKED"):
        measure(target, replace(SHORT, packed=True))


def test_deep_loads_get_a_ring_that_holds_them() -> None:
    load = replace(SHORT, depth=300, requests=600)
    assert load.chosen_ring_size == 512
    with served(Memory(MEBIBYTE)) as target:
        assert not measure(target, load).failed


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_requests_can_be_shown_in_batches(batch: int) -> None:
    with served(Memory(MEBIBYTE)) as target:
        measurement = measure(target, replace(SHORT, batch=batch))
    assert measurement.result.requests == 200
    assert not measurement.failed


def test_a_batch_of_one_shows_each_request_by_itself() -> None:
    with served(Memory(MEBIBYTE)) as target, BlockDriver(target) as disk:
        run_block_load(disk, depth=4, requests=200, batch=1)
        shown = disk.queues[0].ring.statistics()
        # The front-end's first kick, which starts the ring, comes on top.
        assert shown["kicks"] + shown["kicks_suppressed"] == 201


def test_cpu_time_of_a_process_grows_with_its_work() -> None:
    before = process_cpu_seconds(os.getpid())
    sum(range(200_000))
    assert own_cpu_seconds() > before
    assert Path("/proc/self/stat").exists()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_cpu_time_of_no_process(pid: int) -> None:
    with pytest.raises(ProcessLookupError, match=str(pid)):
        process_cpu_seconds(pid)
