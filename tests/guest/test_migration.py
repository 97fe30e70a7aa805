"""A guest that migrates between two QEMUs, with a back-end for each on the same image, under verified load.

The long form is ``./soak migrate``.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.guest.conftest import ALARMS
from tests.support.programs import COMMAND
from tests.support.travelling_guest import TravellingGuest, traces
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

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


def test_a_second_guest_on_the_image_is_refused_and_boots_when_the_first_is_gone(
    tmp_path: Path, image: Path
) -> None:
    with ExitStack() as stack:
        mine, theirs = (
            stack.enter_context(
                BackendProcess(
                    [COMMAND, "serve", "blk", f"--socket-path={tmp_path / name}", f"--blk-file={image}"],
                    tmp_path / name,
                    tmp_path / f"{name}.log",
                    announcement="listening",
                )
            )
            for name in ("mine", "theirs")
        )
        first, second = (
            Guest(devices=[VhostUserBlk(backend.socket)], boot_timeout=180) for backend in (mine, theirs)
        )
        other = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(closing(second))
        stack.enter_context(first)
        first.run("echo mine | dd of=/dev/vda bs=4k conv=sync,notrunc oflag=direct")
        booted = other.submit(second.boot)
        end = time.monotonic() + 120
        while "is refused until it is started again" not in theirs.log:
            assert time.monotonic() < end, "nobody was refused"
            assert not booted.done(), booted.exception()
            time.sleep(0.1)
        assert "another program has this image open" in theirs.log
        first.run("echo more | dd of=/dev/vda bs=4k conv=sync,notrunc oflag=direct")
        first.shutdown()
        second.qmp("system_reset")
        booted.result(200)
        assert second.run("dd if=/dev/vda bs=4k count=1 iflag=direct 2>/dev/null | head -c 5") == "more\n"
