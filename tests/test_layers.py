"""The layers of docs/design.md: a package imports only from those below it, and no imports form a circle."""

import ast
import functools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "vhost_user"
LAYERS = {
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
    "board": 6,
    "fuzzing": 6,
    "cli": 7,
    "testing": 7,
}
UNKNOWN = {
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
    # What compiled modules take from each other's .pxd is imported just the same.
    names = [name.removeprefix("cython.cimports.") for name in names]
    return [name for name in names if name.split(".")[0] == "vhost_user"]


def trespasses(text: str, module: Path) -> list[str]:
    """What a module imports although its layer may not."""
    own = module.parts[0]
    if own not in LAYERS:
        return []  # __init__ and __main__ of the whole: the public names
    found = []
    for name in imported(ast.parse(text), module):
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else None
        if other == own:
            continue
        if other not in LAYERS or LAYERS[other] >= LAYERS[own] or other in UNKNOWN.get(own, ()):
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_from_the_layers_below(module: Path) -> None:
    assert trespasses((SOURCE / module).read_text(), module) == []


DESCRIPTIONS = [
    module for module in MODULES if module.parts[0] == "devices" and module.stem.endswith("_type")
]


def at_once(text: str) -> ast.Module:
    """What a module carries out when it is loaded: neither its functions nor what is for type checkers."""

    class Loading(ast.NodeTransformer):
        def visit_FunctionDef(self, _node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.If | None:
            return None if "TYPE_CHECKING" in ast.dump(node.test) else node

    tree: ast.Module = Loading().visit(ast.parse(text))
    return tree


def of_its_layer(text: str, module: Path) -> list[str]:
    """What a description imports of the devices when it is loaded."""
    return [name for name in imported(at_once(text), module) if name.startswith("vhost_user.devices")]


@pytest.mark.parametrize("module", DESCRIPTIONS, ids=str)
def test_a_description_is_read_without_its_device(module: Path) -> None:
    assert of_its_layer((SOURCE / module).read_text(), module) == []


def test_a_description_that_loads_its_device_is_seen() -> None:
    line = "from vhost_user.devices.rng import Rng"
    assert of_its_layer(line, Path("devices/rng_type.py"))
    assert not of_its_layer(in_a_function(line) + "\n" + for_type_checkers(line), Path("devices/rng_type.py"))


IN_ENGINE = {"memory": set[str](), "device": {"memory"}, "blk": {"memory", "device"}, "driver": set[str]()}
"""The packages of the engine, and which others each may use."""


@pytest.mark.parametrize("package", IN_ENGINE)
def test_the_packages_of_the_engine_have_an_order(package: str) -> None:
    sources = [
        path for path in (SOURCE / "engine" / package).iterdir() if path.suffix in {".py", ".pxd", ".pyi"}
    ]
    assert len(sources) > 5
    used = {
        other
        for path in sources
        for other in re.findall(r"vhost_user\.engine\.(\w+)\.\w+ c?import", path.read_text())
    }
    assert used - {package} <= IN_ENGINE[package]


def test_every_package_of_the_engine_is_in_the_order() -> None:
    assert {path.parent.name for path in (SOURCE / "engine").glob("*/__init__.py")} == set(IN_ENGINE)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_is_a_drawer_for_odds_and_ends(module: Path) -> None:
    assert not {part.removesuffix(".py") for part in module.parts} & FORBIDDEN_NAMES


def test_every_package_has_a_layer() -> None:
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert packages <= LAYERS.keys()


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
        ("backend/x.py", "from vhost_user.engine.memory.guest_memory import GuestMemory"),
        ("cli/x.py", "import os, vhost_user.devices.blk"),
        ("__init__.py", "from vhost_user.cli import main"),
    ],
)
def test_the_check_lets_the_others_pass(module: str, line: str) -> None:
    assert trespasses(line, Path(module)) == []


# Circles


