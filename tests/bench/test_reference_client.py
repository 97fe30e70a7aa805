"""The client in C that ours is compared with: it must be right before it may be fast."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.programs import run_program
from tools.comparison.contenders import Place, RunningContender
from vhost_user import VhostUserDaemon
from vhost_user.bench.devices import MemoryInBatches
from vhost_user.devices.blk import Blk
from vhost_user.protocol.listener import Listener

SIZE = 1 << 20
TOOL = Path(__file__).resolve().parents[2] / "tools" / "compare_clients.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_clients", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def program(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled as for the comparison, with warnings as errors."""
    path = tmp_path_factory.mktemp("client") / "reference_client"
    tool.compile_client(path)
    return path


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(program: Path) -> Run:
    def run(socket: Path | str, *options: str, status: int = 0) -> dict[str, Any]:
        command = [str(program), f"--socket={socket}", *options]
        done = run_program(command)
        assert done.returncode == status, done.stderr
        return dict(json.loads(done.stdout)) if done.stdout else {"stderr": done.stderr}

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(block % 251 for block in range(SIZE // 512) for _ in range(512)))
    return path


@pytest.fixture
def ours(image: Path, tmp_path: Path) -> Iterator[Path]:
    """Our own block device on the image."""
    with Listener.bind(tmp_path / "s") as listener, VhostUserDaemon("blk", Blk(image)) as daemon:
        daemon.start(listener)
        yield tmp_path / "s"


@pytest.fixture
def storage_daemon(tool: ModuleType, image: Path, tmp_path: Path) -> Iterator[str]:
    contender = tool.storage_daemon(tool.IMAGE, image)
    with RunningContender(contender, Place(tmp_path, SIZE)) as back_end:
        yield back_end.socket


MODES = [[], ["--wait=first"], ["--wait=half"], ["--indirect"], ["--batch=8"]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("back_end", ["ours", "storage_daemon"])
def test_the_client_in_c_reads_and_verifies(
    request: pytest.FixtureRequest, run: Run, image: Path, back_end: str, mode: list[str]
) -> None:
    socket = request.getfixturevalue(back_end)
    for order in ([], ["--sequential"]):
        result = run(socket, "--requests=2000", f"--verify={image}", *order, *mode)
        assert result["requests"] == result["verified"] == 2000
        assert (result["errors"], result["length_errors"], result["mismatches"]) == (0, 0, 0)
        assert result["kicks"] >= 1
        assert (result["calls"] > 0) == any("wait" in option for option in mode)
        assert 0 < result["p50_seconds"] <= result["p99_seconds"]


def test_the_client_in_c_finds_wrong_blocks_and_says_what_it_needs(
    run: Run, ours: Path, image: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    data = bytearray(image.read_bytes())
    data[5 * 4096 + 17] ^= 1
    wrong.write_bytes(data)
    options = ["--sequential", f"--requests={SIZE // 4096}", f"--verify={wrong}"]
    assert run(ours, *options, status=1)["mismatches"] == 1
    wrong.write_bytes(data[:-1])
    assert "smaller than the disk" in run(ours, *options, status=2)["stderr"]
    assert "depth of 85" in run(ours, "--requests=1", "--depth=86", status=2)["stderr"]
    assert "--seconds and --requests" in run(ours, status=2)["stderr"]
    assert "No such file" in run(tmp_path / "nobody", "--requests=1", status=2)["stderr"]


@pytest.mark.parametrize("case", range(8))
def test_every_case_of_the_comparison_runs(
    tool: ModuleType, program: Path, tmp_path: Path, case: int
) -> None:
    """Against a small device of ours; the figures mean nothing here."""
    chosen = tool.CASES[case]
    expected = tmp_path / "expected"
    expected.write_bytes(bytes(SIZE))
    with ExitStack() as stack:
        listener = stack.enter_context(Listener.bind(tmp_path / "s"))
        daemon = stack.enter_context(VhostUserDaemon("bench-test", MemoryInBatches(SIZE)))
        daemon.start(listener)
        clients = tool.Clients(program, str(tmp_path / "s"), chosen, 32, expected)
        result = tool.compare(clients, 1, 0.01)
    assert result["failed"] == 0
    assert result["ratio"]["median"] > 0
    for name in ("c", "ours"):
        (only,) = result["rounds"][name]
        assert (only["verified"] > 0) == chosen.verify


def test_the_image_is_an_ext4_file_system(tool: ModuleType, tmp_path: Path) -> None:
    image = tool.make_image(tmp_path, 8 << 20)
    assert image.stat().st_size == 8 << 20
    assert image.read_bytes()[1024 + 56 : 1024 + 58] == b"\x53\xef"
