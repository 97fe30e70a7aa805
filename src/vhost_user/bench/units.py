"""Numbers as people read and write them: sizes, rates, times."""

from __future__ import annotations

import re

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes: ``512``, ``4K``, ``1M``, powers of 1024. Raises ValueError."""
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is not a size; write a number of bytes or something like 64K or 1M")
    return int(match[1]) * _SIZES[match[2]]


def parse_mix(text: str) -> int:
    """The share of reads in percent: ``read`` 100, ``write`` 0, ``mixed`` 70, ``mixed=N`` N.

    Raises ValueError.
    """
    plain = {"read": 100, "write": 0, "mixed": 70}
    if text in plain:
        return plain[text]
    match = re.fullmatch(r"mixed=(\d{1,3})", text)
    if not match or int(match[1]) > 100:
        raise ValueError(f"{text!r} is not one of read, write, mixed, mixed=PERCENT-OF-READS")
    return int(match[1])


def mix_name(read_percent: int) -> str:
    """The inverse of ``parse_mix``."""
    return {100: "read", 0: "write"}.get(read_percent, f"mixed={read_percent}")


def show_size(size: int) -> str:
    """``4096`` → ``4 KiB``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def show_rate(rate: float) -> str:
    """Something a second: ``845 k``, ``1.62 M``."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rate >= unit:
            return f"{rate / unit:.3g}{name}"
    return f"{rate:.3g}"


def show_time(seconds: float) -> str:
    """``3.5 µs``, ``1.2 ms``."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.0f} ns"
