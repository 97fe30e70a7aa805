"""The fuzzer's corpus in the normal run: what was found once stays found, and the fuzzer works."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.checked_device import Finding
from tests.fuzz.ring_fuzzer import CORPUS, mutate, seeds
from tests.fuzz.scenario import Scenario, run
from vhost_user.engine.device.request import Request


def run_all() -> None:
    for data in seeds():
        run(data)


def test_V013_V022_the_corpus_finds_nothing() -> None:
    paths = sorted(CORPUS.glob("*.bin"))
    assert len(paths) >= 20
    for path in paths:
        try:
            run(path.read_bytes())
        except BaseException as error:
            error.add_note(f"scenario {path.name}")
            raise


def test_V013_V022_a_second_of_new_scenarios_finds_nothing() -> None:
    dice = random.Random(20)
    corpus = seeds()
    for _ in range(400):
        run(mutate(dice, corpus))


def test_the_corpus_does_what_drivers_and_devices_do() -> None:
    taken = 0
    rules = set()
    for data in seeds():
        scenario = Scenario(data)
        scenario.run()
        taken += scenario.taken
        rules |= {error.rule for error in scenario.pair.errors}
    assert taken > 100
    assert rules >= {"V003", "V004", "V005", "V006", "V007", "V021", "V030", "V031"}


def test_a_device_that_writes_where_it_must_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer would see it: here the device writes beyond the chain by other means."""
    original = Scenario.device_pops

    def pops(self: Scenario) -> None:
        original(self)
        if self.taken:
            self.pair.guest.write(self.regions[1].guest_address + 7, b"!")
            self.changed_only("a bug")

    monkeypatch.setattr(Scenario, "device_pops", pops)
    with pytest.raises(Finding, match="a bug wrote at 0x10008007"):
        run_all()


def test_a_chain_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Request] = []

    def accept(self: Scenario, request: Request | None, _expected: object) -> None:
        if request is not None:
            self.taken += 1
            lost.append(request)

    monkeypatch.setattr(Scenario, "accept", accept)
    with pytest.raises(Finding, match="in flight"):
        run_all()
