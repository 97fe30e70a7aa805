"""The runner, the reports and the command: what they say and with which exit status."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.conformance.yes_man import FACTS, REQUEST, YesMan
from vhost_user.cli import main
from vhost_user.conformance import (
    CommandTarget,
    Level,
    Outcome,
    Runner,
    Target,
    TargetGone,
    all_checks,
    choose,
    tolerated,
)
from vhost_user.conformance.profile import guess
from vhost_user.conformance.report import as_json, as_junit, summary, worst
from vhost_user.spec.features import VirtioFeature

SERVER = f"""
import sys, pathlib, os, signal
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from tests.conformance.yes_man import YesMan, REQUEST
class Dying(YesMan):
    def _answer(self, connection, request, flags, payload):
        if request == REQUEST.SET_VRING_ERR:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._answer(connection, request, flags, payload)
Dying(pathlib.Path(sys.argv[1]))
"""

LAST_WORDS = f"""
import sys, pathlib, os
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from tests.conformance.yes_man import YesMan, REQUEST
again = pathlib.Path(sys.argv[1]).with_name("again")
print("last words of the second" if again.exists() else "first words", flush=True)
again.touch()
class Dying(YesMan):
    def _answer(self, connection, request, flags, payload):
        if request == REQUEST.SET_VRING_BASE:
            print("the base was too much", flush=True)
            os._exit(7)
        return super()._answer(connection, request, flags, payload)
