"""The sessions that are mutated are valid ones, of every known front-end; the new cases do no harm."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.front_end import until
from vhost_user import Request, VhostUserDaemon
from vhost_user.conformance import PROFILES, CommandTarget, Facts, Target
from vhost_user.devices.rng import Rng
from vhost_user.fuzzing import Campaign, Mutator, Script, Step, all_cases
from vhost_user.fuzzing.layout import BUFFERS
from vhost_user.fuzzing.steps import Player
from vhost_user.protocol.listener import Listener
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.ring import PACKED_DESCRIPTOR, DescriptorFlag

NEW = ("C024", "C037", "C057", "C067", "C094", "C115", "V005", "V010")
SEEDS = {
    "split": ["whole", "enabled first", "socket pairs", "plugged again", "long table", "in-flight area"],
    "packed": [
        "whole",
        "enabled first",
        "socket pairs",
        "plugged again",
        "long table",
        "in-flight area",
        "base 0",
        "base 0x8000",
    ],
}
OURS = [sys.executable, "-m", "vhost_user.cli", "serve", "rng", "--socket-path={socket}"]


class Counting(Rng):
    packed = True

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def handle(self, request: Request) -> None:
        self.count += 1
        super().handle(request)


class Patient(Player):
    """Waits after each kick for the request that it is about: the seeds stop their rings soon afterwards."""

    def __init__(self, target: Target, device: Counting) -> None:
        super().__init__(target)
        self.device = device
        self.kicks = 0

    def _one(self, step: Step) -> None:
        super()._one(step)
        if step["op"] == "kick":
            self.kicks += 1
            # It may have been found before its kick: a ring that begins to run is looked at.
            until(lambda: self.device.count >= self.kicks, "the request that was kicked for")


def script(device: Rng, *, packed: bool) -> Script:
    facts = Facts(device.features(), int(device.protocol_features()), device.num_queues(), 509)
    return Script(facts, PROFILES["rng"], packed=packed)


@pytest.mark.parametrize(("ring", "name"), [(ring, name) for ring, names in SEEDS.items() for name in names])
def test_a_seed_is_a_session_in_which_requests_are_served(
    ring: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Counting()
    with ExitStack() as stack:
        listener = stack.enter_context(Listener.bind(tmp_path / "backend.sock"))
        stack.enter_context(VhostUserDaemon("under-test", device)).start(listener)
        seeds = script(device, packed=ring == "packed").seeds()
        assert len(seeds) == len(SEEDS[ring])
        with Patient(Target(tmp_path / "backend.sock", pid=os.getpid(), patience=1.0), device) as player:
            player.play(seeds[SEEDS[ring].index(name)])
    assert device.count == (2 if name == "plugged again" else 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_every_seed_and_every_way_up_is_used() -> None:
    device = Counting()
    mutator = Mutator((script(device, packed=True),), seed=3)
    sessions = [mutator.session(number) for number in range(240)]
    steps = [step for session in sessions for step in session]
    assert any(step.get("by") == "socket" for step in steps), "no doorbell is a socket pair"
    assert any("kick-socket:0" in step.get("fds", ()) for step in steps)
    assert any(step.get("note", "").startswith("indirect table of") for step in steps)
    owners = [sum(_says(step, FrontendRequest.SET_OWNER) for step in session) for session in sessions]
    assert max(owners) > 1, "nothing is plugged a second time"
    bases = {
        int.from_bytes(bytes.fromhex(step["data"])[16:20], "little")
        for step in steps
        if _says(step, FrontendRequest.SET_VRING_BASE) and len(step["data"]) == 40
    }
    assert {0, 0x8000, 0x80008000} <= bases


def _says(step: Step, request: FrontendRequest) -> bool:
    number: str = int(request).to_bytes(4, sys.byteorder).hex()
    return step["op"] == "send" and str(step["data"]).startswith(number)


@pytest.mark.parametrize("entries", [17, 1024])
def test_V005_a_long_table_has_as_many_descriptors_as_it_says(entries: int) -> None:
    for packed in (False, True):
        request, table, *ring = script(Counting(), packed=packed).long_table(entries)
        assert request["at"] == BUFFERS
        assert len(bytes.fromhex(table["data"])) == 16 * entries
        if packed:
            (head,) = ring
            _, length, _, flags = PACKED_DESCRIPTOR.unpack(bytes.fromhex(head["data"]))
            assert (length, flags) == (16 * entries, DescriptorFlag.INDIRECT | DescriptorFlag.AVAILABLE)


def test_the_new_kinds_have_cases_of_their_own() -> None:
    assert set(NEW) <= {case.id for case in all_cases()}


@pytest.mark.parametrize("name", NEW)
def test_ours_survives_what_front_ends_do_too_often(name: str) -> None:
    cases = [case for case in all_cases() if case.id == name]
    with CommandTarget(OURS) as target:
        outcome = Campaign(target, device="rng", timeout=10, minimise=False).run(60, cases=cases, sessions=0)
    assert [(each.kind, each.text) for each in outcome.findings] == []
    assert not outcome.stopped
    assert outcome.sessions == 2, "split and packed"


def test_H87_full_doorbells_make_their_writer_wait() -> None:
    from vhost_user.fuzzing.steps import _fresh

    for kind in ("full-pipe", "full-socket", "full-eventfd"):
        fds = _fresh(kind, 0)
        try:
            assert os.get_blocking(fds[0]), kind
            os.set_blocking(fds[0], False)
            with pytest.raises(BlockingIOError):
                os.write(fds[0], (1).to_bytes(8, "little"))
        finally:
            for fd in fds:
                os.close(fd)
