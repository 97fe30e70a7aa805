"""What the pages about the project name exists: every path, module, class and method in backticks."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import re
import types
import typing
from pathlib import Path

import pytest

import vhost_user

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")),
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        # Names of the crate stand there too. It has tests/examples/test_coming_from_rust_vmm.py.
        if page.name != "coming-from-rust-vmm.md"
    ),
]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SUFFIXES = {".py", ".pyi", ".pxd", ".h", ".md", ".toml", ".json", ".svg"}
FOLDERS = ("", "docs", "examples", "src", "src/vhost_user", "tests/guest")
"""Where a path on a page may begin."""
PLACEHOLDER = re.compile(r"\b(NAME|KIND)(?![a-z])|_NAME\b|NAME_")
"""Something that the reader puts a word of his own for."""
MODULES = [
    "",
    ".protocol.errors",
    ".protocol.responder",
    ".backend",
    ".backend.handler",
    ".backend.handover",
    ".backend.inheritance",
    ".board",
    ".board.server",
    ".board.serving",
    ".board.viewer",
    ".devices.library",
    ".devices.image_lock",
    ".engine.blk.fast_path",
    ".engine.errors",
    ".engine.device.placement",
    ".engine.device.source",
    ".engine.device.vring_handling",
    ".engine.device.vring_state",
    ".frontend",
    ".frontend.iommu",
    ".conformance",
    ".devices",
    ".protocol.state_format",
    ".spec.rtc",
    ".testing.expect",
    ".testing.guest",
    ".testing.virtio",
    ".device_types",
    ".program.control",
]
"""Where the first part of a name is looked for."""
FOREIGN = {"struct", "asyncio", "random"}
"""Modules of the standard library that the pages name, alone or by what is in them."""
STANDARD = [builtins, asyncio, typing]
VARIABLES = {
    "device": ("Device", "VirtioDevice"),
    "disk": ("VirtioDevice",),
    "rng": ("VirtioDevice",),
    "self": ("Device",),
    "request": ("Request",),
    "terminal": ("Expect",),
    "vring": ("Vring",),
    "vsock": ("Vsock",),
    "daemon": ("VhostUserDaemon",),
    "virtio": ("Virtio",),
}
"""What an object is called in an example, and of which classes it may be."""


def spans(text: str) -> list[str]:
    """What stands in backticks outside of fenced blocks."""
    return sorted(set(re.findall(r"`([^`\n]+)`", FENCE.sub("", text))))


def is_path(span: str) -> bool:
    """A file or directory of the repository, as opposed to a command or a file of the reader's."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", span) is not None and not span.startswith(
        (".venv/", ".cache/")
    )


def is_dotted(span: str) -> bool:
    """A dotted name: ``Vring.process``, ``vhost_user.engine``; calls are looked up by their name."""
    return (
        re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\([^)]*\))?", span) is not None
        and Path(span).suffix not in SUFFIXES
    )


def is_class(span: str) -> bool:
    """A name with an inner capital, as our classes have: ``GuestMemory``, ``Device``."""
    return re.fullmatch(r"[A-Z][a-z]\w*", span) is not None


def start(name: str) -> object | None:
    """What the first part of a name means: a module, a public name, a class of the protocol, a builtin."""
    if name == "vhost_user":
        return vhost_user
    if name in FOREIGN:
        return importlib.import_module(name)
    for place in [*STANDARD, *(importlib.import_module(f"vhost_user{module}") for module in MODULES)]:
        found: object = getattr(place, name, None)
        if found is not None:
            return found
    return None


def is_missing(span: str) -> str | None:
    """The part of a dotted name that does not exist, or None."""
    first, *rest = span.partition("(")[0].split(".")
    found = [missing_in(each, rest) for each in VARIABLES.get(first, (first,))]
    return found[0] if all(found) else None


def given_to_objects(place: object) -> set[str]:
    """Attributes that only the objects of a class have: annotated in it, or assigned by its constructor."""
    made = getattr(getattr(place, "__init__", None), "__code__", None)
    return {*getattr(place, "__annotations__", {}), *(made.co_names if made is not None else ())}


