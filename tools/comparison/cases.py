"""What is compared: cases, each a load and the back-ends that carry it in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from tools.comparison.contenders import CONTENDERS, CPUS, Contender
from vhost_user.bench.measure import Load
from vhost_user.bench.units import mix_name, show_size

SIZES = (512, 4096, 64 << 10, 1 << 20)
MIXES = (100, 0, 70)
DEPTHS = (1, 32, 128)
WOKEN_DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128)
WOKEN_DEPTHS_OF_TWO = (4, 8, 16)
QUEUE_COUNTS = (1, 2)
NEAR = 4 << 20
"""Bytes of a disk that stay in the caches: what is left of a comparison when nobody waits for memory."""
RAM = "RAM"
FILE = "file on tmpfs"


@dataclass(frozen=True, slots=True)
class Entry:
    """A back-end under a load; ``label`` tells it from the others of its case."""

    label: str
    contender: Contender
    load: Load


@dataclass(frozen=True, slots=True)
class Case:
    """Entries that are measured in turn. The first is what the others are compared with."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    cpus: tuple[int, ...] = ()
    """CPUs that the client and the back-ends share, all of their threads; none: no CPU is left out."""

    @property
    def base(self) -> Entry:
        """What the ratios are relative to."""
        return self.entries[0]


def _case(name: str, load: Load, contenders: Sequence[str], *, storage: str) -> Case:
    entries = tuple(Entry(CONTENDERS[each].title, CONTENDERS[each], load) for each in contenders)
    return Case(name, f"{storage}: {load}", entries)


def _variants(name: str, title: str, variants: Sequence[tuple[str, str, Load]]) -> Case:
    return Case(
        name,
        title,
        tuple(
            Entry(f"{CONTENDERS[contender].title}, {what}", CONTENDERS[contender], load)
            for contender, what, load in variants
        ),
    )


def essential_cases(plain: Load) -> list[Case]:
    """The ones that the targets are about; ``plain`` says how long each run is."""
    first = replace(plain, read_percent=100, size=4096, depth=32, queues=1)
    shallow = replace(first, depth=1)
    large = replace(first, size=1 << 20, depth=8)
    ram = ("qsd-null", "handle", "handle_batch", "fast", "blk", "zeroes", "null")
    file = ("qsd-file", "fast-file", "blk-file")
    few = ("qsd-null", "handle", "fast", "null")
    return [
        _case("depth32", first, ram, storage=RAM),
        _case("depth32-near", replace(first, span=NEAR), ram, storage=RAM),
        _case("depth1", shallow, ram, storage=RAM),
        _case("one-by-one", replace(first, batch=1), few, storage=RAM),
        _case("woken", replace(first, polling=False), few, storage=RAM),
        _case("file-depth32", first, file, storage=FILE),
        _case("file-depth1", shallow, file, storage=FILE),
        _case("large", large, ("qsd-null", "handle", "fast", "zeroes"), storage=RAM),
        _case("file-large", large, file, storage=FILE),
        _case("mixed", replace(first, read_percent=70), ("qsd-null", "handle", "fast"), storage=RAM),
        *_pairs(first),
    ]


def _pairs(first: Load) -> Iterator[Case]:
    """Cases that compare a back-end with itself under another load."""
    two = replace(first, queues=2)
    packed = replace(first, packed=True)
    unindexed = replace(first, event_idx=False)
    variants = [
        ("fast", "1 queue", first),
        ("fast", "2 queues", two),
        ("handle", "1 queue", first),
        ("handle", "2 queues", two),
        ("qsd-null", "2 queues", two),
    ]
    yield _variants("two-queues", f"{RAM}: {two}, against one queue", variants)
    one = replace(first, polling=False, cpus=CPUS)
    variants = [("fast-by-cpu", "1 queue", one), ("fast-by-cpu", "2 queues", replace(one, queues=2))]
    yield _variants("two-cpus", f"{RAM}: {one}, and two queues on two CPUs", variants)
    variants = [
        ("fast", "split", first),
        ("fast", "packed", packed),
        ("handle", "split", first),
        ("handle", "packed", packed),
    ]
    yield _variants("packed", f"{RAM}: {packed}, against the split ring", variants)
    variants = [
        ("fast", "on", first),
        ("fast", "off", unindexed),
        ("handle", "on", first),
        ("handle", "off", unindexed),
        ("qsd-null", "on", first),
        ("qsd-null", "off", unindexed),
    ]
    yield _variants("event-idx", f"{RAM}: {first}, event index on and off", variants)


def woken_cases(plain: Load) -> Iterator[Case]:
    """A client that sleeps until it is called, and everything on two CPUs: a matter of wake-ups."""
    first = replace(plain, read_percent=100, size=4096, polling=False)
    for queues, depths in ((2, WOKEN_DEPTHS_OF_TWO), (1, WOKEN_DEPTHS)):
        for depth in depths:
            load = replace(first, depth=depth, queues=queues)
            case = _case(f"woken-{queues}q-d{depth}", load, ("qsd-null", "handle", "fast"), storage=RAM)
            yield replace(case, title=f"{case.title}, on {len(CPUS)} CPUs", cpus=CPUS)


def full_cases(plain: Load) -> list[Case]:
    """Every size, mix, depth and number of queues on both storages, and each kind of ring at 4 KiB."""
    return [*essential_cases(plain), *woken_cases(plain), *_matrix(plain), *_rings(plain)]


def _matrix(plain: Load) -> Iterator[Case]:
    for storage, contenders in (
        (RAM, ("qsd-null", "handle", "handle_batch", "fast")),
        (FILE, ("qsd-file", "fast-file", "blk-file")),
    ):
        for size, mix, depth, queues in product(SIZES, MIXES, DEPTHS, QUEUE_COUNTS):
            load = replace(plain, size=size, read_percent=mix, depth=depth, queues=queues)
            name = f"{storage.split()[0].lower()}-{_short(size)}-{_word(mix)}-d{depth}-q{queues}"
            yield _case(name, load, contenders, storage=storage)


def _rings(plain: Load) -> Iterator[Case]:
    for mix, depth, contender in product(MIXES, DEPTHS, ("handle", "fast")):
        split = replace(plain, read_percent=mix, depth=depth)
        variants = [
            (
                contender,
                f"{'packed' if packed else 'split'}, event index {'on' if event_idx else 'off'}",
                replace(split, packed=packed, event_idx=event_idx),
            )
            for packed, event_idx in product((False, True), (True, False))
        ]
        yield _variants(
            f"ring-{contender}-{_word(mix)}-d{depth}",
            f"{RAM}: {show_size(split.size)} random {mix_name(mix)}, depth {depth}: kinds of ring",
            variants,
        )


def _word(mix: int) -> str:
    return mix_name(mix).split("=")[0]


def _short(size: int) -> str:
    return show_size(size).replace(" ", "").replace("iB", "").replace("B", "").lower()


def beside(cases: Sequence[Case], peers: Sequence[Contender]) -> list[Case]:
    """The cases that have qemu-storage-daemon with a disk in memory, the peers in front of it."""
    found = []
    for case in cases:
        if case.base.contender.name == "qsd-null":
            first = tuple(Entry(each.title, each, case.base.load) for each in peers)
            found.append(replace(case, entries=(*first, *case.entries)))
    return found
