"""The fuzzer finds crash, hang and leak where they are, makes them small, and plays them again."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhost_user import Device, VhostUserDaemon
from vhost_user.cli import main
from vhost_user.conformance import PROFILES, CommandTarget, Facts, Target
from vhost_user.devices.blk import Blk
from vhost_user.devices.rng import Rng
from vhost_user.devices.storage import MemoryStorage
from vhost_user.fuzzing import (
    CRASH,
    GONE,
    HANG,
    LEAK,
    Campaign,
    Case,
    Mutator,
    Script,
    Step,
    all_cases,
    load,
    save,
    smaller,
)
from vhost_user.fuzzing.campaign import Outcome
from vhost_user.fuzzing.steps import DESCRIPTORS, Player, repeat, send
from vhost_user.protocol.framing import encode
from vhost_user.protocol.listener import Listener
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import VringState

FRAGILE = [sys.executable, str(Path(__file__).with_name("fragile.py")), "{socket}"]
REPRODUCERS = sorted(Path(__file__).with_name("reproducers").glob("*.jsonl"))
FACTS = Facts(
    int(VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.RING_PACKED),
    0x1AA2B,
    1,
    509,
)
BOTH = (Script(FACTS, PROFILES["rng"], packed=False), Script(FACTS, PROFILES["rng"], packed=True))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def serve(stack: ExitStack, device: Device, path: Path) -> Target:
    listener = stack.enter_context(Listener.bind(path))
    stack.enter_context(VhostUserDaemon("under-test", device)).start(listener)
    return Target(path, pid=os.getpid(), patience=0.5)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C133_ours_survives_messages_in_place_of_doorbells(
    tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture, packed: bool
) -> None:
    caplog.set_level(logging.CRITICAL)
    device = Rng()
    device.extra_protocol_features = int(ProtocolFeature.INBAND_NOTIFICATIONS)
    device.packed = packed
    target = serve(stack, device, tmp_path / "backend.sock")
    chosen = [case for case in all_cases() if case.id == "C133"]
    outcome = Campaign(target, device="rng", seed=7, timeout=30).run(0.5, cases=chosen)
    assert [(each.kind, each.text, each.name) for each in outcome.findings] == []
    assert not outcome.stopped
    assert outcome.sessions >= 1


@pytest.mark.parametrize("kind", ["rng", "blk"])
def test_ours_survives_a_few_seconds(
    kind: str, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    device = Rng() if kind == "rng" else Blk(MemoryStorage(1 << 20))
    device.packed = True
    target = serve(stack, device, tmp_path / "backend.sock")
    chosen = [
        case
        for case in all_cases()
        if case.id in ("H04", "H05", "H30", "H32", "H25", "H58", "H78", "H85", "H45")
    ]
    for seconds in (1.0, 5.0, 25.0):  # a busy machine needs longer for the named cases alone
        outcome = Campaign(target, device=kind, seed=7, timeout=30).run(seconds, cases=chosen)
        assert [(each.kind, each.text, each.name) for each in outcome.findings] == []
        assert not outcome.stopped
        if outcome.sessions > len(chosen):
            break
    assert outcome.sessions > len(chosen)


@pytest.mark.parametrize("path", REPRODUCERS, ids=lambda path: path.stem)
def test_what_was_found_once_does_no_harm_any_more(
    path: Path, tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    target = serve(stack, Rng(), tmp_path / "backend.sock")
    assert Campaign(target, device="rng", timeout=5).replay(load(path)[1]) is None


def _case(name: str, *hostile: Step) -> Case:
    return Case(name, "", lambda script: [*script.negotiation(), *hostile])


@pytest.mark.parametrize(
    ("kind", "hostile", "text"),
    [
        (
            CRASH,
            send(encode(FrontendRequest.SET_VRING_BASE, 1, VringState(0, 0x77).pack())),
            "was killed by SIGSEGV",
        ),
        (
            HANG,
            send(encode(FrontendRequest.SET_VRING_NUM, 1, VringState(0, 13).pack())),
            "a valid session does not work",
        ),
        (LEAK, send(encode(FrontendRequest.SET_LOG_FD, 1), ["eventfd"]), "more file descriptors"),
    ],
)
def test_crash_hang_and_leak_are_found_made_small_and_played_again(  # noqa: PLR0917  # fixtures
    kind: str, hostile: Step, text: str, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.fuzzing.watcher.SETTLE_SECONDS", 0.05)
    monkeypatch.setattr("vhost_user.fuzzing.campaign.REPEATS", 1)
    if kind == HANG:  # which reads no more: there is no use in waiting for it
        monkeypatch.setattr("vhost_user.fuzzing.steps.SETTLE_SECONDS", 0.1)
        monkeypatch.setattr("vhost_user.fuzzing.watcher.DEATH_SECONDS", 0.02)
    else:
        monkeypatch.setattr("vhost_user.fuzzing.steps.SETTLE_SECONDS", 5.0)
    target = stack.enter_context(CommandTarget(FRAGILE, patience=10))
    campaign = Campaign(target, device="generic", timeout=0.25)
    outcome = campaign.run(60, cases=[_case("it", repeat(4, hostile))], sessions=0)
    (finding,) = outcome.findings
    assert finding.kind == kind
    assert text in finding.text
    assert finding.minimised
    assert [step["op"] for step in finding.steps] == ["connect", "repeat"]
    assert finding.steps[1]["count"] == 1
    path = tmp_path / "found.jsonl"
    save(path, finding, seed=0, device="generic")
    head, steps = load(path)
    assert (head["kind"], steps) == (kind, finding.steps)
    again = campaign.replay(steps)
    assert again is not None
    assert again.kind == kind


def test_a_back_end_that_is_not_ours_is_not_restarted(stack: ExitStack) -> None:
    command = stack.enter_context(CommandTarget(FRAGILE, patience=10))
    command.connect(timeout=1).close()
    target = Target(command.path, pid=command.pid, patience=0.1)
    crash = send(encode(FrontendRequest.SET_VRING_BASE, 1, VringState(0, 0x77).pack()))
    outcome = Campaign(target, device="generic", timeout=0.25).run(60, cases=[_case("it", crash)], sessions=0)
    (finding,) = outcome.findings
    assert finding.kind == GONE, "from outside nobody can tell a death from an end"
    assert "has ended" in finding.text
    assert outcome.gone
    assert "is gone, and is not ours to restart" in outcome.stopped


def test_ctrl_c_loses_nothing_that_was_found(stack: ExitStack) -> None:
    def interrupt(outcome: Outcome, _name: str) -> None:
        if outcome.findings:
            raise KeyboardInterrupt

    target = stack.enter_context(CommandTarget(FRAGILE, patience=10))
    crash = send(encode(FrontendRequest.SET_VRING_BASE, 1, VringState(0, 0x77).pack()))
    campaign = Campaign(target, device="generic", timeout=0.25, progress=interrupt)
    outcome = campaign.run(60, cases=[_case("it", crash)])
    assert outcome.findings
    assert outcome.stopped == "interrupted"


def test_the_command_writes_a_reproducer_and_replays_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = send(encode(FrontendRequest.SET_VRING_BASE, 1, VringState(0, 0x77).pack()))
    all_cases()
    monkeypatch.setattr("vhost_user.cli.fuzz.all_cases", lambda: (_case("X", crash),))
    options = ["fuzz", "--device", "generic", "--timeout", "1", "--output", str(tmp_path)]
    assert main([*options, "--only", "X", "--", *FRAGILE]) == 1
    out = capsys.readouterr().out
    assert "crash: the back-end was killed by SIGSEGV" in out
    assert "1 sessions in" in out
    assert "leaks were not looked for" not in out
    assert main([*options, "--replay", str(tmp_path / "crash-1.jsonl"), "--", *FRAGILE]) == 1
    assert "SIGSEGV" in capsys.readouterr().out
    (tmp_path / "other").write_text("{}\n")
    assert main([*options, "--replay", str(tmp_path / "other"), "--", *FRAGILE]) == 2


def test_the_same_seed_gives_the_same_sessions() -> None:
    one, two, other = Mutator(BOTH, 5), Mutator(BOTH, 5), Mutator(BOTH, 6)
    assert [one.session(n) for n in range(50)] == [two.session(n) for n in range(50)]
    assert [one.session(n) for n in range(20)] != [other.session(n) for n in range(20)]


def test_every_case_makes_steps_that_can_be_written_down() -> None:
    import json

    cases = all_cases()
    assert len({case.id for case in cases}) == len(cases) > 40
    known = {name.partition(":")[0] for name in DESCRIPTORS}
    for case in cases:
        assert case.title
        for script in BOTH:
            for step in json.loads(json.dumps(case.steps(script))):
                assert {name.partition(":")[0] for name in step.get("fds", ())} <= known, case.id


def test_the_minimiser_keeps_only_what_is_needed() -> None:
    steps: list[Step] = [{"op": "kick", "queue": number} for number in range(40)]

    def fails(some: object) -> bool:
        queues = [step["queue"] for step in some]  # type: ignore[attr-defined]  # a list of steps
        return 7 in queues and 31 in queues

    assert [step["queue"] for step in smaller(steps, fails)] == [7, 31]


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    with (
        Player(Target(tmp_path / "none", patience=0.0)) as player,
        pytest.raises(ValueError, match="there is no step 'x'"),
    ):
        player.play([{"op": "x"}])
