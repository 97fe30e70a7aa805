"""A device of another package is used as ours are, with no line of ours changed."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.programs import serving
from tests.thirdparty.conftest import HERE, Run, environment
from vhost_user.frontend import RngDriver, VirtioDriver


def served(installed: Path, *words: str, checked: bool = False) -> AbstractContextManager[str]:
    """A program that serves; its greeting. One that is checked logs what it refuses."""
    return serving(words, "device", quiet=not checked, env=environment(installed))


def test_it_is_in_the_list_of_devices(run: Run) -> None:
    done = run("vhost-user", "serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert f"{'thermometer':14}the temperature of a room" in lines
    assert f"{'coin':14}A coin, thrown for the guest" in lines
    assert any(line.startswith("rng ") for line in lines)


def test_its_help_shows_its_options(run: Run) -> None:
    done = run("vhost-user", "serve", "thermometer", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "--celsius N the temperature it shows (in °C, default 21.5)" in text
    assert "--scale {celsius,kelvin} what the guest reads (default celsius)" in text
    assert "--socket-path" in text
    done = run("vhost-user", "serve", "coin", "--help")
    assert "sides what it shows, in turn (str, default ht)" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--celsius=100"], "is not a number from -90 to 60"),
        (["--celsius=warm"], "'warm' is not a number from -90 to 60"),
        (["--scale=reaumur"], "'reaumur' is not one of celsius, kelvin"),
    ],
)
def test_its_options_are_checked(run: Run, options: list[str], reason: str) -> None:
    done = run("vhost-user", "serve", "thermometer", "--socket-path=s", *options)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.parametrize("program", ["command", "program"])
def test_it_is_served_by_name(thermometer: Path, tmp_path: Path, program: str) -> None:
    path = tmp_path / "s"
    words = {
        "command": [sys.executable, "-m", "vhost_user.cli", "serve", "thermometer"],
        "program": [str(thermometer / "bin" / "vhost-user-thermometer")],
    }[program]
    options = [f"--socket-path={path}", "--scale=kelvin", "--qemu-version=11.1"]
    with served(thermometer, *words, *options) as said, VirtioDriver(path) as driver:
        assert "virtio-id=63,num_vqs=1" in said
        assert driver.queue(0).request(writable=2) == (2946).to_bytes(2, "little")


def test_a_class_alone_is_served_as_a_device_of_its_type(thermometer: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    words = [sys.executable, "-m", "vhost_user.cli", "serve", "coin", f"--socket-path={path}"]
    with served(thermometer, *words, "--option", "sides=ab") as said, RngDriver(path) as coin:
        assert "vhost-user-rng-pci" in said
        assert coin.read(4) == b"abab"


def test_C141_the_capabilities_are_those_of_the_description(run: Run) -> None:
    done = run("vhost-user-thermometer", "--nonsense", "--print-capabilities")
    assert json.loads(done.stdout) == {"type": "thermometer", "features": ["indoor"]}
    done = run("vhost-user", "serve", "coin", "--print-capabilities")
    assert json.loads(done.stdout) == {"type": "rng", "features": []}


def test_C145_its_program_gets_a_file_for_qemu_and_libvirt(
    run: Run, thermometer: Path, tmp_path: Path
) -> None:
    done = run("vhost-user", "install-json", f"--prefix={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "coin is left out: the program vhost-user-coin is neither beside" in done.stderr
    content = json.loads(
        (tmp_path / "share/qemu/vhost-user/50-vhost-user-python-thermometer.json").read_text()
    )
    assert content["type"] == "thermometer"
    assert content["binary"] == str(thermometer / "bin" / "vhost-user-thermometer")
    assert os.access(content["binary"], os.X_OK)


@pytest.mark.parametrize("device", [["--device=thermometer"], []], ids=["named", "guessed"])
def test_check_knows_its_request(thermometer: Path, run: Run, tmp_path: Path, device: list[str]) -> None:
    path = tmp_path / "s"
    words = [sys.executable, "-m", "vhost_user.cli", "serve", "thermometer", f"--socket-path={path}"]
    with served(thermometer, *words, checked=True):
        done = run("vhost-user", "check", str(path), *device, "--only=V010", "--only=C056")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "device thermometer" in done.stdout
    assert "no request is known" not in done.stdout
    assert "thermometer" in run("vhost-user", "check", "--help").stdout
    assert "thermometer" in run("vhost-user", "fuzz", "--help").stdout


@pytest.mark.parametrize("language", ["toml", "python"])
def test_the_page_shows_this_package(language: str) -> None:
    page = (HERE.parents[1] / "docs" / "describing-a-device.md").read_text()
    files = "".join(path.read_text() for path in (HERE / "thermometer").iterdir() if path.is_file())
    shown = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown
    for block in shown:
        assert block in files


UNDER_PYTEST = """
from vhost_user.testing.booting import qemu_device

