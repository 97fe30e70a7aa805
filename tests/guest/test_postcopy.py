"""A guest that goes over to another QEMU before its memory does, under verified load (C118 to C121)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guest.conftest import ALARMS
from tests.support.travelling_guest import TravellingGuest

pytestmark = pytest.mark.guest

SLOW = 24 << 20
"""Bytes a second that follow unasked: the guest runs for some seconds before all of its memory is there."""


@pytest.mark.parametrize(
    ("packed", "options"),
    [(False, ()), (True, ("--direct", "--block-size=4096"))],
    ids=["split", "packed, direct"],
)
def test_C118_C119_C120_C121_there_and_back_under_load(
    tmp_path: Path, packed: bool, options: tuple[str, ...]
) -> None:
    with TravellingGuest(tmp_path, packed=packed, options=(*options, "--verbose")) as travel:
        travel.move(postcopy=SLOW)
        travel.move(postcopy=SLOW)
        counts = travel.finish()
        assert min(counts) > 0
        said = travel.logs()
    assert not [line for line in said.splitlines() if any(word in line for word in ALARMS)], said
    asked = re.findall(r"post-copy is over: (\d+) pages", said)
    assert len(asked) == 2, said
    assert all(int(pages) > 0 for pages in asked), said
