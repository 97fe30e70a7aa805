"""Workers: their CPUs, how they poll, what they count; and a log that a front-end cannot fill."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.program.errors import ServeError
from vhost_user.program.options import add_serve_arguments, serve_options
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import VringState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.backend.conftest import Stage


class Where(Device, type="rng"):
    """Answers with the CPUs that its worker may use, and keeps requests when it is told to."""

    keep = False
    kept: Request | None = None

    def handle(self, request: Request) -> None:
        if self.keep:
            request.hold()
            self.kept = request
            return
        request.write(bytes(sorted(os.sched_getaffinity(0))))


def test_workers_are_bound_to_the_cpus_in_turn(stage: Stage) -> None:
    here = os.sched_getaffinity(0)
    cpu = max(here)
    daemon = VhostUserDaemon("bound", Where(), cpus=[cpu])
    with daemon:
        ours, theirs = socket.socketpair()
        daemon.start_connection(theirs)
        front = stage.front_end(ours)
        front.bring_up()
        assert front.request(writable=64) == bytes([cpu])
    assert os.sched_getaffinity(0) == here, "only the worker's thread is bound"


def test_a_cpu_that_is_not_there_is_named_with_those_that_are() -> None:
    available = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    with pytest.raises(ValueError, match=f"CPU 4095 cannot be used; there are {available}"):
        VhostUserDaemon("bound", Where(), cpus=[4095])


def test_statistics_count_requests_and_wakeups(stage: Stage) -> None:
    daemon, front = stage.serve(Where())
    front.bring_up()
    for _ in range(5):
        front.request(writable=64)
    counters = daemon.statistics()
    assert counters["queue 0"]["requests"] == 5
    assert counters["worker 0"]["wakeups"] > 0
    assert "poll_nanoseconds" in counters["worker 0"]


@pytest.mark.parametrize("microseconds", [0, 50])
def test_a_worker_that_polls_serves_as_one_that_does_not(stage: Stage, microseconds: int) -> None:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("polling", Where(), poll_microseconds=microseconds) as daemon:
        daemon.start_connection(theirs)
        front = stage.front_end(ours)
        front.bring_up()
        for _ in range(200):
            assert front.request(writable=64)
        assert daemon.statistics()["worker 0"]["poll_nanoseconds"] <= microseconds * 1000


def test_H92_the_warning_about_a_stop_that_waits_names_the_requests(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.backend.draining.DRAIN_WARNING", 0.0)
    device = Where()
    device.keep = True
    daemon, front = stage.serve(device)
    front.bring_up()
    front.post(writable=8)
    while device.kept is None:
        threading.Event().wait(0.001)
    kept = device.kept
    wanted = f"(heads {kept.head})"
    assert daemon.vrings[0].heads_in_flight() == [kept.head]
    warned = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if wanted in record.getMessage():
                warned.set()

    ear = Ear()
    logging.getLogger("vhost_user.backend").addHandler(ear)
    try:
        answer: list[object] = []
        asking = threading.Thread(
            target=lambda: answer.append(front.call(FrontendRequest.GET_VRING_BASE, VringState(0, 0)))
        )
        asking.start()
        assert warned.wait(10)
        kept.complete()
        asking.join(10)
        assert answer == [VringState(0, 1)]
    finally:
        logging.getLogger("vhost_user.backend").removeHandler(ear)
    device.kept = None
    del kept


def test_H91_refusals_without_end_do_not_fill_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    _, front = stage.serve(Where())
    front.negotiate()
    with caplog.at_level(logging.WARNING, logger="vhost_user"):
        for _ in range(300):
            front.call(FrontendRequest.SET_VRING_NUM, VringState(0, 3), need_reply=False)
        front.call(FrontendRequest.GET_QUEUE_NUM)
    lines = [record.getMessage() for record in caplog.records if "SET_VRING_NUM" in record.getMessage()]
    assert len(lines) == 20


def parsed(argv: Sequence[str]) -> object:
    import argparse

    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    return serve_options(parser.parse_args(["--fd=0", *argv]))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", (0,)), ("0,2", (0, 2)), ("1-3", (1, 2, 3)), ("4,0-1", (4, 0, 1))]
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    options = parsed([f"--cpu={text}"])
    assert getattr(options, "cpus", None) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "3-1", "0,,1", "-1"])
def test_a_cpu_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ServeError, match="is not a list of CPUs"):
        parsed([f"--cpu={text}"])


@pytest.mark.parametrize("text", ["-1", "1000001"])
def test_poll_limits(text: str) -> None:
    with pytest.raises(ServeError, match="not between 0 and 1000000"):
        parsed([f"--poll-us={text}"])


@pytest.mark.parametrize(
    ("cpus", "queues", "crowded"), [(2, 2, True), (2, 1, False), (2, 16, True), (4, 4, True), (8, 8, False)]
)
def test_workers_move_where_there_are_no_more_cpus_than_queues(
    monkeypatch: pytest.MonkeyPatch, cpus: int, queues: int, crowded: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    device = Where()
    device.queues = queues
    with VhostUserDaemon("crowded", device) as daemon:
        assert [worker.placement is not None for worker in daemon.workers] == [crowded] * len(daemon.workers)
