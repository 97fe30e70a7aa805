"""Names of events against those of the library evdev, which has them from the kernel's header."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import evdev
import pytest

from vhost_user.spec import input_codes, input_keys

KINDS = [
    kind
    for module in (input_codes, input_keys)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, IntEnum) and kind is not IntEnum
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_name_has_the_number_that_linux_gave_it(kind: type[IntEnum]) -> None:
    assert len(KINDS) == 11
    known: Callable[[str], int] = evdev.ecodes.ecodes.__getitem__
    assert {each.name: known(each.name) for each in kind} == {each.name: each.value for each in kind}
