"""The floors of docs/design.md: a package imports only from the floors below it."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "vhost_user"
FLOORS = {
    "spec": 1,
    "engine": 2,
    "protocol": 3,
    "device_types": 2,
    "backend": 4,
    "frontend": 4,
    "devices": 5,
    "conformance": 5,
    "program": 5,
    "bench": 6,
    "fuzzing": 6,
    "cli": 7,
    "testing": 7,
}
STRANGERS = {
    # They try back-ends of any make: knowing ours would make them blind to what it has in common with them.
    "conformance": {"backend", "devices"},
    "fuzzing": {"backend", "devices"},
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def imported(tree: ast.AST, module: Path) -> list[str]:
    """Absolute dotted names of everything of vhost_user that a module imports."""
    names = []
    package = ["vhost_user", *module.parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{prefix}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "vhost_user"]


def trespasses(text: str, module: Path) -> list[str]:
    """What a module imports although its floor may not."""
    own = module.parts[0]
    if own not in FLOORS:
        return []  # __init__ and __main__ of the whole: the public names
    found = []
    for name in imported(ast.parse(text), module):
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else None
        if other == own:
            continue
        if other not in FLOORS or FLOORS[other] >= FLOORS[own] or other in STRANGERS.get(own, ()):
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_the_floors_below(module: Path) -> None:
    assert trespasses((SOURCE / module).read_text(), module) == []


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_is_a_drawer_for_odds_and_ends(module: Path) -> None:
    assert not {part.removesuffix(".py") for part in module.parts} & FORBIDDEN_NAMES


def test_every_package_has_a_floor() -> None:
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert packages <= FLOORS.keys()


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("spec/x.py", "import vhost_user.protocol.framing"),
        ("engine/x.py", "from vhost_user.protocol import framing"),
        ("protocol/x.py", "from vhost_user import engine, backend"),
        ("protocol/x.py", "from ..backend import daemon"),
        ("backend/x.py", "from vhost_user.frontend.driver import Driver"),
        ("frontend/x.py", "def f():\n    import vhost_user.backend"),
        ("backend/x.py", "from vhost_user import Device"),
        ("devices/x.py", "import vhost_user"),
        ("conformance/x.py", "from vhost_user.backend import Device"),
        ("fuzzing/x.py", "from vhost_user.devices.blk import Blk"),
    ],
)
def test_the_check_sees_a_trespass(module: str, line: str) -> None:
    assert trespasses(line, Path(module))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("protocol/x.py", "from vhost_user.spec import features"),
        ("protocol/x.py", "from . import framing"),
        ("backend/x.py", "from vhost_user.engine.memory import GuestMemory"),
        ("cli/x.py", "import os, vhost_user.devices.blk"),
        ("__init__.py", "from vhost_user.cli import main"),
    ],
)
def test_the_check_lets_the_others_pass(module: str, line: str) -> None:
    assert trespasses(line, Path(module)) == []
