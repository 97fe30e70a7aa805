"""The comparison: ratios by round, targets, tables, JSON, pictures, and a tiny real run."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.comparison.cases import Case, Entry, essential_cases, full_cases, woken_cases
from tools.comparison.checkout import Checkout, against
from tools.comparison.compare import CaseResult, EntryResult, Spread, run_case
from tools.comparison.contenders import (
    CONTENDERS,
    Contender,
    ContenderError,
    RunningContender,
    TemporaryPlace,
)
from tools.comparison.machine import machine_state
from tools.comparison.program import choose_cases, main, without_missing
from tools.comparison.report import as_json, case_table, draw, record
from tools.comparison.targets import TARGETS, verdicts
from vhost_user.bench.measure import Load, LoadError, Measurement
from vhost_user.bench.units import mix_name, parse_mix, parse_size, show_rate, show_size, show_time
from vhost_user.frontend.load import LoadResult

PLAIN = Load(seconds=0.02)


def measured(rate: int, cpu: float, *, errors: int = 0) -> Measurement:
    result = LoadResult(requests=rate, reads=rate, seconds=1.0, errors=errors, histogram={1000: rate})
    result.bytes_moved = rate * 4096
    return Measurement(
        PLAIN, result, event_idx=True, client_cpu_seconds=1.0, backend_cpu_seconds=cpu * rate / 1e6
    )


def case_result(case: Case, *rounds: list[Measurement]) -> CaseResult:
    entries = [EntryResult(entry, own) for entry, own in zip(case.entries, rounds, strict=True)]
    return CaseResult(case, entries)


@pytest.fixture
def result() -> CaseResult:
    entries = tuple(Entry(CONTENDERS[name].title, CONTENDERS[name], PLAIN) for name in ("qsd-null", "handle"))
    return case_result(
        Case("depth32", "two of them", entries),
        [measured(100, 1.0), measured(1000, 1.0), measured(10, 1.0)],
        [measured(200, 0.5), measured(1000, 0.9), measured(5, 0.7)],
    )


def test_ratios_are_taken_within_a_round(result: CaseResult) -> None:
    base, ours = result.entries
    assert ours.ratio(base, "requests_per_second") == Spread(1.0, 0.5, 2.0)
    cpu = ours.ratio(base, "cpu_seconds_per_million")
    assert cpu is not None
    assert cpu.median == pytest.approx(0.7)
    assert str(cpu) == "0.70 (0.50 to 0.90)"


def test_a_spread_of_nothing_is_none() -> None:
    assert Spread.of([]) is None


def test_targets_are_judged_by_the_median(result: CaseResult) -> None:
    lines = verdicts([result])
    assert len(lines) == 2
    assert lines[0].startswith("reached  depth32, handle: CPU per request: 0.70")
    assert lines[1].startswith("reached  depth32, handle: requests/s: 1.00")
    for each in result.entries[1].rounds:
        each.result.requests //= 2
    assert verdicts([result])[1].startswith("missed")


def test_every_target_has_its_case_and_entries() -> None:
    cases = {case.name: {entry.label for entry in case.entries} for case in essential_cases(PLAIN)}
    for target in TARGETS:
        assert {target.label, target.base} <= cases[target.case]


def test_the_table_shows_every_entry_and_what_went_wrong(result: CaseResult) -> None:
    result.entries[1].rounds[0].result.errors = 3
    text = case_table(result)
    assert "qemu-storage-daemon null-co" in text
    assert "1.00 (0.50 to 2.00)" in text
    assert "! ours: Python handle, RAM: 3 requests were answered with an error status" in text


def test_json_and_pictures(result: CaseResult, tmp_path: Path) -> None:
    content = as_json([result], machine=machine_state(), settings={"rounds": 3})
    again = json.loads(json.dumps(content))
    assert again["cases"][0]["entries"][1]["ratio_to_first"]["requests_per_second"]["median"] == 1.0
    assert len(again["cases"][0]["entries"][0]["rounds"]) == 3
    pictures = draw(content, tmp_path)
    assert [picture.name for picture in pictures] == ["requests.svg", "cpu.svg", "p50.svg"]
    assert all(picture.read_text().lstrip().startswith("<?xml") for picture in pictures)


def test_a_run_is_kept_in_a_folder(result: CaseResult, tmp_path: Path) -> None:
    content = as_json([result], machine=machine_state(), settings={"rounds": 3})
    record(content, [result], tmp_path / "kept", "essential")
    files = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert files == ["cpu.svg", "p50.svg", "requests.svg", "results-essential.json", "results-essential.md"]
    text = (tmp_path / "kept" / "results-essential.md").read_text()
    assert "reached  depth32, handle: CPU per request" in text
    assert "- kernel: " in text


def test_the_machine_is_described_without_names_or_paths() -> None:
    state = machine_state()
    assert state["cpus"] >= 1
    assert state["kernel"]
    assert "/" not in json.dumps({key: value for key, value in state.items() if key != "processor"})


def test_case_names_are_unique_and_cover_the_axes() -> None:
    cases = full_cases(PLAIN)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    loads = [entry.load for case in cases for entry in case.entries]
    assert {load.size for load in loads} == {512, 4096, 65536, 1 << 20}
    assert {load.depth for load in loads} >= {1, 32, 128}
    assert {load.queues for load in loads} == {1, 2}
    assert {load.read_percent for load in loads} == {0, 70, 100}
    assert {load.packed for load in loads} == {load.event_idx for load in loads} == {True, False}
    for case in cases:
        assert len({entry.label for entry in case.entries}) == len(case.entries)
        assert all(entry.contender.packed for entry in case.entries if entry.load.packed)


def test_cases_are_chosen_by_pattern() -> None:
    cases = essential_cases(PLAIN)
    assert [case.name for case in choose_cases(cases, ["depth*"])] == ["depth32", "depth32-near", "depth1"]
    with pytest.raises(LoadError, match="no case 'nope'"):
        choose_cases(cases, ["nope"])


def test_what_is_not_installed_is_left_out_and_named() -> None:
    absent = Contender("absent", "absent", lambda _place, path: [path], program="no-such-program-anywhere")
    kept, missing = without_missing(
        [Case("a", "a", (Entry("absent", absent, PLAIN), Entry("handle", CONTENDERS["handle"], PLAIN)))]
    )
    assert [entry.label for entry in kept[0].entries] == ["handle"]
    assert missing == ["no-such-program-anywhere (Debian package qemu-system-common)"]


def test_a_real_case_starts_measures_and_ends_its_back_ends() -> None:
    case = next(case for case in essential_cases(PLAIN) if case.name == "packed")
    with TemporaryPlace(1 << 20) as place:
        result = run_case(replace_rounds(case), place, rounds=2)
    assert [len(each.rounds) for each in result.entries] == [2, 2]
    assert all(each.problems() == [] for each in result.entries)
    assert not place.folder.exists()


def replace_rounds(case: Case) -> Case:
    return replace(case, entries=case.entries[:2])


def test_a_back_end_that_dies_at_once_is_told() -> None:
    broken = Contender("broken", "a broken one", lambda _place, _path: ["sh", "-c", "echo no disk; exit 3"])
    with (
        TemporaryPlace(1 << 20) as place,
        pytest.raises(ContenderError, match="a broken one ended at once: no disk"),
        RunningContender(broken, place),
    ):
        pass


def test_the_program_lists_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "depth32" in capsys.readouterr().out
    assert main(["--case", "nope"]) == 1
    assert "no case 'nope'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("4K", 4096), ("1MiB", 1 << 20), ("2g", 2 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "4X", "K"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("read", 100), ("write", 0), ("mixed", 70), ("mixed=5", 5)])
def test_mixes(text: str, share: int) -> None:
    assert parse_mix(text) == share
    assert parse_mix(mix_name(share)) == share


@pytest.mark.parametrize("text", ["", "mixed=101", "mixed=-1", "both"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(ValueError, match="not one of read"):
        parse_mix(text)


def test_numbers_as_people_read_them() -> None:
    assert [show_size(size) for size in (512, 4096, 1 << 20)] == ["512 B", "4 KiB", "1 MiB"]
    assert [show_rate(rate) for rate in (12, 845_000, 1_620_000)] == ["12", "845 k", "1.62 M"]
    assert [show_time(seconds) for seconds in (3e-7, 3.5e-6, 0.0012, 2)] == [
        "300 ns",
        "3.5 µs",
        "1.2 ms",
        "2 s",
    ]


def test_woken_cases_are_all_on_two_cpus() -> None:
    cases = {case.name: case for case in woken_cases(PLAIN)}
    two = [f"woken-2q-d{depth}" for depth in (4, 8, 16)]
    assert set(cases) == {*two, *(f"woken-1q-d{2**power}" for power in range(8))}
    for case in cases.values():
        assert 1 <= len(case.cpus) <= 2
        assert {entry.load.polling for entry in case.entries} == {False}
        assert {entry.load.cpus for entry in case.entries} == {()}
        assert f"{entry_queues(case)}q" in case.name
    assert set(cases) <= {case.name for case in full_cases(PLAIN)}


def entry_queues(case: Case) -> int:
    (queues,) = {entry.load.queues for entry in case.entries}
    return queues


def test_client_and_back_end_share_the_cpus_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    seen = []

    def look(back_end: RunningContender, _load: Load) -> Measurement:
        threads = [int(each.name) for each in Path(f"/proc/{back_end.pid}/task").iterdir()]
        seen.append({frozenset(os.sched_getaffinity(each)) for each in (0, *threads)})
        return measured(1, 1.0)

    monkeypatch.setattr("tools.comparison.compare._measured", look)
    case = Case("here", "one", (Entry("one", CONTENDERS["fast"], PLAIN),), (cpu,))
    with TemporaryPlace(1 << 20) as place:
        run_case(case, place, rounds=1)
    assert seen == [{frozenset((cpu,))}] * 3
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another checkout, with the same code in it."""
    folder = tmp_path / "before"
    folder.mkdir()
    (folder / "src").symlink_to(Path(sys.modules["vhost_user"].__file__ or "").parents[1])
    return folder


