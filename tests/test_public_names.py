"""What is public is documented, has a signature, is typed, and is the same at run time as in the stubs.

``tools/stubtest`` holds the stubs of the engine against the engine; here is what it does not look at.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "vhost_user"
PACKAGES = [
    "",
    ".backend",
    ".board",
    ".frontend",
    ".conformance",
    ".fuzzing",
    ".devices",
    ".device_types",
    ".program",
]
ENGINE = sorted(
    ".".join(path.relative_to(SOURCE / "engine").with_suffix("").parts)
    for path in (SOURCE / "engine").rglob("*.pyi")
)
NOT_MADE_BY_USERS = {
    *("Batch", "RequestState", "RequestReader", "RequestWriter", "RequestFiles", "Request"),
    *("RequestPart", "ReadablePart", "WritablePart", "VringRecovery", "VringTranslation"),
}
"""Classes whose objects the engine makes."""
TAKE_NOTHING = {"Bitmap", "Placement"}
"""Classes that are made without arguments."""


def public_classes() -> dict[str, type]:
    """Every class of the package that an ``__all__`` or a stub of the engine names."""
    found: dict[str, type] = {}
    for _, value in public_names():
        if isinstance(value, type) and value.__module__.startswith("vhost_user"):
            found[f"{value.__module__}.{value.__qualname__}"] = value
    for module in ENGINE:
        loaded = importlib.import_module(f"vhost_user.engine.{module}")
        for statement in stub(module).body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                found[f"{loaded.__name__}.{statement.name}"] = getattr(loaded, statement.name)
    return found


def public_names() -> Iterator[tuple[str, object]]:
    """Every name of an ``__all__``, with what it is."""
    for package in PACKAGES:
        module = importlib.import_module(f"vhost_user{package}")
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)


def stub(module: str) -> ast.Module:
    """The stub of a module of the engine."""
    return ast.parse(engine_file(module, "pyi").read_text())


def engine_file(module: str, suffix: str) -> Path:
    return SOURCE / "engine" / f"{module.replace('.', '/')}.{suffix}"


def public_members(kind: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that a class defines itself, as they stand in it."""
    for name, value in vars(kind).items():
        if name.startswith("_") or name in getattr(kind, "__dataclass_fields__", {}):
            continue
        if isinstance(value, staticmethod | classmethod):
            yield name, value.__func__
        elif isinstance(value, property | types.FunctionType | types.MethodDescriptorType) or (
            isinstance(value, types.GetSetDescriptorType) and has_getter(kind, name)
        ):
            yield name, value


def has_getter(kind: type, name: str) -> bool:
    """Whether a property of a compiled class is written in Python; C attributes cannot have a docstring."""
    source = SOURCE.parent / f"{kind.__module__.replace('.', '/')}.py"
    for statement in ast.parse(source.read_text()).body:
        if isinstance(statement, ast.ClassDef) and statement.name == kind.__name__:
            return any(isinstance(each, ast.FunctionDef) and each.name == name for each in statement.body)
    return False


def inherited_docs(kind: type, name: str) -> bool:
    """A method that only carries out what a documented method of a base promises."""
    return any(getattr(vars(base).get(name), "__doc__", None) for base in kind.__mro__[1:])


def undocumented(kind: type) -> list[str]:
    """What a class has without a docstring."""
    missing = [] if (kind.__doc__ or "").strip() else [kind.__name__]
    return missing + [
        f"{kind.__name__}.{name}"
        for name, value in public_members(kind)
        if not (value.__doc__ or "").strip() and not inherited_docs(kind, name)
    ]


LEANS = re.compile(r"(The same( of| for|[,.])|See ``).*|.*\b(as above|above\.|below\.)", re.DOTALL)
"""A docstring that sends its reader to its neighbour, which `help()` prints somewhere else, or to nothing."""


def leaning(kind: type) -> list[str]:
    """Whose docstrings cannot be understood alone: `help()` sorts them by name."""
    return [
        f"{kind.__name__}.{name}"
        for name, value in public_members(kind)
        if LEANS.match(inspect.getdoc(value) or "")
    ]


