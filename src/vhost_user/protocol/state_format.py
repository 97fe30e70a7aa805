"""The format of a device's state, as SET_DEVICE_STATE_FD moves it (C124 to C127): docs/state-format.md.

What is read here may come from an attacker. Nothing is unpacked before a walk over the bytes has found that
it is plain data, no larger, no deeper and of no more parts than is allowed: msgpack itself makes room for as
many elements as an array claims to have.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from vhost_user.spec.errors import VhostUserError

MAGIC: Final = b"vu-state"
FORMAT: Final = 1
HEADER: Final = struct.Struct("<8sHHIQ")
"""Magic, format, bytes of the name, version of the device's state, bytes of the body; then name and body."""
LONGEST_NAME: Final = 255
LARGEST_BODY: Final = 64 << 20
"""Bytes of a body, and so of the bytes and text in it."""
LARGEST_STATE: Final = HEADER.size + LONGEST_NAME + LARGEST_BODY
"""Bytes of a whole state: whoever reads one stops there."""
MOST_PARTS: Final = 1 << 18
"""Numbers, texts, lists … in a body; each costs some 100 bytes of memory at most."""
DEEPEST: Final = 32
"""Lists and maps inside each other."""

_SMALLEST, _LARGEST = -(1 << 63), (1 << 64) - 1
_LENGTHS: Final = {
    **dict.fromkeys((0xC4, 0xD9), 1), **dict.fromkeys((0xC5, 0xDA, 0xDC, 0xDE), 2),
    **dict.fromkeys((0xC6, 0xDB, 0xDD, 0xDF), 4),
}  # fmt: skip
"""First bytes that a length follows, with the bytes of that."""
_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
"""First bytes of nil, booleans and numbers, with the bytes that follow."""


class StateFormatError(VhostUserError, ValueError):
    """These bytes are not a state that can be read, or this object is not one that can be written."""


def encode_state(name: str, version: int, body: object) -> bytes:
    """The bytes of ``body``, which is plain data: the state of a device called ``name``, in its ``version``.

    Plain data is None, booleans, numbers of 64 bits, floats, text, bytes-like objects, and lists, tuples and
    mappings of them; keys are text. Raises StateFormatError, with the place of what cannot be written.
    """
    import msgpack  # noqa: PLC0415 - a program that moves no state does not wait for it

    named = name.encode()
    if not 0 < len(named) <= LONGEST_NAME:
        raise StateFormatError(f"the name of a state has 1 to {LONGEST_NAME} bytes, not {len(named)}")
    packed: bytes = msgpack.packb(_Plain().checked(body, "the state", 0), use_bin_type=True)
    if len(packed) > LARGEST_BODY:
        raise StateFormatError(f"the state has {len(packed)} bytes; at most {LARGEST_BODY} can be moved")
    return HEADER.pack(MAGIC, FORMAT, len(named), version, len(packed)) + named + packed


def decode_state(data: bytes, name: str, newest: int) -> tuple[Any, int]:
    """The body and its version, of a state that a device called ``name`` saved.

    ``newest`` is the latest version that can be loaded. Raises StateFormatError for anything else (C127).
    """
    if len(data) < HEADER.size:
        raise StateFormatError(f"{len(data)} bytes are not a state: its header alone has {HEADER.size}")
    magic, form, name_length, version, length = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise StateFormatError(f"this is not a state of this format: it begins with {magic!r}, not {MAGIC!r}")
    if form != FORMAT:
        raise StateFormatError(f"the state has format {form}; format {FORMAT} can be read")
    if name_length > LONGEST_NAME or length > LARGEST_BODY:
        raise StateFormatError(
            f"the state claims a name of {name_length} bytes and a body of {length}; "
            f"at most {LONGEST_NAME} and {LARGEST_BODY} can be read"
        )
    whole = HEADER.size + name_length + length
    if len(data) != whole:
        what = "cut short" if len(data) < whole else "followed by something else"
        raise StateFormatError(f"the state is {what}: it has {len(data)} bytes and says {whole}")
    saved_by = data[HEADER.size : HEADER.size + name_length].decode(errors="replace")
    if saved_by != name:
        raise StateFormatError(f"the state was saved by another device: {saved_by!r}, not {name!r}")
    if version > newest:
        raise StateFormatError(
            f"the state of {name} has version {version}; this device knows versions up to {newest}"
        )
    return _unpacked(data[HEADER.size + name_length :]), version


