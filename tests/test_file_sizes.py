"""A file past 400 lines is two. The few that are longer are named here, with the reason, and may not grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "examples", "tools")
SUFFIXES = {".py", ".pxd", ".pyi", ".h", ".c", ".sh"}
LIMIT = 400
LONGER: dict[str, tuple[int, str]] = {
    "src/vhost_user/fuzzing/message_cases.py": (401, "a list: one hostile message after the other"),
    "src/vhost_user/spec/frontend_requests.py": (425, "a table: a row for each message, in the order of ids"),
    "tests/bench/reference_client.c": (448, "one program, made by one call of the compiler"),
}
"""How many lines each may have: as many as it had when it was named. What gets shorter leaves the list."""


def is_source(path: Path) -> bool:
    """Whether somebody wrote it: a script has no suffix, and the C beside a module is Cython's."""
    if path.suffix == ".c":
        return not path.with_suffix(".py").exists()
    if path.suffix:
        return path.suffix in SUFFIXES
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def sizes() -> dict[str, int]:
    """How many lines each file has."""
    return {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and is_source(path)
    }


def too_long(lines: Mapping[str, int]) -> list[str]:
    """What to do about each file that is longer than it may be."""
    found = []
    for path, count in lines.items():
        most, reason = LONGER.get(path, (LIMIT, ""))
        if count > most and reason:
            found.append(f"{path} has {count} lines and may have {most} ({reason}): it grows no further")
        elif count > most:
            found.append(f"{path} has {count} lines and may have {most}: split it by subject")
    return found


def test_no_file_is_longer_than_it_may_be() -> None:
    assert too_long(sizes()) == []


@pytest.mark.parametrize("path", LONGER)
def test_what_is_named_as_longer_is_longer(path: str) -> None:
    assert sizes().get(path, 0) > LIMIT, f"{path} needs no line in LONGER any more"


def test_all_kinds_of_files_are_looked_at() -> None:
    found = sizes()
    assert {Path(path).parts[0] for path in found} == set(FOLDERS)
    assert {Path(path).suffix for path in found} >= {"", ".py", ".pxd", ".pyi", ".h", ".c"}
    assert "tools/bootstrap" in found
    assert not any(path.startswith("src/") and path.endswith(".c") for path in found), "made by Cython"


def test_a_file_that_is_too_long_is_seen() -> None:
    named, (most, _) = next(iter(LONGER.items()))
    assert too_long({"src/new.py": LIMIT, named: most}) == []
    (complaint,) = too_long({"src/new.py": LIMIT + 1, named: most})
    assert complaint == "src/new.py has 401 lines and may have 400: split it by subject"
    assert "grows no further" in too_long({named: most + 1})[0]
