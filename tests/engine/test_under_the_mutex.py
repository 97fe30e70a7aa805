"""No Python object is freed under a vring's mutex: whatever is replaced there has another reference."""

from __future__ import annotations

import re
from pathlib import Path

import vhost_user.engine.device

FOLDER = Path(str(vhost_user.engine.device.__file__)).parent
FIELD = re.compile(r"^    cdef (?:readonly )?(?:object|[A-Z]\w+) (\w+)\b", re.MULTILINE)
NUMBERS = {"kick_bell", "call_bell", "err_bell", "counts"}
"""Structures, which are no Python objects."""


def replaced_without_a_reference(text: str, fields: set[str]) -> tuple[int, list[str]]:
    """How many objects are replaced with a mutex held, and the lines that would free the one before."""
    held, kept, count, found = False, set[str](), 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r" +lock(_nogil)?\(.*mutex", line):
            held, kept = True, set()
        elif re.match(r" +unlock\(.*mutex", line):
            held = False
        elif held and (reference := re.match(r" +\w+ = (?:self|state|self\.state)\.(\w+)$", line)):
            kept.add(reference[1])
        elif held and (change := re.match(r" +(?:self|state|self\.state)\.(\w+) = ", line)):
            count += change[1] in fields
            if change[1] in fields - kept:
                found.append(f"{number}: {line.strip()}")
    return count, found


def test_what_is_replaced_under_the_mutex_is_freed_without_it() -> None:
    fields = set(FIELD.findall((FOLDER / "vring_state.pxd").read_text())) - NUMBERS
    assert {"ring", "memory", "iotlb", "error", "area", "problem"} <= fields
    total = 0
    for path in sorted(FOLDER.glob("*.py")):
        count, found = replaced_without_a_reference(path.read_text(), fields)
        assert not found, f"{path.name} frees an object under the mutex, line {', '.join(found)}"
        total += count
    assert total >= 10