def _unpacked(body: bytes) -> Any:
    import msgpack  # noqa: PLC0415 - as above

    _look_over(body)
    try:
        return msgpack.unpackb(body, raw=False, use_list=True, strict_map_key=True)
    except (ValueError, TypeError) as error:  # text that is not UTF-8, say
        raise StateFormatError(f"the body of the state cannot be read: {error}") from error


class _Plain:
    """Looks an object over before it is written, counting its parts."""

    def __init__(self) -> None:
        self._parts = 0

    def checked(self, value: object, place: str, depth: int) -> object:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise StateFormatError(f"the state has more than {MOST_PARTS} parts; put many alike into bytes")
        if value is None or isinstance(value, (bool, float, str, bytes)):
            return value
        if isinstance(value, int):
            if not _SMALLEST <= value <= _LARGEST:
                raise StateFormatError(f"{place} is {value}, which has more than 64 bits")
            return int(value)
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if not isinstance(value, (list, tuple, Mapping)):
            raise StateFormatError(
                f"{place} is a {type(value).__name__}: a state is made of None, booleans, numbers, text, "
                "bytes, lists, and mappings with text for keys"
            )
        if depth == DEEPEST:
            raise StateFormatError(f"{place} lies deeper than {DEEPEST} lists and mappings")
        if isinstance(value, Mapping):
            return {
                self._key(key, place): self.checked(entry, f"{place}[{key!r}]", depth + 1)
                for key, entry in value.items()
            }
        return [self.checked(entry, f"{place}[{number}]", depth + 1) for number, entry in enumerate(value)]

    def _key(self, key: object, place: str) -> str:
        self._parts += 1
        if not isinstance(key, str):
            raise StateFormatError(
                f"{place} has the key {key!r}: keys are text; a list of pairs keeps others"
            )
        return str(key)


def _look_over(body: bytes) -> None:
    """Walk over msgpack.

    StateFormatError unless it is one plain object within the limits, and nothing else.
    """
    position, parts = 0, 0
    open_parts: list[list[int]] = []
    """Of each list and map that has begun: how many parts are missing, and whether it is a map."""
    while True:
        parts += 1
        if parts > MOST_PARTS:
            raise StateFormatError(f"the body of the state has more than {MOST_PARTS} parts")
        first, position = _number(body, position, 1)
        of_map = bool(open_parts) and open_parts[-1][1] and open_parts[-1][0] % 2 == 0
        kind, length = first, 0
        if first in _LENGTHS:
            length, position = _number(body, position, _LENGTHS[first])
        elif 0x80 <= first <= 0xBF:
            kind = (0xDE, 0xDC, 0xD9, 0xD9)[(first >> 4) - 8]
            length = first & (0x1F if kind == 0xD9 else 0xF)
        if of_map and kind not in (0xD9, 0xDA, 0xDB):
            raise StateFormatError("the body of the state has a map whose keys are not all text")
        if kind in (0xDC, 0xDD, 0xDE, 0xDF):
            if len(open_parts) == DEEPEST:
                raise StateFormatError(f"the body of the state is deeper than {DEEPEST} lists and maps")
            is_map = kind in (0xDE, 0xDF)
            open_parts.append([length * 2 if is_map else length, is_map])
            if length > len(body) - position:  # each part has a byte at least
                raise _cut_short()
        elif kind in _LENGTHS:
            position += length
        elif kind in _FIXED:
            position += _FIXED[kind]
        elif 0xC0 <= kind < 0xE0:
            raise StateFormatError(f"the body of the state has something else than plain data (0x{kind:02x})")
        if position > len(body):
            raise _cut_short()
        if open_parts and kind not in (0xDC, 0xDD, 0xDE, 0xDF):
            open_parts[-1][0] -= 1
        while open_parts and not open_parts[-1][0]:
            open_parts.pop()
            if open_parts:
                open_parts[-1][0] -= 1
        if not open_parts:
            break
    if position != len(body):
        raise StateFormatError(f"{len(body) - position} bytes follow the body of the state")


def _number(body: bytes, position: int, size: int) -> tuple[int, int]:
    end = position + size
    if end > len(body):
        raise _cut_short()
    return int.from_bytes(body[position:end], "big"), end


def _cut_short() -> StateFormatError:
    return StateFormatError("the body of the state ends in the middle of something")
