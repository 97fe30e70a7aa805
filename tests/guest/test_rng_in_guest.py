"""An entropy device in a real guest, read through /dev/hwrng."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import COMMAND
from vhost_user.testing.guest import Guest, VhostUserRng
from vhost_user.testing.guest_backend import BackendProcess

pytestmark = pytest.mark.guest

StartProgram = Callable[..., BackendProcess]

DICE = Path(__file__).parents[2] / "examples" / "dice.py"


def test_hwrng_gives_as_many_random_bytes_as_asked_for(start_program: StartProgram) -> None:
    backend = start_program(COMMAND, "serve", "rng")
    with Guest(devices=[VhostUserRng(backend.socket)]) as guest:
        assert guest.run("cat /sys/class/misc/hw_random/rng_current").strip() == "virtio_rng.0"
        guest.run("head -c 65536 /dev/hwrng >/first && head -c 65536 /dev/hwrng >/second")
        assert guest.run("cat /first | wc -c; cat /second | wc -c").split() == ["65536", "65536"]
        # Random bytes do not compress; a buffer that was not filled would.
        assert int(guest.run("cat /first /second | gzip | wc -c")) > 2 * 65536
        guest.reboot()
        assert guest.run("head -c 100 /dev/hwrng | wc -c").strip() == "100"
        guest.shutdown()


def test_a_device_written_in_python_is_what_the_guest_reads(start_program: StartProgram) -> None:
    backend = start_program(sys.executable, DICE)
    with Guest(devices=[VhostUserRng(backend.socket)]) as guest:
        thrown = bytes.fromhex(guest.run("head -c 600 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'"))
        assert len(thrown) == 600
        assert set(thrown) == set(range(1, 7))
        guest.shutdown()
