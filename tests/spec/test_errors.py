"""One root of all errors, drawn at the top of its file; the rule is an attribute, never only a text."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import vhost_user
from vhost_user.backend.refusal import refusal_of
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.errors import EngineError, MemoryFault, RingSetupError, RingStateError, RingValueError
from vhost_user.protocol.errors import VhostUserError
from vhost_user.spec import errors

SOURCE = Path(vhost_user.__file__).parent
RULE = re.compile(r"\[[CVH]\d+\]")
DRAWN = re.compile(r"^( *)[*+.-] (\w+)(?: +\((\w+)\))?")
LAYERS = ("spec", "engine", "protocol", "backend", "frontend", "devices")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Of each class in the drawing: its parent in it, and the built-in exception that it is as well."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if (found := DRAWN.match(line)) is None:
            continue
        depth = len(found[1])
        path = [step for step in path if step[0] < depth]
        tree[found[2]] = (path[-1][1] if path else None, found[3])
        path.append((depth, found[2]))
    return tree


def below(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(below(each) for each in kind.__subclasses__()))


@pytest.fixture(scope="module")
def classes() -> dict[str, type[BaseException]]:
    for package in LAYERS:
        root = importlib.import_module(f"vhost_user.{package}")
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            importlib.import_module(module.name)
    return {
        kind.__name__: kind
        for kind in below(VhostUserError)
        if kind.__module__.split(".")[:2] in [["vhost_user", layer] for layer in LAYERS]
    }


def test_the_drawing_shows_every_error_and_no_other(classes: dict[str, type[BaseException]]) -> None:
    assert set(drawn()) == set(classes)


def test_the_drawing_is_true(classes: dict[str, type[BaseException]]) -> None:
    for name, (parent, builtin) in drawn().items():
        bases = [base.__name__ for base in classes[name].__bases__]
        assert bases == [base for base in (parent or "Exception", builtin) if base], name


def test_what_is_called_an_error_has_the_common_base() -> None:
    known = {*drawn(), "BlkRequestError", "ServeError", "NoQemuDeviceError"}  # an answer, and the program's
    for package in LAYERS:
        for path in (SOURCE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                    assert node.name in known, f"{path}: {node.name}"


def rules_in_texts(text: str) -> list[int]:
    """Lines on which something is raised whose text has the id of a rule."""
    return [
        part.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Raise) and node.exc is not None
        for part in ast.walk(node.exc)
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and RULE.search(part.value)
    ]


def test_a_rule_is_an_attribute_and_not_a_part_of_a_text() -> None:
    modules = [path for package in LAYERS for path in (SOURCE / package).rglob("*.py")]
    found = [f"{path}:{line}" for path in modules for line in rules_in_texts(path.read_text())]
    assert [place for place in found if "/serve.py:" not in place] == []  # a text for people only


def test_the_check_sees_a_rule_in_a_text() -> None:
    assert rules_in_texts("def f(x):\n    raise ValueError(f'size {x} [C070]')") == [2]
    assert rules_in_texts("def f(x):\n    raise RingValueError(f'size {x}', rule='C070')") == []


@pytest.mark.parametrize(
    ("call", "kind", "rule"),
    [
        (lambda vring: vring.set_size(65), RingValueError, "C070"),
        (lambda vring: vring.set_size(63), RingValueError, "C070"),
        (lambda vring: vring.set_addresses(descriptor=8, driver=0, device=0), RingValueError, "C071"),
        (lambda vring: vring.set_base(1 << 16), RingValueError, "C056"),
        (lambda vring: vring.start(), RingStateError, "C073"),
    ],
)
def test_C056_C070_C071_C073_a_ring_that_cannot_be_set_up_says_so_with_its_rule(
    call: Callable[[Vring], object], kind: type[RingSetupError], rule: str
) -> None:
    with pytest.raises(RingSetupError) as caught:
        call(Vring(3, 64))
    assert type(caught.value) is kind
    assert (caught.value.rule, caught.value.queue) == (rule, 3)
    assert str(caught.value) == f"queue 3: {caught.value.reason} [{rule}]"


def test_a_refusal_has_rule_and_reason_of_the_error_as_they_are() -> None:
    refused = refusal_of(RingValueError("size 65 [C999] is odd [C999]", rule="C070", queue=1))
    assert (refused.reason, refused.rule) == ("size 65 [C999] is odd [C999]", "C070")
    assert refusal_of(EngineError("something"), "C057").rule == "C057"
    assert refusal_of(EngineError("something")).rule is None
    fault = refusal_of(MemoryFault(0x1000, 16, queue=2, head=7))
    assert (fault.reason, fault.rule) == ("guest memory 0x1000+0x10 is not mapped", "V011")


def test_who_caught_the_built_in_errors_of_a_ring_goes_on_doing_so() -> None:
    assert issubclass(RingValueError, ValueError)
    assert issubclass(RingStateError, RuntimeError)
