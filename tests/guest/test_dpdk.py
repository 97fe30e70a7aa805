"""DPDK's virtio-user, a front-end with no virtual machine behind it, on a network device of ours.

testpmd sends one burst, we send every frame back, it sends each on again, and so on: both queues carry all of
them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.net_device import Reflector, Sink
from tests.support.programs import Programs, programs
from vhost_user import Listener, VhostUserDaemon
from vhost_user.testing.guest_initramfs import find_program

pytestmark = pytest.mark.guest

RING = 256
ENOUGH = 20 * RING
"""Frames: each ring is gone round often, with both wrap counters where it is packed."""


class TestPmd:
    """testpmd without hugepages, with one port: virtio-user on the socket."""

    __test__ = False

    def __init__(self, running: Programs, folder: Path, options: str, mode: str) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        main, worker = cpus[0], cpus[-1]
        self.log = folder / "testpmd.log"
        with self.log.open("wb") as log:
            self.process = running.start(
                [
                    find_program("dpdk-testpmd"), "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
                    f"--file-prefix={folder.name}-{os.getpid()}", "--lcores", f"0@{main},1@{worker}",
                    f"--vdev=net_virtio_user0,path={folder}/s,queue_size={RING}{options}",
                    "--", "--total-num-mbufs=4096", "--no-mlockall", "--port-topology=loop",
                    *mode.split(), "--stats-period=1",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Wait until something is seen on our side; fails with testpmd's own words."""
        end = time.monotonic() + 40
        while not done():
            assert self.process.poll() is None, f"testpmd ended\n{self.words()}"
            assert time.monotonic() < end, f"{what}\n{self.words()}"
            time.sleep(0.01)

    def stop(self) -> dict[str, int]:
        """End it as Ctrl-C does, and return its totals over all ports."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 0, self.words()
        _, _, totals = self.log.read_text().partition("Accumulated forward statistics for all ports")
        words = totals.replace(":", " ").split()
        return {key: int(words[words.index(key) + 1]) for key in ("RX-packets", "TX-packets", "TX-dropped")}

    def words(self) -> str:
        """The end of what it printed."""
        return self.log.read_text()[-3000:]


@pytest.mark.parametrize(
    "options",
    [
        "",
        ",packed_vq=1",
        ",in_order=1",
        ",packed_vq=1,in_order=1",
        ",server=1",
        ",server=1,packed_vq=1",
        ",packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1",
    ],
)
def test_C046_dpdk_virtio_user_sends_and_receives(tmp_path: Path, options: str) -> None:
    device = Reflector()
    with VhostUserDaemon("net", device) as daemon, Listener.bind(tmp_path / "ours") as listener:
        if "server" in options:
            daemon.start_client(tmp_path / "s", reconnect=True)
        else:
            (tmp_path / "s").symlink_to("ours")
            daemon.start(listener)
        with programs() as running:
            front = TestPmd(running, tmp_path, options, "--forward-mode=io --tx-first")
            front.wait(lambda: device.frames >= ENOUGH, f"only {device.frames} frames came in 40 s")
            totals = front.stop()
    # What was on its way when testpmd ended is the most that may be missing.
    assert 0 <= totals["TX-packets"] - device.frames <= RING, totals
    assert 0 <= device.sent - totals["RX-packets"] <= RING, totals
    assert totals["TX-dropped"] == 0
    assert device.frames == device.sent + device.dropped
    assert device.dropped <= RING, "only the end takes buffers away"
    kinds = set(device.kinds)
    assert {len(frame) for frame in kinds} == {64}
    assert {frame[12:14] for frame in kinds} == {b"\x08\x00"}, "testpmd sends IPv4"


# With packed rings DPDK 22.11 puts a frame of several segments into an indirect table whose first entry, the
# header, is marked as one for the device to write (V006: such a ring is stopped). So one segment there.
@pytest.mark.parametrize(("options", "segments"), [("", "100,400"), (",packed_vq=1", "500")])
def test_C046_dpdk_virtio_user_sends_as_fast_as_it_can(tmp_path: Path, options: str, segments: str) -> None:
    device = Sink()
    with VhostUserDaemon("net", device) as daemon, Listener.bind(tmp_path / "s") as listener:
        daemon.start(listener)
        with programs() as running:
            front = TestPmd(running, tmp_path, options, f"--forward-mode=txonly --txpkts={segments}")
            front.wait(lambda: device.frames >= ENOUGH, f"only {device.frames} frames came in 40 s")
            totals = front.stop()
    assert 0 <= totals["TX-packets"] - device.frames <= RING, totals
    assert {len(frame) for frame in device.kinds} == {500}, "frames of two segments arrive whole"