Dying(pathlib.Path(sys.argv[1]))
"""
ONE_SESSION = f"""
import sys, pathlib, os, time
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from tests.conformance.yes_man import YesMan
from vhost_user.conformance import Facts
server = YesMan(pathlib.Path(sys.argv[1]), bugs=["one-session", "slow-end"], facts=Facts(5 << 30, 9, 4))
server.join(60)
os._exit(int(sys.argv[2]))
"""


@pytest.fixture
def yes_man(tmp_path: Path, stack: ExitStack) -> YesMan:
    server = YesMan(tmp_path / "backend.sock")
    stack.callback(server.close)
    return server


def test_every_check_says_what_it_stands_on() -> None:
    for check in all_checks():
        assert check.title, check.id
        assert check.section, check.id
        assert check.statement.endswith((".", "?")), check.id
        assert check.rule[0] in "CVHB", check.id


def test_checks_are_chosen_by_id_rule_pattern_and_level() -> None:
    assert [check.id for check in choose(["C093"])] == ["C093-acks", "C093-one-reply", "C093-no-ack-unasked"]
    assert [check.id for check in choose(["C093*"], ["C093-acks"])] == [
        "C093-one-reply",
        "C093-no-ack-unasked",
    ]
    assert {check.level for check in choose(levels=[Level.SHOULD])} == {Level.SHOULD}
    with pytest.raises(ValueError, match="no check fits 'X1'"):
        choose(["X1"])


def test_a_quirk_is_tolerated_unless_strict() -> None:
    assert "one-session" in tolerated()
    assert "one-session" not in tolerated(strict=True)
    assert "acks-failures" in tolerated(["acks-failures"])
    with pytest.raises(ValueError, match="there is no quirk 'x'"):
        tolerated(["x"])


def test_a_known_quirk_is_no_failure_when_tolerated(yes_man: YesMan) -> None:
    checks = choose(["C025-unoffered-protocol-bits"])
    target = Target(yes_man.path, patience=0.2)
    (strict,) = Runner(target, device="generic", timeout=0.3).run(checks).results
    (tolerant,) = (
        Runner(target, device="generic", timeout=0.3, tolerated=tolerated(["unoffered-bits"]))
        .run(checks)
        .results
    )
    assert (strict.outcome, tolerant.outcome) == (Outcome.FAIL, Outcome.TOLERATED)


def test_reports_tell_every_outcome(yes_man: YesMan) -> None:
    checks = choose(["C001-layout", "C002-version", "V024-wrap", "C025-unoffered-protocol-bits"])
    target = Target(yes_man.path, patience=0.2)
    report = Runner(target, device="generic", timeout=0.3, tolerated=tolerated(["unoffered-bits"])).run(
        checks, name="a\x01b"
    )
    assert "1 passed, 1 failed, 1 tolerated, 1 skipped" in summary(report)
    data = json.loads(json.dumps(as_json(report)))
    assert [each["outcome"] for each in data["checks"]] == ["pass", "fail", "skip", "tolerated"]
    assert "GET_FEATURES" in "".join(data["checks"][1]["trace"]) or data["checks"][1]["text"]
    suite = ET.fromstring(as_junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    assert [case.find("failure") is not None for case in suite] == [False, True, False, False]


def test_a_back_end_that_dies_is_restarted_and_the_check_blamed(stack: ExitStack) -> None:
    target = stack.enter_context(CommandTarget([sys.executable, "-c", SERVER, "{socket}"], patience=10))
    report = Runner(target, device="generic", timeout=2.0).run(
        choose(["C001-layout", "C093-acks", "C006-reply-id"])
    )
    outcomes = {each.check.id: each for each in report.results}
    assert outcomes["C001-layout"].outcome is Outcome.PASS
    assert outcomes["C006-reply-id"].outcome is Outcome.PASS
    assert "was killed by SIGSEGV" in outcomes["C093-acks"].text
    assert report.restarts == 1


def test_a_death_is_told_with_the_check_and_its_last_words(stack: ExitStack) -> None:
    target = stack.enter_context(CommandTarget([sys.executable, "-c", LAST_WORDS, "{socket}"], patience=10))
    report = Runner(target, device="generic", timeout=2.0).run(
        choose(["C001-layout", "C058-base", "H05-truncated-index"])
    )
    outcomes = {each.check.id: each for each in report.results}
    assert outcomes["C001-layout"].outcome is Outcome.PASS
    for name in ("C058-base", "H05-truncated-index"):
        death = outcomes[name].death or ""
        assert "ended with exit status 7" in death
        assert "the base was too much" in death
    assert "first words" not in death, "what an earlier process said is not about this death"
    assert [each.check.id for each in report.deaths] == ["C058-base", "H05-truncated-index"]
    assert "died of: C058-base" in summary(report)
    assert worst(report.results) == 1


def test_a_back_end_that_goes_away_fails_no_rule(tmp_path: Path, stack: ExitStack) -> None:
    server = YesMan(tmp_path / "backend.sock", fatal=[REQUEST.SET_VRING_BASE])
    stack.callback(server.close)
    target = Target(server.path, patience=0.1)
    chosen = choose(["C001-layout", "C058-base", "C061-disable", "C002-version"])
    report = Runner(target, device="generic", timeout=0.3).run(chosen)
    results = {each.check.id: each for each in report.results}
    assert results["C001-layout"].outcome is Outcome.PASS
    assert results["C002-version"].outcome is Outcome.FAIL, "found out before it went away"
    assert results["C058-base"].outcome is Outcome.GONE
    assert "is gone: nobody listens" in results["C058-base"].text
    assert results["C061-disable"].outcome is Outcome.GONE
    assert "not run: the back-end is gone since C058-base" in results["C061-disable"].text
    assert not report.complete
    assert "2 not tested, because the back-end is gone" in summary(report)
    assert worst(report.results) == 3
    suite = ET.fromstring(as_junit(report))
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("1", "1", "1")
    assert as_json(report)["complete"] is False


def test_a_back_end_that_serves_one_front_end_is_not_blamed_for_any_rule(
    tmp_path: Path, stack: ExitStack
) -> None:
    server = YesMan(tmp_path / "backend.sock", bugs=["one-session"])
    stack.callback(server.close)
    target = Target(server.path, patience=0.1)
    with pytest.raises(TargetGone, match=r"one front-end and ends, give `-- COMMAND … \{socket\}`"):
        Runner(target, device="generic", timeout=0.3).run(choose(["C001-layout"]))


def test_a_back_end_that_dies_at_the_first_question_is_gone_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As virtiofsd whose folder is not there: it accepts, and ends."""
    server = (
        "import socket, sys; listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); "
        "listener.listen(); listener.accept(); sys.exit('no such folder')"
    )
    assert main(["check", "--timeout", "5", "--", sys.executable, "-c", server, "{socket}"]) == 3
    said = capsys.readouterr().err
    assert "ended with exit status 1; its last words: no such folder" in said
    assert "Traceback" not in said