def missing_in(first: str, rest: list[str]) -> str | None:
    """The part of a name that does not exist; what it begins with is not a variable."""
    place, so_far = start(first), first
    if place is None:
        return first
    for part in rest:
        so_far += f".{part}"
        if isinstance(place, property | types.GetSetDescriptorType):
            return None  # what it gives may be anything
        if not hasattr(place, part) and part in given_to_objects(place):
            return None  # and so may what stands there
        if not hasattr(place, part):
            try:
                importlib.import_module(so_far)
            except ImportError:
                return so_far
        place = getattr(place, part, None)
    return None


def exists(path: str) -> bool:
    """In the repository, or beside the pages and examples."""
    return any((ROOT / folder / path).exists() for folder in FOLDERS)


def untrue(text: str) -> list[str]:
    """Everything in backticks that names what does not exist."""
    found = []
    examples = {(ROOT / name).read_text() for name in re.findall(r"examples/\w+\.py", text) if exists(name)}
    shown = {name for each in (text, *examples) for name in re.findall(r"^class (\w+)", each, re.MULTILINE)}
    for span in spans(text):
        if PLACEHOLDER.search(span) or span in shown:
            continue
        if is_path(span) or (re.fullmatch(r"\w[\w./-]*", span) and Path(span).suffix in SUFFIXES):
            if not exists(span):
                found.append(span)
        elif (is_dotted(span) or is_class(span)) and is_missing(span) is not None:
            found.append(span)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    assert untrue(page.read_text()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "reference/protocol.md",
        "protocol.md",
        "src/vhost_user/engine/gone.h",
        "vhost_user.engine.gone",
        "vhost_user.backend.ring.Ring.gone",
        "Vring.gone",
        "Device.gone(request)",
        "GuestMemoryMutable",
        "device.gone()",
        "devices/gone.py",
        "test_gone.py",
    ],
)
def test_the_check_sees_what_does_not_exist(wrong: str) -> None:
    assert untrue(f"See `{wrong}`.") == [wrong]


@pytest.mark.parametrize(
    "right",
    [
        "docs/design.md",
        "tests/test_docs.py",
        "vhost_user.protocol.transport.Connection.receive",
        "Vring.process",
        "Device.config_changed()",
        "Request.read",
        "MemoryFault",
        ".pyi",
        "vhost-user serve",
        "struct.pack_into",
        "device.drive(ConsoleDriver)",
        "self.call_later(0.5, f, 1)",
        "request.header.src_cid",
        "test_uml.py",
        "devices/NAME_type.py",
        "CancelledError",
    ],
)
def test_the_check_lets_the_others_pass(right: str) -> None:
    assert untrue(f"See `{right}`.") == []


def test_the_pages_say_enough_to_be_checked() -> None:
    design = spans((ROOT / "docs" / "design.md").read_text())
    assert sum(is_dotted(span) for span in design) > 20
    assert sum(is_path(span) for span in design) >= 3


SOURCES = sorted(
    path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".pyi", ".h"} and path.is_file()
)


def pages_named_in(text: str) -> set[str]:
    """The files with the ending .md that a docstring or comment sends its reader to."""
    return set(re.findall(r"[\w./-]*\w\.md\b", text))


def test_source_names_no_page_that_does_not_exist() -> None:
    named = {path: pages_named_in(path.read_text()) for path in SOURCES}
    assert sum(map(len, named.values())) >= 3
    assert {
        str(path): gone for path, pages in named.items() if (gone := {p for p in pages if not exists(p)})
    } == {}


@pytest.mark.parametrize("word", ["floor", "room", "house"])
def test_design_speaks_of_layers(word: str) -> None:
    assert not re.search(rf"\b{word}s?\b", (ROOT / "docs" / "design.md").read_text())


GUEST_TESTS = sorted(path.name for path in (ROOT / "tests" / "guest").glob("test_*.py"))
OF_THE_GUEST = {"test_guest.py", "test_guest_files.py"}
"""What tests the guest that the others stand on."""


@pytest.mark.parametrize("name", [name for name in GUEST_TESTS if name not in OF_THE_GUEST])
def test_what_the_project_is_run_against_names_every_test_in_a_guest(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "testing.md").read_text()
