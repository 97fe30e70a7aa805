"""A guest that migrates between two QEMUs, with a back-end for each on the same image, under verified load.

The long form is ``python -m tests.soak.migrate``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.conftest import ALARMS
from tests.support.travelling_guest import TravellingGuest, traces

pytestmark = pytest.mark.guest


@pytest.mark.parametrize(
    ("packed", "options"),
    [(False, ()), (True, ("--direct", "--block-size=4096"))],
    ids=["split", "packed, direct"],
)
def test_C077_C085_C086_there_and_back_and_cancelled_under_load(
    tmp_path: Path, packed: bool, options: tuple[str, ...]
) -> None:
    with TravellingGuest(tmp_path, packed=packed, options=options) as travel:
        travel.move()
        travel.cancel_and_move()
        counts = travel.finish()
        assert min(counts) > 0
        said = travel.logs()
    assert not [line for line in said.splitlines() if any(word in line for word in ALARMS)], said


def test_a_cancelled_migration_leaves_no_trace(tmp_path: Path) -> None:
    with TravellingGuest(tmp_path) as travel:
        travel.cancel()
        before = traces(travel.source.pid), traces(travel.destination.pid)
        travel.cancel_at_switchover()
        travel.cancel()
        assert (traces(travel.source.pid), traces(travel.destination.pid)) == before
        travel.finish()
