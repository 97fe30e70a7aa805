"""Layout and constants of rings: once in the engine, and the same as in the specification's data."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from vhost_user.spec import ring
from vhost_user.spec.ring import AvailableFlag, DescriptorFlag, EventFlag, UsedFlag

ENGINE = Path(__file__).resolve().parents[2] / "src" / "vhost_user" / "engine"
LAYOUT = ENGINE / "ring_layout.pxd"
CONSTANTS = {
    name: int(value, 0) for name, value in re.findall(r"^    (\w+) = (\w+)", LAYOUT.read_text(), re.MULTILINE)
}
PLACES = {
    name: (argument, body)
    for name, argument, body in re.findall(
        r"cdef inline uint64_t (\w+)\(uint64_t (\w+)\) noexcept nogil:\n    return (.*)\n", LAYOUT.read_text()
    )
}


def place(name: str, value: int) -> int:
    """What an inline function of the layout returns."""
    argument, body = PLACES[name]
    return int(eval(body, {argument: value}))


def field(layout: str, number: int) -> int:
    """Where a field of a struct begins: the struct module says it of the format up to there."""
    return struct.calcsize(layout[: 1 + number])


def test_constants() -> None:
    assert {
        "F_NEXT": DescriptorFlag.NEXT,
        "F_WRITE": DescriptorFlag.WRITE,
        "F_INDIRECT": DescriptorFlag.INDIRECT,
        "F_AVAIL": DescriptorFlag.AVAILABLE,
        "F_USED": DescriptorFlag.USED,
        "NO_INTERRUPT": AvailableFlag.NO_INTERRUPT,
        "NO_NOTIFY": UsedFlag.NO_NOTIFY,
        "EVENT_ENABLE": EventFlag.ENABLE,
        "EVENT_DISABLE": EventFlag.DISABLE,
        "EVENT_DESCRIPTOR": EventFlag.DESCRIPTOR,
        "POSITION": ring.PACKED_BASE_INDEX_MASK,
        "DESCRIPTOR_SIZE": ring.DESCRIPTOR_SIZE,
        "EVENT_SIZE": ring.EVENT_SUPPRESSION_SIZE,
        "INDEX_AT": field("<HH", 1),
        "ID_AT": field(ring.PACKED_DESCRIPTOR.format, 2),
        "FLAGS_AT": field(ring.PACKED_DESCRIPTOR.format, 3),
    } == CONSTANTS


@pytest.mark.parametrize("size", [1, 2, 256, ring.MAX_QUEUE_SIZE])
def test_V001_places(size: int) -> None:
    assert place("descriptor_at", size) == ring.descriptor_table_size(size)
    assert place("avail_size", size) == ring.available_ring_size(size)
    assert place("used_size", size) == ring.used_ring_size(size)
    # The event field is the last one; before it come flags, index and entries.
    assert place("used_event_at", size) == ring.available_ring_size(size) - 2
    assert place("avail_event_at", size) == ring.used_ring_size(size) - 2
    assert place("avail_entry_at", size) == place("used_event_at", size)
    assert place("used_entry_at", size) == place("avail_event_at", size)
    assert place("used_entry_at", 1) - place("used_entry_at", 0) == ring.USED_ELEMENT_SIZE
    assert len(PLACES) == 7


def test_nobody_declares_them_again() -> None:
    again = re.compile(rf"^\s*({'|'.join(CONSTANTS)}) = ", re.MULTILINE)
    sources = [path for path in ENGINE.rglob("*.p*") if path.suffix in {".py", ".pxd"} and path != LAYOUT]
    assert len(sources) > 40
    assert [path.name for path in sources if again.search(path.read_text())] == []
