"""Split rings as drivers use them (V001 to V023)."""

from __future__ import annotations

from vhost_user.conformance.check import Level, check
from vhost_user.conformance.context import CheckContext
from vhost_user.conformance.findings import Deviation, Skip
from vhost_user.conformance.raw_requests import bytewise, complete, layout
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.frontend.queue import Queue
from vhost_user.spec.features import VirtioFeature
from vhost_user.spec.ring import DescriptorFlag

MUST, SHOULD, ROBUSTNESS = Level
RING = "virtio 1.4, 2.7"
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT


@check("V002-sizes", MUST, RING, "A ring has any power of two of descriptors up to what the device allows.")
def sizes(context: CheckContext) -> None:
    """Rings of small and large sizes work all the way around."""
    context.need_io()
    for size in (2, 4, 128):
        driver = context.driver(queue_size=size)
        context.exchange(context.queue(driver), min(2 * size + 1, 40))
        context.drop(driver)


@check("V002-index-wrap", MUST, RING, "Ring indices run freely and go from 65535 to 0.")
def index_wrap(context: CheckContext) -> None:
    """Rings go on when their indices pass 65535."""
    context.need_io()
    driver = context.driver(start=0xFFFA, queue_size=16)
    context.exchange(context.queue(driver), 20)


@check("V005-full-chain", MUST, RING, "A chain may have as many descriptors as the ring.")
def full_chain(context: CheckContext) -> None:
    """A chain that takes up the whole ring works."""
    context.need_answer()
    driver = context.driver(queue_size=8)
    queue = context.queue(driver)
    readable, writable, answer, size = layout(context, queue)
    if len(readable) + size < 8:
        raise Skip("the request is too short for eight descriptors")
    several = 8 - len(readable)
    step = size // several
    pieces = [(answer + i * step, step) for i in range(several - 1)]
    pieces.append((answer + (several - 1) * step, size - (several - 1) * step))
    del writable
    for _ in range(2):
        _raw(context, queue, readable, pieces, answer, size)


@check(
    "V009-framing",
    MUST,
    "virtio 1.4, 2.7.4",
    "A device makes no assumption about how a request is cut into descriptors.",
)
def framing(context: CheckContext) -> None:
    """A request cut into descriptors of one byte works."""
    context.need_answer()
    driver = context.driver(queue_size=128)
    queue = context.queue(driver)
    readable, writable, answer, size = layout(context, queue)
    end = writable[0]
    pieces = [*bytewise([(end[0], end[1] - 1)], 20), (end[0] + end[1] - 1, 1)]
    _raw(context, queue, bytewise(readable, 40), pieces, answer, size)


@check(
    "V013-read-only",
    MUST,
    "virtio 1.4, 2.7.5.1",
    "A device writes neither to device-readable buffers nor to the descriptor table and the available ring.",
)
def read_only(context: CheckContext) -> None:
    """Device-readable buffers, descriptors and available ring stay as they were."""
    _, queue = context.serving()
    ring = queue.ring
    readable, writable, answer, size = layout(context, queue)
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
    if not ring.wait(context.timeout):
        raise Deviation(f"a request is not completed within {context.timeout} s")
    after = [memory.read(address, length) for _, address, length in areas]
    for (what, address, length), one, two in zip(areas, before, after, strict=True):
        # The driver's own wait touches flags and used_event, at the ends of the available ring.
        cut = 4 if what == "the available ring" else 0
        if one[cut:] != two[cut:]:
            raise Deviation(f"{what} ({address:#x}+{length:#x}) is written")
    context.profile.verify(memory.read(answer, size), (ring.poll() or (0, 0))[1])


