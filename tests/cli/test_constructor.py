"""Arguments of a constructor: text becomes what is annotated, or is refused in words; the help lists them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional

import pytest

from vhost_user import Device, Request, VhostUserBackendMut
from vhost_user.cli.constructor import Argument, Constructor
from vhost_user.cli.conversion import ConversionError, convert
from vhost_user.cli.failure import UsageError

if TYPE_CHECKING:
    from decimal import Decimal

Run = Callable[..., Any]
Sides = NewType("Sides", int)


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Modes(enum.Flag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "20", "20"),
        (str, "none", "none"),
        (str, "", ""),
        (bytes, "ab", b"ab"),
        (int, "20", 20),
        (int, "010", 10),
        (int, "-0x14", -20),
        (int, "1_000", 1000),
        (float, "2", 2.0),
        (float, "1e-3", 0.001),
        (bool, "yes", True),
        (bool, "False", False),
        (bool, "0", False),
        (Path, "a/b", Path("a/b")),
        (PurePosixPath, "a/b", PurePosixPath("a/b")),
        (Any, "[1, 2]", [1, 2]),
        (object, "text", "text"),
        (list[str], "a,b", ["a", "b"]),
        (list[str], "a", ["a"]),
        (list[str], "", []),
        (list[str], "['a,b', 'c']", ["a,b", "c"]),
        (list, "1,x", [1, "x"]),
        (Sequence[int], "1, 2", [1, 2]),
        (set[int], "1,1,2", {1, 2}),
        (frozenset[str], "a", frozenset({"a"})),
        (tuple[int, ...], "1,2,3", (1, 2, 3)),
        (tuple[str, int], "a,1", ("a", 1)),
        (dict[str, int], "a:1,b:2", {"a": 1, "b": 2}),
        (Mapping[str, str], "{'a': 1}", {"a": "1"}),
        (Optional[int], "7", 7),  # noqa: UP045  # older code has it
        (int | None, "none", None),
        (str | int, "7", 7),
        (str | int, "x", "x"),
        (str | None, "none", None),
        (list[int] | None, "1,2", [1, 2]),
        (Literal["fair", "loaded"], "fair", "fair"),
        (Literal[1, 2, None], "2", 2),
        (Literal[True, "maybe"], "true", True),
        (Colour, "red", Colour.RED),
        (Colour, "g", Colour.GREEN),
        (Level, "2", Level.HIGH),
        (Modes, "read|write", Modes.READ | Modes.WRITE),
        (Annotated[int, "how many"], "3", 3),
        (Sides, "20", 20),
    ],
)
def test_text_becomes_what_is_annotated(annotation: Any, text: str, value: object) -> None:
    converted = convert(text, annotation)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "words"),
    [
        (int, "many", "give a whole number, such as 20 or 0x14"),
        (int, "1.5", "give a whole number"),
        (int, "", "give a whole number"),
        (float, "fast", "give a number"),
        (bool, "perhaps", "give true or false"),
        (int | None, "many", "give a whole number, such as 20 or 0x14, or none"),
        (list[int], "1,x", "give a whole number"),
        (list[int], "[1", "separated by commas"),
        (tuple[str, int], "a", "give 2 parts"),
        (dict[str, int], "a", "give pairs separated by commas, such as a:1,b:2"),
        (Literal["fair", "loaded"], "fare", "give one of fair, loaded"),
        (Colour, "blue", "give one of RED, GREEN"),
        (Modes, "read|run", "give one of READ, WRITE"),
        (Callable[[int], bytes], "x", "cannot be written on a command line"),
        (Device, "x", "Device cannot be written on a command line"),
        (Device | Callable[[int], bytes], "x", "cannot be written on a command line"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_words(annotation: Any, text: str, words: str) -> None:
    with pytest.raises(ConversionError) as refused:
        convert(text, annotation)
    assert words in str(refused.value)


class Base(Device):
    def handle(self, request: Request) -> None: ...


class Dice(Base):
    """Dice.

    Args:
        sides: how many sides
            a die has.
        names (list[str]): what the dice are called

    :param loaded: whether it is not fair
    """

    def __init__(
        self,
        sides: int = 6,
        names: list[str] = ["die"],  # noqa: B006
        *,
        loaded: bool = False,
        image: Annotated[Path | None, "where the pictures are"] = None,
        price: Decimal | None = None,
        colour: Colour = Colour.RED,
    ) -> None: ...


class Derived(Dice): ...


class Required(Base):
    """Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path, /, count: int = 1, **rest: int) -> None:
        self.given = (path, count, rest)


@dataclass
class Fields(Base):
    sides: int = 6
    """How many
    there are."""
    names: tuple[str, ...] = ()


class Nothing(Base): ...


class NothingEither(VhostUserBackendMut): ...


