"""Options of ``vhost-user serve input``; those of devices of this machine are beside these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vhost_user.cli import main
from vhost_user.device_types import OptionError, find
from vhost_user.devices import (
    Input,
    Keyboard,
    Pointer,
    Recorder,
    Tablet,
    Touch,
)

PATH = "/dev/input/event7"


def built(**options: Any) -> Input:
    device = find("input").make(options)
    assert isinstance(device, Input)
    return device


def test_C141_its_capabilities_are_those_of_the_convention(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "input", "--print-capabilities"])
    assert json.loads(capsys.readouterr().out) == {"type": "input", "features": ["evdev-path", "no-grab"]}


def test_the_models_by_their_options(tmp_path: Path) -> None:
    for option, kind in (("keyboard", Keyboard), ("mouse", Pointer), ("tablet", Tablet), ("touch", Touch)):
        device = built(**{option: True}, name=f"my {option}", serial="7")
        assert isinstance(device.source, kind)
        assert device.source.description.name == f"my {option}"
        assert device.source.description.serial == "7"
    assert isinstance(built().source, Keyboard)
    device = built(mouse=True, record=str(tmp_path / "session"))
    assert isinstance(device.source, Pointer)
    device.source.move(1, 2)
    for mirror in device._mirrors:
        assert isinstance(mirror, Recorder)
        mirror.close()
    assert "E: 0." in (tmp_path / "session").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keyboard": True, "mouse": True}, "exclude each other"),
        ({"evdev_path": PATH, "evdev": PATH}, "exclude each other"),
        ({"grab": False}, "--no-grab needs --evdev-path"),
        ({"skip_time": True}, "--skip-time needs --replay"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        built(**options)
