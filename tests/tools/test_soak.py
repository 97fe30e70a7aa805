"""``./soak``: what it says, a round of what needs no guest, a finding, Ctrl-C."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path

import pytest

from tests.soak import __main__ as soak
from tests.soak.course import Course
from tests.support.programs import programs, run_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", [[], ["kill"], ["upgrade"], ["migrate"]])
def test_help_teaches(words: list[str]) -> None:
    # Without anything that is built, so that one may ask first.
    done = run_program([ROOT / "soak", *words, "--help"], check=True, env={"PATH": "/usr/bin:/bin"})
    if words:
        assert "--rounds" in done.stdout
    else:
        for subject in soak.SUBJECTS:
            assert f"./soak {subject}" in done.stdout
        assert "exit status" in done.stdout


def test_rounds_without_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["kill", "--without-guest", "--rounds", "1", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert "seed 5" in said
    assert said.count("1 kills, 25 requests, each answered once") == 2
    assert "2 runs, 0 with a finding" in said


@pytest.mark.parametrize("subject", soak.SUBJECTS)
def test_the_runs_have_names(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main([subject, "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert any(name.endswith("split") for name in names)
    assert any(name.endswith("packed") for name in names)


def test_a_finding_is_told_with_what_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    def lose(course: Course) -> str:
        for number in course.rounds():
            assert number < 2, "block 7 is lost"
        return "nothing"

    assert soak.go("kill", "fast path, split", lose, 5, 9) == "fast path, split: block 7 is lost"
    said = capsys.readouterr().out
    assert "FOUND in round 3" in said
    assert "./soak kill --only 'fast path, split' --rounds 5 --seed 9" in said
    folder = Path(said.split("its files are in ")[1].split(". ")[0])
    assert folder.is_dir()
    folder.rmdir()


def test_what_is_done_is_counted(tmp_path: Path) -> None:
    course = Course(tmp_path, 3, random.Random(1))
    assert [(number, course.done) for number in course.rounds()] == [(0, 0), (1, 1), (2, 2)]
    assert course.done == 3


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--rounds", "0"], ["--only", "nothing"]):
        with pytest.raises(SystemExit) as caught:
            soak.main(["kill", *words])
        assert caught.value.code == 2
        assert words[1] in capsys.readouterr().err


def test_ctrl_c_ends_it_in_words() -> None:
    with programs() as running:
        process = running.python(
            "-u", "-m", "tests.soak", "kill", "--without-guest", "--rounds", "100000", cwd=ROOT
        )
        assert process.stdout is not None
        guard = threading.Timer(60, process.kill)
        guard.start()
        try:
            assert "Ctrl-C ends it" in process.stdout.readline()
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert "interrupted after" in process.stdout.read()
        finally:
            guard.cancel()
        assert process.wait(20) == 130
