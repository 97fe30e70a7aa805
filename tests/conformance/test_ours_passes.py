"""Our own devices do what every check asks for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest

from tests.conformance.rich import Rich
from vhost_user.conformance import CommandTarget, Outcome, Report, Runner, Target, choose
from vhost_user.devices.blk import Blk
from vhost_user.devices.storage import MemoryStorage

IN_A_PROCESS_OF_ITS_OWN = ("H87-other-queues",)
"""What would stop the test itself if it failed: descriptors that block, in the process of the back-end."""
OURS = [sys.executable, "-m", "vhost_user.cli", "serve", "blk", "--memory=4M", "--num-queues=2"]


def report_of(target: Target, device: str = "auto") -> Report:
    chosen = choose(skip=IN_A_PROCESS_OF_ITS_OWN)
    return Runner(target, device=device, timeout=5.0, quiet=0.02).run(chosen, name="ours")


def passes(report: Report) -> None:
    assert [(each.check.id, each.text) for each in report.results if each.failed] == []
    assert not report.count(Outcome.TOLERATED)


def test_our_rng_passes_everything_that_can_be_seen_of_it(
    serve: Callable[..., Target], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    device = Rich()
    report = report_of(serve(device), "rng")
    passes(report)
    assert report.count(Outcome.PASS) > 140
    (ring_reset,) = [each for each in report.results if each.check.id == "V045-ring-reset"]
    assert ring_reset.outcome is Outcome.PASS  # offered here by its own wish


def test_our_blk_passes_everything_that_can_be_seen_of_it(
    serve: Callable[..., Target], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    # Post-copy does not go together with the IOMMU that the other has.
    report = report_of(serve(Blk(MemoryStorage(1 << 20)), iommu=False))
    assert report.device == "blk"
    passes(report)
    (faults,) = [each for each in report.results if each.check.id == "C121-faults"]
    assert faults.outcome is Outcome.PASS


def test_ours_started_as_a_command_passes_what_could_block_this_process() -> None:
    with CommandTarget([*OURS, "--socket-path={socket}"]) as target:
        report = Runner(target, device="blk", timeout=5.0).run(choose(IN_A_PROCESS_OF_ITS_OWN))
    passes(report)
    assert report.count(Outcome.PASS) == len(IN_A_PROCESS_OF_ITS_OWN)