def unsigned(kind: type) -> list[str]:
    """What a class has that ``inspect.signature`` cannot tell the parameters of."""
    found = []
    for name, value in public_members(kind):
        if isinstance(value, property | types.GetSetDescriptorType):
            continue
        try:
            inspect.signature(value)  # type: ignore[arg-type]  # functions and method descriptors
        except (ValueError, TypeError):
            found.append(f"{kind.__name__}.{name}")
    return found


CLASSES = public_classes()
COMPILED = {
    name: kind
    for name, kind in CLASSES.items()
    if name.startswith("vhost_user.engine.") and "errors" not in name and not issubclass(kind, Exception)
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_and_its_methods_have_docstrings(name: str) -> None:
    assert undocumented(CLASSES[name]) == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_docstring_can_be_read_alone(name: str) -> None:
    assert leaning(CLASSES[name]) == []


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_signatures(name: str) -> None:
    assert unsigned(CLASSES[name]) == []


@pytest.mark.parametrize(
    "name", [name for name in COMPILED if name.rpartition(".")[2] not in NOT_MADE_BY_USERS]
)
def test_a_compiled_class_says_how_it_is_made(name: str) -> None:
    kind = COMPILED[name]
    if any("__init__" in vars(base) for base in kind.__mro__[:-1]):
        assert inspect.signature(kind).parameters or kind.__name__ in TAKE_NOTHING


def test_functions_have_docstrings_and_annotations() -> None:
    functions = {name: value for name, value in public_names() if isinstance(value, types.FunctionType)}
    assert functions
    for name, function in functions.items():
        assert function.__doc__, name
        hints = function.__annotations__
        assert "return" in hints, name
        assert hints.keys() >= inspect.signature(function).parameters.keys(), name


@pytest.mark.parametrize("module", ENGINE)
def test_stubs_have_types_and_the_engine_docstrings(module: str) -> None:
    """One source of truth: what the engine can say at run time stands in its .py alone."""
    source = ast.parse(engine_file(module, "py").read_text())
    here = {node.name: node for node in source.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    twice = []
    for statement in stub(module).body:
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef) or statement.name not in here:
            continue
        if ast.get_docstring(statement):
            twice.append(statement.name)
        if isinstance(statement, ast.ClassDef):
            methods = {node.name for node in here[statement.name].body if isinstance(node, ast.FunctionDef)}
            twice += [
                f"{statement.name}.{node.name}"
                for node in statement.body
                if isinstance(node, ast.FunctionDef) and node.name in methods and ast.get_docstring(node)
            ]
    assert twice == []


def test_the_package_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()
    compiled = {
        path
        for path in (SOURCE / "engine").rglob("*.pxd")
        if path.with_suffix(".py").exists() and path.stem != "__init__"
    }
    assert [path for path in compiled if not path.with_suffix(".pyi").exists()] == []


def test_all_is_sorted_and_has_every_name_once() -> None:
    for package in PACKAGES:
        names = importlib.import_module(f"vhost_user{package}").__all__
        assert len(set(names)) == len(names)


class Careless:
    """A class with mistakes, so that it is seen that they are found."""

    def undocumented(self) -> None:
        pass

    @property
    def value(self) -> int:
        return 0

    def documented(self) -> None:
        """Does nothing."""

    def neighbour(self) -> None:
        """The same for others."""


class Derived(Careless):
    """One that carries out what its base promises."""

    def documented(self) -> None:
        pass


def test_the_check_sees_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert undocumented(Careless) == ["Careless.undocumented", "Careless.value"]
    assert undocumented(Derived) == []
    assert leaning(Careless) == ["Careless.neighbour"]
    monkeypatch.setattr(Careless, "__doc__", "")
    assert undocumented(Careless)[0] == "Careless"
    assert unsigned(Careless) == []
    assert unsigned(type("Odd", (), {"get": dict.__dict__["get"], "fromkeys": type.__dict__["mro"]})) == []
    assert unsigned(type("Odd", (), {"update": dict.__dict__["update"]})) == ["Odd.update"]