def test_gone_has_an_exit_status_of_its_own(
    tmp_path: Path, stack: ExitStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost_user.cli.check.Target", partial(Target, patience=0.1))
    server = YesMan(tmp_path / "backend.sock", fatal=[REQUEST.SET_VRING_BASE])
    stack.callback(server.close)
    options = ["--device", "generic", "--timeout", "0.3"]
    assert main(["check", str(server.path), *options, "--only", "C058-base"]) == 3
    assert "gone      must" in capsys.readouterr().out
    assert main(["check", str(server.path), *options]) == 3
    assert "nobody listens" in capsys.readouterr().err
    assert main(["fuzz", str(server.path), *options]) == 3
    assert "nobody listens" in capsys.readouterr().err


@pytest.mark.parametrize("status", [0, 5])
def test_a_command_that_serves_one_front_end_is_started_for_each(stack: ExitStack, status: int) -> None:
    command = [sys.executable, "-c", ONE_SESSION, "{socket}", str(status)]
    target = stack.enter_context(CommandTarget(command, patience=10))
    report = Runner(target, device="generic", timeout=2.0).run(
        choose(["C001-layout", "C093-acks", "C006-reply-id", "C134-next-session"])
    )
    outcomes = {each.check.id: (each.outcome, each.quirk, each.death) for each in report.results}
    assert outcomes.pop("C134-next-session") == (Outcome.FAIL, "one-session", None)
    assert {each[0] for each in outcomes.values()} == {Outcome.PASS}, outcomes
    assert report.restarts > 3
    assert target.one_session


def test_a_command_is_given_a_short_path_under_a_long_tmpdir(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    target = stack.enter_context(CommandTarget([sys.executable, "-c", SERVER, "{socket}"], patience=10))
    assert len(target.path) <= 107
    assert target.answers(2.0)


def test_destructive_checks_come_last() -> None:
    orders = [check.order for check in all_checks()]
    assert orders == sorted(orders)
    last = [check.id for check in all_checks() if check.destructive]
    assert "C039-truncated" in last
    assert [check.id for check in all_checks()][-len(last) :] == last
    assert [check.id for check in choose(["C039-truncated", "C001-layout"])] == [
        "C001-layout",
        "C039-truncated",
    ]


def test_nobody_at_the_socket_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(TargetGone, match="nobody listens"):
        Runner(Target(tmp_path / "none", patience=0.0), timeout=0.1).run([])


def test_a_command_that_ends_is_quoted(stack: ExitStack) -> None:
    target = stack.enter_context(
        CommandTarget([sys.executable, "-c", "print('no such disk')", "{socket}"], patience=5)
    )
    with pytest.raises(TargetGone, match="no such disk"):
        target.connect(timeout=1)


def test_the_device_type_is_guessed_from_features() -> None:
    assert guess(int(VirtioFeature.VERSION_1), 1) == "rng"
    assert guess(int(VirtioFeature.VERSION_1), 2) == "generic"
    assert guess(1 << 2 | 1 << 6 | 1 << 9, 1) == "blk"
    assert guess(1 << 15 | 1 << 5, 2) == "net"


def test_the_command_reports_and_its_status_tells(
    yes_man: YesMan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(yes_man.path)
    assert (
        main(
            [
                "check",
                path,
                "--only",
                "C001-layout",
                "--json",
                str(tmp_path / "j"),
                "--junit",
                str(tmp_path / "x"),
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "j").read_text())["features"] == FACTS.features
    assert (tmp_path / "x").read_text().startswith("<?xml")
    assert main(["check", path, "--only", "C002", "--timeout", "0.2", "--verbose"]) == 1
    out = capsys.readouterr().out
    assert "C002-version" in out
    assert "1 checks in" in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["check"], "name either the socket"),
        (["check", "a.sock", "--", "b", "{socket}"], "name either the socket"),
        (["check", "--", "b"], "must contain {socket}"),
        (["check", "a.sock", "--only", "X9"], "no check fits"),
        (["check", "a" * 108], "longer than 107 bytes"),
        (["check", "a.sock", "--quirks", "x"], "there is no quirk"),
        (["fuzz"], "name either the socket"),
        (["fuzz", "a.sock", "--only", "H0"], "there is no case"),
        (["fuzz", "a.sock", "--output", "/does/not/exist"], "is not a folder"),
    ],
)
def test_wrong_arguments_have_status_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert says in capsys.readouterr().err


def test_the_list_shows_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(check.id in out for check in all_checks())


def test_V045_ring_reset_is_noted_and_breaks_no_rule(
    yes_man: YesMan, tmp_path: Path, stack: ExitStack
) -> None:
    plain = Runner(Target(yes_man.path, patience=0.2), device="generic", timeout=0.3).run([])
    facts = replace(FACTS, features=FACTS.features | int(VirtioFeature.RING_RESET))
    server = YesMan(tmp_path / "resets.sock", facts=facts)
    stack.callback(server.close)
    report = Runner(Target(server.path, patience=0.2), device="generic", timeout=0.3).run([])
    assert "note:" not in summary(plain)
    assert "note: RING_RESET is offered (V045)" in summary(report)
    assert len(as_json(report)["notes"]) == 1
    assert worst(report.results) == 0


@pytest.mark.parametrize("command", ["check", "fuzz"])
def test_the_help_tells_every_exit_status(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "exit status: 0 " in text
    for status in (1, 2, 3):
        assert re.search(rf"^ +{status} [a-z]", text, re.MULTILINE), status
    assert "gone" in text