@check(
    "V014-used-length",
    MUST,
    "virtio 1.4, 2.7.8.2",
    "The used length is no larger than what was written into the device-writable part.",
)
def used_length(context: CheckContext) -> None:
    """The used length is not more than was written, nor more than fits."""
    context.need_answer()
    driver = context.driver()
    queue = context.queue(driver)
    answers = []
    for pattern in (0xA5, 0x5A):
        readable, writable, answer, size = layout(context, queue)
        queue.memory.fill(answer, size, pattern)
        queue.ring.add(readable, writable)
        length = complete(context, queue, answer, size)
        if length > size:
            raise Deviation(f"used.len is {length}, {size} bytes are writable")
        answers.append(queue.memory.read(answer, length))
    # A byte that still has the pattern of each time was written neither time.
    untouched = sum(one == 0xA5 and two == 0x5A for one, two in zip(*answers, strict=False))
    if untouched > 2:  # rarely random data look like the patterns
        raise Deviation(f"used.len is {len(answers[0])}, of those bytes {untouched} were not written")


@check("V008-indirect", MUST, "virtio 1.4, 2.7.5.3", "A chain may be in an indirect table.")
def indirect(context: CheckContext) -> None:
    """Requests in indirect tables work, also longer ones than the ring."""
    context.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    _, queue = context.serving(indirect=True, queue_size=16)
    readable, writable, answer, size = layout(context, queue)
    if len(readable) + len(writable) > 1:
        _raw(context, queue, readable, writable, answer, size, indirect=True)
    cut = bytewise(writable, 2 * queue.ring.size)
    _raw(context, queue, readable, cut, answer, size, indirect=True)


@check(
    "V008-mixed",
    MUST,
    "virtio 1.4, 2.7.5.3.2",
    "A device handles descriptors that are followed by one for an indirect table.",
)
def mixed(context: CheckContext) -> None:
    """Direct descriptors followed by an indirect table work."""
    context.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    _, queue = context.serving(indirect=True)
    readable, writable, answer, size = layout(context, queue)
    # The one that is direct, and more for the table, of whichever part there is.
    readable, writable = bytewise(readable, 1 if writable else 3), bytewise(writable, 3)
    if len(readable) + len(writable) < 2:
        raise Skip("a request of this device is one byte: nothing is left for a table")
    _raw(context, queue, readable, writable, answer, size, indirect=True, direct=1)


@check(
    "V008-ignored-flag",
    MUST,
    "virtio 1.4, 2.7.5.3.2",
    "A device ignores the write flag of the descriptor that points to an indirect table.",
)
def ignored_flag(context: CheckContext) -> None:
    """The write flag on an indirect descriptor means nothing."""
    context.need_feature(VirtioFeature.RING_INDIRECT_DESC)
    _, queue = context.serving(indirect=True)
    ring = queue.ring
    assert isinstance(ring, SplitDriverQueue)
    readable, writable, answer, size = layout(context, queue)
    segments = readable + bytewise(writable, 1)
    ring.add(readable, bytewise(writable, 1), indirect=True)
    address, length, flags, following = ring.read_descriptor(0)
    if not flags & INDIRECT:
        raise Skip(f"the driver put {len(segments)} descriptors elsewhere")
    ring.write_descriptor(0, address, length, flags | WRITE, following)
    complete(context, queue, answer, size)


@check("V023-many", MUST, "virtio 1.4, 2.7.13", "Every buffer comes back exactly once.")
def many(context: CheckContext) -> None:
    """Many requests at once all come back, each once."""
    _, queue = context.serving(queue_size=128)
    for _ in range(4):
        several = [context.submit(queue, publish=False) for _ in range(32)]
        queue.publish()
        for pending in several:
            context.finish(pending)


@check(
    "V041-in-order",
    MUST,
    "virtio 1.4, 2.7.9",
    "With IN_ORDER buffers are used in the order they were made available.",
)
def in_order(context: CheckContext) -> None:
    """With IN_ORDER requests come back in order."""
    context.need_feature(VirtioFeature.IN_ORDER)
    _, queue = context.serving(in_order=True, queue_size=128)
    several = [context.submit(queue, publish=False) for _ in range(32)]
    queue.publish()
    for pending in several:
        context.finish(pending)


def _raw(  # noqa: PLR0917  # the parts of a request
    context: CheckContext,
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
    complete(context, queue, answer, size)
