"""docs/coming-from-rust-vmm.md: every name it says is ours exists, and no method of the trait is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vhost_user
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.device.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coming-from-rust-vmm.md"


def rows() -> list[tuple[str, str]]:
    """The class of each table, and a name of its second column."""
    found: list[tuple[str, str]] = []
    kind = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            match = re.search(r"`(\w+)`", line)
            kind = match[1] if match else ""
        elif line.startswith("| ") and not line.startswith("| the crate"):
            found += [(kind, name) for name in re.findall(r"`([^`]+)`", line.split("|")[2])]
    return found


@pytest.mark.parametrize(("kind", "text"), rows())
def test_a_name_of_ours_exists(kind: str, text: str) -> None:
    name = text.partition("(")[0]
    first, _, attribute = name.rpartition(".")
    if not first and hasattr(vhost_user, name):
        return
    assert hasattr(getattr(vhost_user, first or kind), attribute)


def test_no_method_is_left_out() -> None:
    told = {text.partition("(")[0] for _, text in rows()}
    trait = {
        name
        for name, value in vars(vhost_user.VhostUserBackend).items()
        if callable(value) and not name.startswith("_")
    }
    assert trait - told == set()
    daemon = {name for name in vars(vhost_user.VhostUserDaemon) if not name.startswith("_")}
    assert daemon - told <= {"check_memory", "connected", "ended_workers", "statistics"}
    worker = {name for name in dir(Worker) if "listener" in name or "send" in name} - {"first_listener_id"}
    assert worker - told == set()


def test_other_names_of_the_crate_mean_the_same() -> None:
    text = PAGE.read_text()
    for name, ours in (("VringMutex", Vring), ("VringRwLock", Vring), ("DescriptorChain", Request)):
        assert f"`{name}`" in text
        assert getattr(vhost_user, name) is ours


def test_it_is_linked() -> None:
    assert "docs/coming-from-rust-vmm.md" in (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