def dotted(module: Path) -> str:
    """The name that a file under src/vhost_user is imported by."""
    parts = ["vhost_user", *module.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(texts: Mapping[Path, str]) -> dict[str, set[str]]:
    """Which modules each module imports: anywhere in it, in functions and for type checkers too.

    A type hint in a circle is a circle: neither file can be understood, tried or moved without the other. A
    name of a package counts as an import of the package's own file, a module's name as one of that module.
    """
    names = {dotted(module): module for module in texts}
    edges = {}
    for name, module in names.items():
        edges[name] = {owner(target, names) for target in imports_of(texts[module], module)} - {name, ""}
    return edges


def owner(target: str, names: Collection[str]) -> str:
    """The module that an imported name is of, or nothing."""
    while target and target not in names:
        target = target.rpartition(".")[0]
    return target


@functools.cache
def imports_of(text: str, module: Path) -> list[str]:
    return imported(ast.parse(text), module)


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            start = stack.index(name)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                found.append(component)

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return found


def texts() -> dict[Path, str]:
    return {module: (SOURCE / module).read_text() for module in MODULES}


def test_no_import_goes_in_a_circle() -> None:
    assert circles(graph(texts())) == []


def everywhere(line: str) -> str:
    return line


def for_type_checkers(line: str) -> str:
    return f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}"


def in_a_function(line: str) -> str:
    return f"def late() -> None:\n    {line}"


DAEMON = "from vhost_user.backend.daemon import VhostUserDaemon"
BUFFER_QUEUE = "from vhost_user.backend.buffer_queue import BufferQueue"
OLD_CIRCLES = [
    ("backend/backend.py", DAEMON, "vhost_user.backend.daemon"),
    ("backend/ownership.py", DAEMON, "vhost_user.backend.daemon"),
    ("device_types/qemu.py", "from vhost_user.backend.device import Device", "vhost_user.backend.device"),
    ("backend/listeners.py", BUFFER_QUEUE, "vhost_user.backend.buffer_queue"),
    ("frontend/pending.py", "from vhost_user.frontend.queue import Queue", "vhost_user.frontend.queue"),
    ("conformance/check.py", "import vhost_user.conformance.checks", "vhost_user.conformance.checks.split"),
    ("conformance/context.py", "from .check import Check", "vhost_user.conformance.check"),
    ("fuzzing/case.py", "from vhost_user.fuzzing import ring_cases", "vhost_user.fuzzing.ring_cases"),
]
"""Where each of them was closed: a module, an import that closes it again, and another of its modules."""


@pytest.mark.parametrize("place", [everywhere, for_type_checkers, in_a_function])
@pytest.mark.parametrize(("module", "line", "other"), OLD_CIRCLES)
def test_each_of_the_old_circles_is_seen(
    module: str, line: str, other: str, place: Callable[[str], str]
) -> None:
    changed = texts()
    changed[Path(module)] += f"\n{place(line)}\n"
    (circle,) = circles(graph(changed))
    assert {dotted(Path(module)), other} <= set(circle)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import vhost_user.spec.b", "from vhost_user.spec.a import name"),
        ("from vhost_user.spec import b", "from . import a"),
        ("from .b import name", "from ..spec import a"),
        ("from vhost_user.spec.b.deep import name", "def f():\n    from vhost_user.spec import a"),
    ],
)
def test_a_circle_is_seen_however_it_is_written(first: str, second: str) -> None:
    both = {Path("spec/__init__.py"): "", Path("spec/a.py"): first, Path("spec/b.py"): second}
    assert circles(graph(both)) == [["vhost_user.spec.a", "vhost_user.spec.b"]]


def test_a_package_that_gathers_its_modules_is_no_circle_with_them() -> None:
    package = {
        Path("spec/__init__.py"): "from vhost_user.spec import a, b",
        Path("spec/a.py"): "from vhost_user.spec import b",
        Path("spec/b.py"): "",
    }
    assert circles(graph(package)) == []


def test_a_module_that_asks_the_package_that_imports_it_is_a_circle() -> None:
    package = {
        Path("spec/__init__.py"): "from .a import Name",
        Path("spec/a.py"): "from vhost_user.spec import Name",
    }
    assert circles(graph(package)) == [["vhost_user.spec", "vhost_user.spec.a"]]
