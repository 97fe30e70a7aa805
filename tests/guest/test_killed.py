"""A back-end that is killed at random while a guest writes and reads what it wrote: C114, C117, C138, C139.

`./soak kill` is the long form.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.killed_disk import KINDS, KilledDisk

pytestmark = pytest.mark.guest

KILLS = 3


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("kind", KINDS)
def test_C139_nothing_is_lost_torn_or_doubled(kind: str, packed: bool, tmp_path: Path) -> None:
    chance = random.Random(1)
    with KilledDisk(tmp_path, kind, packed=packed) as disk:
        for _ in range(KILLS):
            disk.kill(chance)
        assert disk.finish() > 0
