"""What holds for each device of ours, whatever it is. A new one is tried here without another line."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.every_device import NAMES, OPTIONS, make
from tests.support.killed_programs import lives, served
from vhost_user import Device, Listener, VhostUserDaemon
from vhost_user.conformance import Outcome, Runner, Target, choose
from vhost_user.conformance.profile import PROFILES, candidates, guess
from vhost_user.device_types import find
from vhost_user.frontend import VirtioDriver
from vhost_user.fuzzing import Campaign
from vhost_user.fuzzing.cases import all_cases
from vhost_user.testing.virtio import Virtio

ROOT = Path(__file__).resolve().parents[2]
PROMPT = 0.5
"""Seconds in which a queue is to stop although the device holds its buffers."""
PAGES = ROOT / "docs" / "devices"
TABLE = (PAGES / "README.md").read_text()
SECTIONS = ["Serve it", "Attach a guest", "Without a VM"]
COLUMNS = ["in-process", "guest", "packed", "hostile", "stop with held buffers", "SIGKILL and back"]
IN_A_PROCESS_OF_ITS_OWN = ("H87-other-queues",)
FRAMEWORK = {
    name
    for kind in Device.__mro__
    for name in (*vars(kind), *getattr(kind, "__annotations__", {}))
    if name.startswith("_") and not name.startswith("__")
}

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def target(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> object:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(
        "vhost_user.backend.draining.RESET_DRAIN", 0.02
    )  # for requests that are lost on purpose
    with ExitStack() as stack:
        path = tmp_path / "backend.sock"
        listener = stack.enter_context(Listener.bind(path))
        stack.enter_context(VhostUserDaemon("under-test", make(name))).start(listener)
        yield Target(path, pid=os.getpid(), patience=0.5)


def test_it_passes_the_conformance_suite(name: str, target: Target) -> None:
    chosen = choose(skip=IN_A_PROCESS_OF_ITS_OWN)
    report = Runner(target, device=name, timeout=5.0, quiet=0.02).run(chosen, name="ours")
    assert [(each.check.id, each.text) for each in report.results if each.failed] == []
    assert not report.count(Outcome.TOLERATED)
    assert report.count(Outcome.PASS) > 60
    if find(name).harmless is not None:
        assert PROFILES[name].works
        packed = [
            each for each in report.results if "packed" in each.check.id and each.outcome is Outcome.PASS
        ]
        assert packed


def test_it_survives_the_fuzzer_for_a_second(name: str, target: Target) -> None:
    chosen = [case for case in all_cases() if case.id in {"H04", "H25", "H30", "H58", "H78", "H85"}]
    for seconds in (1.0, 5.0, 25.0):  # a busy machine needs longer for the named cases alone
        outcome = Campaign(target, device=name, seed=7, timeout=30).run(seconds, cases=chosen)
        assert [(each.kind, each.text, each.name) for each in outcome.findings] == []
        assert not outcome.stopped
        if outcome.sessions > len(chosen):
            break
    assert outcome.sessions > len(chosen)


def test_its_type_is_seen_from_what_it_offers(name: str) -> None:
    device = make(name)
    try:
        offered = device.features(), device.num_queues(), device.protocol_features()
        alike = candidates(*offered)
        assert name in alike
        assert guess(*offered) == (name if alike == [name] else "generic")
    finally:
        device.close()


def test_its_type_is_found_out_by_what_it_answers(name: str, target: Target) -> None:
    runner = Runner(target, timeout=5.0, quiet=0.02)
    runner.learn()
    assert runner.profile.name == name


def test_several_of_them_are_served_by_one_program(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for number in range(3):
            path = tmp_path / f"{number}.sock"
            listener = stack.enter_context(Listener.bind(path))
            stack.enter_context(VhostUserDaemon(f"number {number}", make(name))).start(listener)
        for number in range(3):
            target = Target(tmp_path / f"{number}.sock", pid=os.getpid(), patience=0.5)
            report = Runner(target, device=name, timeout=5.0, quiet=0.02).run(choose(("C131*", "C05*")))
            assert [(each.check.id, each.text) for each in report.results if each.failed] == []


@pytest.mark.alone
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C054_C075_every_queue_stops_at_once_with_buffers_held(
    name: str, packed: bool, virtio: Virtio
) -> None:
    attached = virtio.attach(make(name), packed=packed)
    for reset in (False, True, False):
        driver = attached.drive(VirtioDriver)
        assert driver.packed is packed
        for queue in driver.queues:
            if not answers(name, queue.index):
                for _ in range(8):
                    queue.submit(
                        writable=256
                    )  # held, or used at once as an event of a bad size: either is right
        for _ in range(3):
            before = time.monotonic()
            for queue in driver.queues:
                driver.stop_queue(queue.index)
            assert time.monotonic() - before < PROMPT * len(driver.queues)
            for queue in driver.queues:
                driver.start_queue(queue.index)
                driver.frontend.set_vring_enable(queue.index, True)
            be_harmless(name, driver)
        if reset:
            driver.frontend.reset_device(need_reply=True)
        attached.disconnect()
    virtio.errors.clear()  # what was held above may be no request that the device knows


def test_C134_a_program_that_is_killed_comes_back_and_goes_on(name: str, tmp_path: Path) -> None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.get(name, {}).items()]
    with lives(served(tmp_path, name, *options), range(make_queues(name))) as each:
        for _, front in each:
            harmless = find(name).harmless
            for _ in range(5 if harmless else 0):
                assert harmless is not None
                front.request(harmless.queue, harmless.readable(), harmless.writable())


def answers(name: str, queue: int) -> bool:
    """Whether the queue takes harmless requests."""
    harmless = find(name).harmless
    return harmless is not None and (harmless.every_queue or harmless.queue == queue)


def be_harmless(name: str, driver: VirtioDriver) -> None:
    """Make the harmless request, and see it answered."""
    harmless = find(name).harmless
    if harmless is not None:
        size = harmless.writable()
        data = driver.queue(harmless.queue).request(harmless.readable(), size)
        assert harmless.wrong(data.ljust(size, b"\0"), len(data)) is None


def make_queues(name: str) -> int:
    device = make(name)
    device.close()
    return device.num_queues()


def test_its_description_is_read_without_it(name: str) -> None:
    program = (
        f"import sys; from vhost_user.device_types import find; find({name!r}); "
        f"heavy = ('vhost_user.backend', 'asyncio', 'numpy', 'vhost_user.devices.{name}'); "
        "sys.exit(any(m == h or m.startswith(h + '.') for m in sys.modules for h in heavy))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_hides_no_private_name_of_the_framework(name: str) -> None:
    kind = find(name).load()
    assert "_written" in FRAMEWORK
    assert not FRAMEWORK & {
        own for part in kind.__mro__ if part.__module__.startswith("vhost_user.devices") for own in vars(part)
    }


def test_it_has_a_page_with_the_usual_sections(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert page.startswith(f"# {name}: ")
    assert [section for section in SECTIONS if f"\n## {section}\n" not in page] == []
    for vmm in ("QEMU", "Cloud Hypervisor", "crosvm", "libkrun", "User Mode Linux"):
        assert re.search(rf"^\| {vmm}", page, re.MULTILINE), f"{name}.md says nothing of {vmm}"


def test_each_cell_of_its_row_leads_to_a_test_that_exists(name: str) -> None:
    header = next(line for line in TABLE.splitlines() if line.startswith("| device |"))
    assert all(column in header for column in COLUMNS)
    (row,) = [line for line in TABLE.splitlines() if line.startswith(f"| [{name}]({name}.md) |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert len(cells) == len(COLUMNS)
    for column, cell in zip(COLUMNS, cells, strict=True):
        links = re.findall(r"\[[^]]*\]\(([^)#]+)(?:#([^)]*))?\)", cell)
        assert links, f"{name}, {column}: no test is named"
        for path, test in links:
            text = (PAGES / path).read_text()
            assert not path.endswith(".py") or not test or f"def {test}(" in text, (
                f"{name}: no {test} in {path}"
            )