def test_it(virtio):
    room = virtio.attach(virtio.make("thermometer", scale="kelvin"))
    assert room.request(writable=2) == (2946).to_bytes(2, "little")
    coin = virtio.attach(virtio.make("coin", sides="xy"))
    assert coin.rng().read(2) == b"xy"

def test_its_options_are_checked(virtio):
    import pytest
    from vhost_user.device_types import OptionError
    for options in ({"celsius": 61.0}, {"colour": "red"}, {"scale": "reaumur"}):
        with pytest.raises(OptionError):
            virtio.make("thermometer", **options)

def test_in_a_guest(virtio, monkeypatch):
    monkeypatch.setattr("vhost_user.device_types.qemu.default_version", lambda: (11, 1))
    device = qemu_device(virtio.make("coin"), "s")
    assert (device.driver, device.modules) == ("vhost-user-rng-pci", ("virtio_rng",))
    device = qemu_device(virtio.make("thermometer"), "s")
    assert (device.driver, device.modules) == ("vhost-user-test-device-pci", ("virtio_thermometer",))
"""


def test_the_pytest_plugin_makes_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_room.py").write_text(UNDER_PYTEST)
    plugin = [] if _plugin_is_registered() else ["-p", "vhost_user.testing.plugin"]
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def _plugin_is_registered() -> bool:
    from importlib.metadata import entry_points

    return any(entry.name == "vhost-user" for entry in entry_points(group="pytest11"))


def test_the_plugin_runs_the_checks_on_it(thermometer: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    plugin = [] if _plugin_is_registered() else ["-p", "vhost_user.testing.plugin"]
    words = [sys.executable, "-m", "vhost_user.cli", "serve", "thermometer", f"--socket-path={path}"]
    pytest_words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "-k", "V010"]
    with served(thermometer, *words, checked=True):
        done = run(*pytest_words, f"--vhost-user-socket={path}", "--vhost-user-device=thermometer")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    done = run(*pytest_words, f"--vhost-user-socket={path}", "--vhost-user-device=barometer")
    assert done.returncode != 0
    assert "--vhost-user-device=barometer: there are" in done.stdout + done.stderr


def test_what_is_broken_is_named_and_breaks_nothing_else(run: Run, broken: Path, tmp_path: Path) -> None:
    done = run("vhost-user", "serve", "--help", also=(broken,))
    assert (done.returncode, done.stderr) == (0, "")
    assert "the temperature of a room" in done.stdout
    assert "entropy from the host" in done.stdout
    for words in (
        "entry point missing = 'no_such_module:DEVICE_TYPE' of package broken-devices cannot be loaded",
        "cannot be loaded: SystemExit: the licence has expired",
        "entry point number = 'broken_devices:NUMBER' of package broken-devices leads to 7: give a Device",
        "describes 'rng': give both the same name",
        "is left out: there is a device 'rng' already; choose another name",
    ):
        assert words in done.stdout
    done = run("vhost-user", "serve", "rng", "--print-capabilities", also=(broken,))
    assert json.loads(done.stdout)["type"] == "rng"
    done = run("vhost-user", "install-json", f"--prefix={tmp_path}", also=(broken,))
    assert done.returncode == 0
    assert "left out: entry point missing" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "vhost-user: entry point missing = "),
        ("raises", "vhost-user: entry point raises = "),
        ("number", "vhost-user: entry point number = "),
        ("empty", 'has no device: give device="module:Class", or build'),
        ("absent", "'broken_devices:Absent', the class of device absent, cannot be loaded: AttributeError"),
        ("greedy", "the description of greedy is broken: argument --fd: conflicting option string: --fd"),
        ("failing", "vhost-user: failing cannot be made: ZeroDivisionError: "),
    ],
)
def test_what_is_broken_is_told_when_it_is_asked_for(run: Run, broken: Path, name: str, words: str) -> None:
    done = run("vhost-user", "serve", name, "--socket-path=s", also=(broken,))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_description_is_told_by_check(
    run: Run, broken: Path, thermometer: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    words = [sys.executable, "-m", "vhost_user.cli", "serve", "thermometer", f"--socket-path={path}"]
    with served(thermometer, *words, checked=True):
        done = run("vhost-user", "check", path, "--device=missing", also=(broken,))
        assert done.returncode == 1
        assert "entry point missing = " in done.stderr
        assert "Traceback" not in done.stderr
        done = run("vhost-user", "check", path, "--only=V010", also=(broken,))
        assert done.returncode == 0, done.stdout + done.stderr
