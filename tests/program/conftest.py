"""What tests of the back-end have, for programs around it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backend.conftest import _nothing_leaks, stage
from tests.support.control import ControlRoom, MakeRoom
from vhost_user.program.control.commands import Commands

__all__ = ["_nothing_leaks", "stage"]


@pytest.fixture
def control_room(tmp_path: Path) -> Iterator[MakeRoom]:
    """Make a control socket in this process, with the commands given or none."""
    with contextlib.ExitStack() as stack:
        yield lambda commands=None, **options: ControlRoom(
            tmp_path / "control", commands or Commands(), stack, **options
        )
