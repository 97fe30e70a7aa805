"""Options of a device, declared as fields of a dataclass."""

from __future__ import annotations

import argparse
import enum
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vhost_user.device_types.errors import OptionError
from vhost_user.device_types.options import BYTES, made, option, options_of
from vhost_user.program.options import add_device_options, device_options


class Colour(enum.Enum):
    RED = 1
    DARK_BLUE = 2


@dataclass(frozen=True)
class Options:
    name: str = option(help="who it is")
    size: int = option(4096, help="100 % of it", unit=BYTES, minimum=512, maximum=1 << 20)
    rate: float | None = option(None, help="how fast", unit="hertz", minimum=0)
    colour: Colour = option(Colour.RED, help="of the case")  # noqa: RUF009  # a field, as the others
    mode: Literal["fast", "safe"] = option("safe", help="how")
    quiet: bool = option(False, help="say nothing")
    cache: bool = option(True, help="leave the cache out")
    left: int | None = option(None, help="turn left", exclusive="side")
    right: int | None = option(None, help="turn right", exclusive="side", maximum=90)
    wheel: tuple[int, ...] = option((), help="a wheel of this size", minimum=1)


def parsed(*words: str) -> Any:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_device_options(parser, Options, "device")
    return device_options(Options, parser.parse_args(words))


def test_a_command_line_gives_the_object() -> None:
    assert parsed("--name=x") == Options(name="x")
    words = [
        "--name=x",
        "--size=64K",
        "--rate=1.5",
        "--colour=dark_blue",
        "--mode=fast",
        "--quiet",
        "--no-cache",
    ]
    assert parsed(*words, "--right=-3") == Options(
        name="x",
        size=64 << 10,
        rate=1.5,
        colour=Colour.DARK_BLUE,
        mode="fast",
        quiet=True,
        cache=False,
        right=-3,
    )


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("--size=1G", "is not a whole number from 512 to 1048576"),
        ("--size=big", "'big' is not a size"),
        ("--rate=-1", "is not a number of at least 0"),
        ("--rate=fast", "'fast' is not a number of at least 0"),
        ("--colour=green", "'green' is not one of red, dark_blue"),
        ("--right=91", "is not a whole number up to 90"),
        ("--left=1.5", "'1.5' is not a whole number"),
    ],
)
def test_what_cannot_be_is_told(word: str, reason: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=reason):
        parsed("--name=x", word)


def test_two_that_exclude_each_other() -> None:
    with pytest.raises(argparse.ArgumentError, match="not allowed with"):
        parsed("--name=x", "--left=1", "--right=1")
    with pytest.raises(OptionError, match="--right and --left exclude each other"):
        made(Options, {"name": "x", "left": 1, "right": 2})


def test_one_that_must_be_given() -> None:
    with pytest.raises(OptionError, match="the option 'name' is missing: who it is"):
        made(Options, {})


def test_the_help_has_unit_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_device_options(parser, Options, "device")
    text = " ".join(parser.format_help().split())
    for words in (
        "--name TEXT who it is (required)",
        "--size SIZE 100 % of it (default 4096)",
        "--rate N how fast (in hertz)",
        "--colour {red,dark_blue} of the case (default red)",
        "--no-cache leave the cache out",
    ):
        assert words in text


def test_what_is_not_an_option_is_told() -> None:
    @dataclass
    class Bare:
        count: int = 3

    @dataclass
    class Odd:
        what: bytes = option(b"", help="bytes")

    with pytest.raises(TypeError, match=r"Bare.count is not an option: write count: … = option\(3, help=…\)"):
        options_of(Bare)
    with pytest.raises(TypeError, match=r"Odd.what: .*bytes.* cannot be written on a command line"):
        options_of(Odd)
    with pytest.raises(TypeError, match="int is not a dataclass"):
        options_of(int)


def test_what_can_be_given_again_and_again_is_a_tuple() -> None:
    assert parsed("--name=x").wheel == ()
    assert parsed("--name=x", "--wheel=3", "--wheel", "4").wheel == (3, 4)
    assert made(Options, {"name": "x", "wheel": (5, 6)}).wheel == (5, 6)
    with pytest.raises(argparse.ArgumentError, match="whole number above 0"):
        parsed("--name=x", "--wheel=3", "--wheel=0")
    with pytest.raises(OptionError, match="wheel: '0' is not"):
        made(Options, {"name": "x", "wheel": (1, 0)})
    (wheel,) = [each for each in options_of(Options) if each.name == "wheel"]
    assert wheel.help == "a wheel of this size (may be given several times)"
