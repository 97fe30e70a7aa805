"""The device types of this package: each is described once, and everything reads that."""

from __future__ import annotations

from pathlib import Path

import pytest

import vhost_user
from tests.support.programs import run_python
from vhost_user.cli.command import serve_parser
from vhost_user.conformance import PROFILES
from vhost_user.device_types import (
    DeviceType,
    OptionError,
    UnknownDeviceTypeError,
    everything,
    find,
    names,
)
from vhost_user.device_types.described_only import DESCRIBED_ONLY
from vhost_user.device_types.options import options_of
from vhost_user.device_types.registry import described

TYPES = everything().types
HEAVY = ("vhost_user.backend", "vhost_user.devices.rng", "vhost_user.devices.blk", "vhost_user.engine")


def test_every_file_of_that_name_is_a_device_type() -> None:
    folder = Path(vhost_user.__file__).parent / "devices"
    files = [path.stem.removesuffix("_type") for path in folder.glob("*_type.py")]
    assert names()[: len(files)] == sorted(files)
    assert everything().broken == ()


@pytest.mark.parametrize("described_type", TYPES, ids=lambda each: each.name)
def test_a_description_fits_its_device(described_type: DeviceType) -> None:
    kind = described_type.load()
    assert issubclass(kind, vhost_user.Device)
    assert described(kind.device_type) is described_type
    assert tuple(kind.capability_features) == tuple(described_type.features)
    assert described_type.number is not None
    parser = serve_parser(described_type.name)
    for words in described_type.other_vmms.values():
        assert words.replace("{socket}", f"/tmp/{described_type.name}.sock") in parser.format_help()
    for example in described_type.examples:
        parser.parse_args(example.split())
    assert described_type.options is not None
    text = " ".join(parser.format_help().split())
    for option in options_of(described_type.options):
        assert " ".join(option.help.split()) in text


@pytest.mark.parametrize("described_type", TYPES, ids=lambda each: each.name)
def test_a_type_is_described_in_one_place(described_type: DeviceType) -> None:
    """Where a device of ours comes, what was described without one goes."""
    assert described_type.name not in DESCRIBED_ONLY


def test_a_device_is_made_by_name() -> None:
    with pytest.raises(OptionError, match="--seed and --source exclude each other"):
        find("rng").make(seed=1, source="/dev/zero")
    with pytest.raises(OptionError, match="period: '0' is not a whole number above 0"):
        find("rng").make(period=0)
    with pytest.raises(OptionError, match="there is no option 'sead'; there are source, seed"):
        find("rng").make(sead=1)
    disk = find("block").make(memory=1 << 20, read_only=True)
    assert disk.storage.size == 1 << 20
    assert disk.read_only
    disk.close()


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(UnknownDeviceTypeError, match=r"there is no device 'toaster': there are .*blk, .*rng"):
        find("toaster")
    assert described("toaster") is None
    assert described("4711") is None
    with pytest.raises(OptionError, match="fs is described and has no device"):
        DESCRIBED_ONLY["fs"].make()


def loaded(code: str) -> set[str]:
    """What of HEAVY a process has after this."""
    done = run_python("-c", f"{code}\nimport sys\nprint(*(set(sys.modules) & set({HEAVY})))", check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import vhost_user.cli, vhost_user.device_types",
        "import vhost_user.testing.plugin",
        "from vhost_user.cli import main_rng",
        "from vhost_user.device_types import everything; everything()",
        "from vhost_user.cli import main; main(['serve', '--help'])",
        "from vhost_user.cli import main; main(['serve', 'blk', '--print-capabilities'])",
    ],
)
def test_descriptions_are_read_without_devices(code: str) -> None:
    assert loaded(code) == set()


def test_the_conformance_suite_knows_requests_and_not_the_back_end() -> None:
    code = "from vhost_user.conformance.profile import PROFILES, guess; guess(0, 2); dict(PROFILES)"
    assert loaded(code) <= {"vhost_user.engine"}


def test_each_described_type_is_a_profile() -> None:
    for name in ("rng", "blk", "fs"):
        assert PROFILES[name].works
    for name in ("generic", "net", "scsi"):
        assert not PROFILES[name].works
    assert {"rng", "blk", "fs", "net", "net-receiving", "generic"} <= set(PROFILES)
    with pytest.raises(KeyError):
        PROFILES["toaster"]


TOASTER = """
from vhost_user import Device, Request

class Toaster(Device, type="i2c"):
    def handle(self, request: Request) -> None:
        request.fill(1)
"""
TOASTER_TYPE = """
from vhost_user.device_types import DeviceType

DEVICE_TYPE = DeviceType(
    name="toaster", title="toast", device="vhost_user.devices.toaster:Toaster", features=("two-slices",)
)
"""
USE = """
import sys
import vhost_user.devices
vhost_user.devices.__path__.append(sys.argv[1])
from vhost_user.cli import main, main_toaster
from vhost_user.conformance import PROFILES
from vhost_user.device_types import find
main(["serve", "--help"])
main_toaster(["--print-capabilities"])
assert "toaster" in PROFILES
print(find("toaster").make().device_type)
"""


def test_a_new_device_is_its_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "toaster.py").write_text(TOASTER)
    (tmp_path / "toaster_type.py").write_text(TOASTER_TYPE)
    done = run_python("-c", USE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"  {'toaster':14}toast\n" in done.stdout
    assert '{"type": "toaster", "features": ["two-slices"]}' in done.stdout
    assert done.stdout.splitlines()[-1] == "i2c"


def test_a_broken_description_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "toaster_type.py").write_text("import no_such_module")
    done = run_python("-c", USE, str(tmp_path))
    assert (
        "not there: the description of toaster in vhost_user.devices.toaster_type is broken: " in done.stdout
    )
    assert "entropy from the host" in done.stdout
