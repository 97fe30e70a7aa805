"""Split rings as drivers use them (V001 to V023)."""

from __future__ import annotations

from vhost_user.conformance.bench import Bench
from vhost_user.conformance.check import Deviation, Level, Skip, check
from vhost_user.engine.driver_split import SplitDriverQueue
from vhost_user.frontend.queue import Queue
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.ring import DescriptorFlag

MUST, SHOULD, ROBUSTNESS = Level
RING = "virtio 1.4, 2.7"
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT


def layout(bench: Bench, queue: Queue) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]:
    """A request in memory: readable and writable segments, the writable address and its size."""
    profile = bench.profile
    readable, size = profile.readable(), profile.writable()
    address = queue.memory.allocate(len(readable) + size + 64, 4096)
    queue.memory.write(address, readable)
    answer = address + len(readable)
    if size:
        queue.memory.fill(answer, size, 0xA5)
    return [(address, len(readable))] if readable else [], [(answer, size)] if size else [], answer, size


def bytewise(segments: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """The first ``most`` bytes one by one, then the rest."""
    pieces = []
    for address, length in segments:
        single = min(most, length - 1)
        pieces += [(address + i, 1) for i in range(single)]
        pieces.append((address + single, length - single))
        most -= single
    return pieces


@check("V002-sizes", MUST, RING, "A ring has any power of two of descriptors up to what the device allows.")
def sizes(bench: Bench) -> None:
    """Rings of small and large sizes work all the way around."""
    bench.need_io()
    for size in (2, 4, 128):
        driver = bench.driver(queue_size=size)
        bench.exchange(bench.queue(driver), min(2 * size + 1, 40))
        bench.drop(driver)


@check("V002-index-wrap", MUST, RING, "Ring indices run freely and go from 65535 to 0.")
def index_wrap(bench: Bench) -> None:
    """Rings go on when their indices pass 65535."""
    bench.need_io()
    driver = bench.driver(start=0xFFFA, queue_size=16)
    bench.exchange(bench.queue(driver), 20)


@check("V005-full-chain", MUST, RING, "A chain may have as many descriptors as the ring.")
def full_chain(bench: Bench) -> None:
    """A chain that takes up the whole ring works."""
    bench.need_answer()
    driver = bench.driver(queue_size=8)
    queue = bench.queue(driver)
    readable, writable, answer, size = layout(bench, queue)
    if len(readable) + size < 8:
        raise Skip("the request is too short for eight descriptors")
    several = 8 - len(readable)
    step = size // several
    pieces = [(answer + i * step, step) for i in range(several - 1)]
    pieces.append((answer + (several - 1) * step, size - (several - 1) * step))
    del writable
    for _ in range(2):
        _raw(bench, queue, readable, pieces, answer, size)


@check(
    "V009-framing",
    MUST,
    "virtio 1.4, 2.7.4",
    "A device makes no assumption about how a request is cut into descriptors.",
)
def framing(bench: Bench) -> None:
    """A request cut into descriptors of one byte works."""
    bench.need_answer()
    driver = bench.driver(queue_size=128)
    queue = bench.queue(driver)
    readable, writable, answer, size = layout(bench, queue)
    end = writable[0]
    pieces = [*bytewise([(end[0], end[1] - 1)], 20), (end[0] + end[1] - 1, 1)]
    _raw(bench, queue, bytewise(readable, 40), pieces, answer, size)


@check(
    "V013-read-only",
    MUST,
    "virtio 1.4, 2.7.5.1",
    "A device writes neither to device-readable buffers nor to the descriptor table and the available ring.",
)
def read_only(bench: Bench) -> None:
    """Device-readable buffers, descriptors and available ring stay as they were."""
    bench.need_io()
    driver = bench.driver()
    queue = bench.queue(driver)
    ring = queue.ring
    readable, writable, answer, size = layout(bench, queue)
    ring.add(readable, writable)
    ring.publish()
    memory = queue.memory
    areas = [
        ("the descriptor table", ring.descriptor_address, 16 * ring.size),
        ("the available ring", ring.driver_address, 4 + 2 * ring.size),
        *(("a device-readable buffer", address, length) for address, length in readable),
    ]
    before = [memory.read(address, length) for _, address, length in areas]
    ring.kick(force=True)
    if not ring.wait(bench.timeout):
        raise Deviation(f"a request is not completed within {bench.timeout} s")
    after = [memory.read(address, length) for _, address, length in areas]
    for (what, address, length), one, two in zip(areas, before, after, strict=True):
        # The driver's own wait touches flags and used_event, at the ends of the available ring.
        cut = 4 if what == "the available ring" else 0
        if one[cut:] != two[cut:]:
            raise Deviation(f"{what} ({address:#x}+{length:#x}) is written")
    bench.profile.verify(memory.read(answer, size), (ring.poll() or (0, 0))[1])


@check(
    "V014-used-length",
    MUST,
    "virtio 1.4, 2.7.8.2",
    "The used length is no larger than what was written into the device-writable part.",
)
def used_length(bench: Bench) -> None:
    """The used length is not more than was written, nor more than fits."""
    bench.need_answer()
    driver = bench.driver()
    queue = bench.queue(driver)
    answers = []
    for pattern in (0xA5, 0x5A):
        readable, writable, answer, size = layout(bench, queue)
        queue.memory.fill(answer, size, pattern)
        queue.ring.add(readable, writable)
        length = complete(bench, queue, answer, size)
        if length > size:
            raise Deviation(f"used.len is {length}, {size} bytes are writable")
        answers.append(queue.memory.read(answer, length))
    # A byte that still has the pattern of each time was written neither time.
    untouched = sum(one == 0xA5 and two == 0x5A for one, two in zip(*answers, strict=False))
    if untouched > 2:  # rarely random data look like the patterns
        raise Deviation(f"used.len is {len(answers[0])}, of those bytes {untouched} were not written")


@check("V008-indirect", MUST, "virtio 1.4, 2.7.5.3", "A chain may be in an indirect table.")
def indirect(bench: Bench) -> None:
    """Requests in indirect tables work, also longer ones than the ring."""
    bench.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    bench.need_io()
    driver = bench.driver(indirect=True, queue_size=16)
    queue = bench.queue(driver)
    readable, writable, answer, size = layout(bench, queue)
    if len(readable) + len(writable) > 1:
        _raw(bench, queue, readable, writable, answer, size, indirect=True)
    cut = bytewise(writable, 12)
    _raw(bench, queue, readable, cut, answer, size, indirect=True)


@check(
    "V008-mixed",
    MUST,
    "virtio 1.4, 2.7.5.3.2",
    "A device handles descriptors that are followed by one for an indirect table.",
)
def mixed(bench: Bench) -> None:
    """Direct descriptors followed by an indirect table work."""
    bench.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    bench.need_io()
    driver = bench.driver(indirect=True)
    queue = bench.queue(driver)
    readable, writable, answer, size = layout(bench, queue)
    _raw(bench, queue, bytewise(readable, 1), bytewise(writable, 3), answer, size, indirect=True, direct=1)


@check(
    "V008-ignored-flag",
    MUST,
    "virtio 1.4, 2.7.5.3.2",
    "A device ignores the write flag of the descriptor that points to an indirect table.",
)
def ignored_flag(bench: Bench) -> None:
    """The write flag on an indirect descriptor means nothing."""
    bench.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    bench.need_io()
    driver = bench.driver(indirect=True)
    queue = bench.queue(driver)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    readable, writable, answer, size = layout(bench, queue)
    segments = readable + bytewise(writable, 1)
    ring.add(readable, bytewise(writable, 1), indirect=True)
    address, length, flags, following = ring.read_descriptor(0)
    if not flags & INDIRECT:
        raise Skip(f"the driver put {len(segments)} descriptors elsewhere")
    ring.write_descriptor(0, address, length, flags | WRITE, following)
    complete(bench, queue, answer, size)


@check("V023-many", MUST, "virtio 1.4, 2.7.13", "Every buffer comes back exactly once.")
def many(bench: Bench) -> None:
    """Many requests at once all come back, each once."""
    bench.need_io()
    driver = bench.driver(queue_size=128)
    queue = bench.queue(driver)
    for _ in range(4):
        several = [bench.submit(queue, publish=False) for _ in range(32)]
        queue.publish()
        for pending in several:
            bench.finish(pending)


@check(
    "V041-in-order",
    MUST,
    "virtio 1.4, 2.7.9",
    "With IN_ORDER buffers are used in the order they were made available.",
)
def in_order(bench: Bench) -> None:
    """With IN_ORDER requests come back in order."""
    bench.need_feature(VirtioFeature.IN_ORDER)
    bench.need_io()
    driver = bench.driver(in_order=True, queue_size=128)
    queue = bench.queue(driver)
    several = [bench.submit(queue, publish=False) for _ in range(32)]
    queue.publish()
    for pending in several:
        bench.finish(pending)


def _raw(  # noqa: PLR0917  # the parts of a request
    bench: Bench,
    queue: Queue,
    readable: list[tuple[int, int]],
    writable: list[tuple[int, int]],
    answer: int,
    size: int,
    *,
    indirect: bool = False,
    direct: int = 0,
) -> None:
    queue.ring.add(readable, writable, indirect=indirect, direct=direct)
    complete(bench, queue, answer, size)


def complete(bench: Bench, queue: Queue, answer: int, size: int) -> int:
    """Publish what was added, wait for it and check the answer; returns used.len."""
    ring = queue.ring
    ring.publish()
    ring.kick(force=True)
    if not ring.wait(bench.timeout):
        raise Deviation(f"a request is not completed within {bench.timeout} s")
    done = ring.poll()
    if done is None:
        raise Deviation("the call is signalled, but nothing is used")
    bench.profile.verify(queue.memory.read(answer, size), done[1])
    return done[1]