def test_another_checkout_is_what_ours_is_compared_with(elsewhere: Path) -> None:
    paired = list(against([*essential_cases(PLAIN), *woken_cases(PLAIN)], Checkout(elsewhere)))
    names = [case.name for case in paired]
    assert len(set(names)) == len(names)
    assert {"woken-2q-d8:fast", "depth1:handle", "two-queues:fast", "two-queues:fast-2"} <= set(names)
    for case in paired:
        then, now = case.entries
        assert then.contender.ours
        assert (then.load, then.label) == (now.load, f"{now.label}, before")
        assert then.contender.python_path == str(elsewhere / "src")
        assert not now.contender.python_path
    assert next(case for case in paired if case.name == "woken-2q-d8:fast").cpus
    on_a_file = next(case for case in paired if case.name == "file-depth1:fast-file")
    with TemporaryPlace(1 << 20) as place:
        for entry in on_a_file.entries:
            entry.contender.command(place, "socket")
        assert len(list(place.folder.glob("*.img"))) == 2  # an image has one writer


def test_each_checkouts_own_code_is_run(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {}

    def look(back_end: RunningContender, _load: Load) -> Measurement:
        variables = Path(f"/proc/{back_end.pid}/environ").read_bytes().decode().split("\0")
        paths[back_end.contender.name] = [each for each in variables if each.startswith("PYTHONPATH=")]
        return measured(1, 1.0)

    monkeypatch.setattr("tools.comparison.compare._measured", look)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (case,) = against([Case("here", "one", (Entry("one", CONTENDERS["fast"], PLAIN),))], Checkout(elsewhere))
    with TemporaryPlace(1 << 20) as place:
        run_case(case, place, rounds=1)
    assert paths == {"fast@before": [f"PYTHONPATH={elsewhere / 'src'}"], "fast": []}


def test_a_change_is_measured(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--case", "woken-1q-d4", "--disk-size", "1M", "--against", str(elsewhere)]
    assert main(options) == 0
    shown = capsys.readouterr().out
    assert "ours: blk fast path, RAM, before" in shown
    assert "ours: Python handle, RAM, before" in shown
    assert "qemu" not in shown
    (elsewhere / "src").unlink()
    (elsewhere / "src").mkdir()
    assert main(options) == 1
    assert "vhost_user" in capsys.readouterr().err


# ---------------------------------------------------------------------- somebody else's back-end
def test_a_peer_is_what_the_others_are_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{sys.executable} -m vhost_user.cli serve blk --memory={{bytes}} --num-queues={{queues}}"
    options = ["--quick", "--case", "woken-2q-d4", "--case", "mixed", "--disk-size", "1M"]
    assert main([*options, "--peer", f"theirs={command} --socket-path={{socket}}"]) == 0
    tables = capsys.readouterr().out.split("\n\n")[1:3]
    for table in tables:
        first, *others = table.splitlines()[2:]
        assert first.split()[:1] == ["theirs"]
        assert any("blk fast path" in line for line in others)


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        ("no command", "NAME=COMMAND is needed"),
        ("name=program without a place", "{socket} in the command"),
        ("name=program {socket} {colour}", "'colour' cannot be filled in; {socket}, {bytes}"),
        ("name=./does-not-exist {socket}", "name: .*does-not-exist"),
        ("name=false {socket}", "name"),
    ],
)
def test_a_peer_that_cannot_be_started_is_named(
    peer: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--quick", "--case", "depth1", "--disk-size", "1M", "--peer", peer]) == 1
    assert re.search(words, capsys.readouterr().err)


def test_a_peer_has_no_place_in_a_comparison_of_checkouts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--against", str(tmp_path), "--peer", "theirs=disk {socket}"]) == 1
    assert "--peer has no place there" in capsys.readouterr().err
