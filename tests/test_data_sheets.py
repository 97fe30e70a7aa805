"""The data sheet on a device's page has the features and the configuration space that the device has."""

from __future__ import annotations

import importlib
import re
from enum import IntFlag
from pathlib import Path

import pytest

from tests.support.every_device import NAMES, make
from vhost_user import Config

ROOT = Path(__file__).resolve().parents[1]


def row(name: str, item: str) -> str:
    """A row of the data sheet; empty where it has none."""
    page = (ROOT / "docs" / "devices" / f"{name}.md").read_text()
    found = re.search(rf"^\| {item} \| (.*) \|$", page, re.MULTILINE)
    return found[1] if found else ""


def feature_bits(name: str) -> type[IntFlag] | None:
    """The feature bits of a device type, in its module of ``vhost_user.spec``."""
    try:
        module = importlib.import_module(f"vhost_user.spec.{name}")
    except ImportError:
        return None
    kind: type[IntFlag] | None = getattr(module, f"{name.title()}Feature", None)
    return kind


def left_out(name: str, features: int, said: str) -> list[str]:
    """What a device offers and its page does not name. Some names on pages begin with the device's own."""
    words = re.findall(r"[A-Z][A-Z0-9_]+", said)
    return [
        str(bit.name)
        for bit in feature_bits(name) or ()
        if features & bit and not any(word == bit.name or word.endswith(f"_{bit.name}") for word in words)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_the_features(name: str) -> None:
    device = make(name)
    try:
        assert left_out(name, device.features(), row(name, "features")) == []
    finally:
        device.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_the_configuration(name: str) -> None:
    said = row(name, "config space")
    device = make(name)
    try:
        if device.config is None:
            assert said in {"", "none"}
        else:
            assert said not in {"", "none"}
            if (size := re.search(r"(\d+) bytes", said)) and isinstance(device.config, Config):
                assert int(size[1]) in {
                    len(device.config),
                    sum(length for _, length, *_ in device.config.describe()[:1]),
                }
    finally:
        device.close()


def test_what_a_page_leaves_out_is_seen() -> None:
    assert left_out("gpio", 1, "none") == ["IRQ"]
    assert left_out("can", 3, "CAN_CLASSIC, CAN_FD") == []