@pytest.mark.parametrize("kind", [Dice, Derived])
def test_the_help_lists_arguments_with_type_default_and_meaning(kind: type) -> None:
    text = Constructor(kind).help()
    assert "arguments of" in text
    for line in (
        "sides                     how many sides a die has (int, default 6)",
        "names                     what the dice are called (list[str], default ['die'])",
        "loaded                    whether it is not fair (bool, default false)",
        "image                     where the pictures are (Path | none, default none)",
        "price                     (default none)",
        "colour                    (RED | GREEN, default RED)",
        "separated by commas",
    ):
        assert line in text


def test_the_help_of_other_kinds_of_constructors() -> None:
    assert "path                      The file (Path, required)" in Constructor(Required).help()
    assert "and any other" in Constructor(Required).help()
    assert "sides                     How many there are (int, default 6)" in Constructor(Fields).help()
    for kind in (Nothing, NothingEither):
        assert Constructor(kind).help() == f"{kind.__name__} takes no arguments."


def test_texts_are_bound_to_arguments() -> None:
    assert Constructor(Derived).bind({"sides": ["20"], "names": ["a", "b,c"]}) == (
        [],
        {"sides": 20, "names": ["a", "b", "c"]},
    )
    positional, keywords = Constructor(Required).bind({"path": ["x"], "other": ["3"]})
    assert Required(*positional, **keywords).given == (Path("x"), 1, {"other": 3})


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Dice, {"colour": ["red", "green"]}, "colour is given 2 times, and takes one value"),
        (Dice, {"sides": ["six"]}, "--option sides=six: sides is int; give a whole number"),
        (Dice, {"size": ["6"]}, "Dice has no argument 'size'; it takes sides, names, loaded, image"),
        (Required, {}, "Required needs path: give --option path=…"),
        (Required, {"path": ["x"], "other": ["y"]}, "other is int; give a whole number"),
        (Nothing, {"sides": ["6"]}, "Nothing has no argument 'sides'; it takes no arguments"),
        (NothingEither, {"sides": ["6"]}, "it takes no arguments"),
    ],
)
def test_what_does_not_fit_the_constructor_is_refused(
    kind: type, given: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Constructor(kind).bind(given)
    assert words in str(refused.value)


def test_without_an_annotation_a_value_is_guessed() -> None:
    def value(text: str) -> object:
        return Argument("x", Parameter.empty, None, Parameter.KEYWORD_ONLY).value([text])

    assert Argument("x", Parameter.empty, "dice", Parameter.KEYWORD_ONLY).value(["7"]) == "7"
    assert [value(text) for text in ("1", "0.5", "true", "text", "[1]")] == [1, 0.5, True, "text", [1]]


MODULE = '''
from vhost_user import Device, Request

class Dice(Device, type="rng"):
    """A die.

    Args:
        sides: how many sides it has
    """
    def __init__(self, sides: int = 6, names: list[str] | None = None):
        if not isinstance(names, (list, type(None))):
            raise TypeError(f"names is {names!r}")
    def handle(self, request: Request) -> None: ...

class Plain(Device, type="rng"):
    def handle(self, request: Request) -> None: ...

ready = Plain()
'''


def test_serve_help_lists_the_arguments_of_an_own_class(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(MODULE)
    done = run("vhost-user", "serve", "my.py:Dice", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "arguments of Dice, each given as --option NAME=VALUE:" in done.stdout
    assert "how many sides it has (int, default 6)" in done.stdout
    assert "(list[str] | none, default none)" in done.stdout
    assert "Plain takes no arguments." in run("vhost-user", "serve", "my:Plain", "-h").stdout
    assert "a ready device and takes no arguments" in run("vhost-user", "serve", "my:ready", "-h").stdout
    missing = run("vhost-user", "serve", "your:Dice", "--help")
    assert missing.returncode == 0
    assert "cannot be shown: there is no module 'your'" in missing.stdout


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("my:Dice", "sides=six", "my:Dice cannot be made: --option sides=six: sides is int; give"),
        ("my:Plain", "sides=6", "my:Plain cannot be made: Plain has no argument 'sides'; it"),
        ("my:ready", "sides=6", "is a ready device"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_named(
    run: Run, tmp_path: Path, name: str, option: str, reason: str
) -> None:
    (tmp_path / "my.py").write_text(MODULE)
    done = run("vhost-user", "serve", name, "--socket-path=s", "--option", option)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_in_a_class_is_shown_with_the_authors_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from vhost_user import Device\n\nclass Wrong(Device, queues='2'): ...\n"
    )
    done = run("vhost-user", "serve", "wrong.py:Wrong", "--socket-path=s")
    assert done.returncode == 1
    assert (
        "TypeError: class Wrong: queues is '2': give a whole number, queues=2, without quotes" in done.stderr
    )
    assert f"({tmp_path / 'wrong.py'}, line 3)" in done.stderr
