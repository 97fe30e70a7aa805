"""Packages of others, installed with pip into a folder of their own, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vhost_user
from tests.support.programs import run_program, run_python

HERE = Path(__file__).parent
SOURCE = Path(vhost_user.__file__).resolve().parents[1]

OFFLINE = ("-q", "--disable-pip-version-check", "--no-index", "--no-build-isolation", "--no-deps")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _install(package: str, folder: Path) -> Path:
    source, target = folder / package, folder / f"{package}-installed"
    shutil.copytree(HERE / package, source)  # building leaves files behind
    run_python("-m", "pip", "install", *OFFLINE, "--target", target, source, check=True)
    return target


@pytest.fixture(scope="session")
def thermometer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package ``thermometer`` is installed."""
    return _install("thermometer", tmp_path_factory.mktemp("thermometer"))


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a package is installed whose entry points cannot be used."""
    return _install("broken", tmp_path_factory.mktemp("broken"))


def environment(*installed: Path) -> dict[str, str]:
    """The environment of a process that has these packages besides ours."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, installed), str(SOURCE)]),
        "PATH": os.pathsep.join([*(str(path / "bin") for path in installed), os.environ["PATH"]]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def run(thermometer: Path, tmp_path: Path) -> Run:
    """Run a program with the package ``thermometer`` installed, and what else is given."""

    def to_its_end(
        *words: str, also: tuple[Path, ...] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vhost_user.cli", *words[1:]] if words[0] == "vhost-user" else words
        return run_program(command, cwd=tmp_path, env=environment(thermometer, *also), **options)

    return to_its_end
