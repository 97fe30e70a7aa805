"""What a wheel has in it: the package, its types and data; no tests, no tools, no generated C."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
GENERATED = {".c", ".so", ".pyc"}
"""Made by a build: the .so of the machine goes into a wheel, and is not the source's."""


def packages() -> set[str]:
    """What setuptools finds, as pyproject.toml says it."""
    (where,) = SETTINGS["packages"]["find"]["where"]
    return set(find_packages(str(ROOT / where)))


def is_taken(path: Path) -> bool:
    """Whether a file of the package is installed."""
    inside = path.relative_to(SOURCE / "vhost_user")
    if any(fnmatch(path.name, pattern) for pattern in SETTINGS["exclude-package-data"]["*"]):
        return False
    if path.suffix == ".py":
        return ".".join(path.parent.relative_to(SOURCE).parts) in packages()
    patterns = SETTINGS["package-data"]["vhost_user"]
    return any(matches(inside, pattern) for pattern in patterns)


def matches(path: Path, pattern: str) -> bool:
    """Whether a pattern of package-data takes a file; ``**`` stands for any folders, and none."""
    if pattern.startswith("**/"):
        return fnmatch(path.name, pattern.removeprefix("**/"))
    return fnmatch(str(path), pattern)


FILES = sorted(
    path
    for path in (SOURCE / "vhost_user").rglob("*")
    if path.is_file()
    and path.suffix not in GENERATED
    and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(SOURCE).parts)
)
"""What a person wrote."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_file_of_the_package_is_installed(path: Path) -> None:
    if path.name == "ruff.toml":
        assert not is_taken(path)
    else:
        assert is_taken(path)


def test_nothing_else_is_installed() -> None:
    assert {name.partition(".")[0] for name in packages()} == {"vhost_user"}
    assert not is_taken(SOURCE / "vhost_user" / "engine" / "device" / "request.c")
    assert not is_taken(SOURCE / "vhost_user" / "engine" / "ruff.toml")


def test_the_comparison_stays_in_the_repository() -> None:
    """./bench measures other programs as well; whoever installs the package has no use for that."""
    assert {path.stem for path in (SOURCE / "vhost_user" / "bench").glob("*.py")} == {
        "__init__",
        "cpu_time",
        "devices",
        "measure",
        "plot",
        "units",
    }
