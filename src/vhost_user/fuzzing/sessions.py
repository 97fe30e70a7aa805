"""Valid sessions as steps: what a front-end says, from the features that a back-end offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vhost_user.conformance.facts import Facts
from vhost_user.conformance.profile import Profile
from vhost_user.frontend.driver import DEFAULT_PROTOCOL_FEATURES
from vhost_user.fuzzing.layout import (
    BUFFERS,
    INFLIGHT,
    INFLIGHT_SIZE,
    SIZE,
    TABLE,
    Area,
    chain,
    guest,
    indirect,
    kick,
    user,
    write,
)
from vhost_user.fuzzing.steps import GUEST, MEMORY_SIZE, QUEUES, USER, Step, send
from vhost_user.protocol.framing import encode
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.ring import DESCRIPTOR, PACKED_DESCRIPTOR, DescriptorFlag
from vhost_user.spec.structs import (
    U64,
    Config,
    HeaderFlag,
    Inflight,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    VringAddress,
    VringState,
)

REQUEST = FrontendRequest
REGION = MemoryRegion(GUEST, MEMORY_SIZE, USER, 0)
CONNECT: Step = {"op": "connect"}
CLOSE: Step = {"op": "close"}
SETTLE: Step = {"op": "settle"}


@dataclass(frozen=True, slots=True)
class Script:
    """Writes sessions for one back-end: what it offers, its device type, the ring format to use."""

    facts: Facts
    profile: Profile
    packed: bool = False

    @property
    def queues(self) -> int:
        """Queues that a session sets up."""
        return min(self.profile.queues, self.facts.num_queues, QUEUES)

    @property
    def protocol(self) -> int:
        """Protocol features that a session acknowledges."""
        return int(self.facts.protocol_features & DEFAULT_PROTOCOL_FEATURES)

    def offers(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature is offered and will be acknowledged."""
        return bool(self.protocol & feature)

    def message(self, request: int, payload: Payload | bytes = b"", fds: Sequence[str] = ()) -> Step:
        """A message, with an ack asked for where that is possible."""
        data = payload if isinstance(payload, bytes) else payload.pack()
        ask = HeaderFlag.NEED_REPLY if self.offers(ProtocolFeature.REPLY_ACK) else 0
        return send(encode(request, 1 | ask, data), fds)

    def negotiation(self, *, log: bool = False) -> list[Step]:
        """Connect and agree on features."""
        wanted = (
            VirtioFeature.VERSION_1
            | VirtioFeature.PROTOCOL_FEATURES
            | VirtioFeature.RING_INDIRECT_DESC
            | VirtioFeature.RING_EVENT_IDX
            | (VirtioFeature.LOG_ALL if log else 0)
            | (VirtioFeature.RING_PACKED if self.packed else 0)
        )
        steps = [CONNECT, send(encode(REQUEST.GET_FEATURES, 1))]
        if self.facts.features & VirtioFeature.PROTOCOL_FEATURES:
            steps += [
                send(encode(REQUEST.GET_PROTOCOL_FEATURES, 1)),
                send(encode(REQUEST.SET_PROTOCOL_FEATURES, 1, U64(self.protocol).pack())),
            ]
        return [
            *steps,
            self.message(REQUEST.SET_OWNER),
            self.message(REQUEST.SET_FEATURES, U64(int(self.facts.features & wanted))),
        ]

    def memory(self) -> list[Step]:
        """Share the memory."""
        return [self.message(REQUEST.SET_MEM_TABLE, Memory((REGION,)), ["memory"])]

    def sparse_memory(self) -> list[Step]:
        """Announce post-copy, and share the memory as one whose pages come when they are wanted."""
        return [
            send(encode(REQUEST.POSTCOPY_ADVISE, 1)),
            self.message(REQUEST.POSTCOPY_LISTEN),
            send(encode(REQUEST.SET_MEM_TABLE, 1, Memory((REGION,)).pack()), ["memory"]),
            send(encode(REQUEST.SET_MEM_TABLE, 1, U64(0).pack())),
        ]

    def ring(
        self,
        queue: int,
        *,
        size: int = SIZE,
        base: int | None = None,
        sockets: bool = False,
        doorbells: bool = True,
    ) -> list[Step]:
        """Set one queue up and start it.

        ``base`` instead of that of a fresh ring; ``sockets``: with socket pairs as doorbells; without
        ``doorbells`` it has none, and is not started.
        """
        if base is None:
            base = 0x80008000 if self.packed else 0
        kind = "-socket" if sockets else ""
        area = Area(queue)
        addresses = VringAddress(queue, 0, user(area.descriptors), user(area.used), user(area.available))
        steps = [
            self.message(REQUEST.SET_VRING_NUM, VringState(queue, size)),
            self.message(REQUEST.SET_VRING_BASE, VringState(queue, base)),
            self.message(REQUEST.SET_VRING_ADDR, addresses),
        ]
        if not doorbells:
            return steps
        return [
            *steps,
            self.message(REQUEST.SET_VRING_ERR, U64(queue), ["eventfd"]),
            self.message(REQUEST.SET_VRING_CALL, U64(queue), [f"call{kind}:{queue}"]),
            self.message(REQUEST.SET_VRING_KICK, U64(queue), [f"kick{kind}:{queue}"]),
        ]

    def blank(self) -> list[Step]:
        """Wipe the rings: the memory is the same in every session."""
        return [write(Area(queue).descriptors, bytes(0x5000), "blank ring") for queue in range(self.queues)]

    def inflight(self, area: bytes = b"") -> list[Step]:
        """Hand over an in-flight area, with these bytes at its beginning."""
        if not self.offers(ProtocolFeature.INFLIGHT_SHMFD):
            return []
        numbers = Inflight(INFLIGHT_SIZE, INFLIGHT, self.queues, SIZE)
        return [
            write(INFLIGHT, area.ljust(INFLIGHT_SIZE, b"\0"), "in-flight area"),
            self.message(REQUEST.SET_INFLIGHT_FD, numbers, ["memory"]),
        ]

    def enable(self) -> list[Step]:
        """Enable the rings."""
        if not self.facts.features & VirtioFeature.PROTOCOL_FEATURES:
            return []
        return [self.message(REQUEST.SET_VRING_ENABLE, VringState(queue, 1)) for queue in range(self.queues)]

    def up(
        self,
        *,
        log: bool = False,
        base: int | None = None,
        sockets: bool = False,
        enable_first: bool = False,
        doorbells: bool = True,
        inflight: bytes | None = None,
        postcopy: bool = False,
    ) -> list[Step]:
        """Everything until the rings run.

        ``base``, ``sockets`` and ``doorbells`` as for ``ring``; ``enable_first``: before the features, as
        QEMU's net does; ``inflight``: with an in-flight area that has these bytes; ``postcopy``: the memory
        comes without its pages.
        """
        negotiation = self.negotiation(log=log)
        if enable_first:
            negotiation[-1:-1] = self.enable()
        steps = [*self.blank(), *negotiation, *(self.sparse_memory() if postcopy else self.memory())]
        if inflight is not None:
            steps += self.inflight(inflight)
        for queue in range(self.queues):
            steps += self.ring(queue, base=base, sockets=sockets, doorbells=doorbells)
        if not enable_first:
            steps += self.enable()
        if self.offers(ProtocolFeature.STATUS):
            steps.append(self.message(REQUEST.SET_STATUS, U64(0xF)))
        return steps

    def request(self, *, at: int = 0, cut: int = 1) -> list[Step]:
        """One valid request in the queue of the device, its writable part in ``cut`` descriptors."""
        readable = self.profile.readable() or (b"" if self.profile.works else bytes(16))
        size = self.profile.writable() or 64
        steps = [write(BUFFERS, readable, "request")] if readable else []
        parts = [(guest(BUFFERS), len(readable), False)] if readable else []
        piece = size // cut
        for number in range(cut):
            length = size - piece * (cut - 1) if number + 1 == cut else piece
            parts.append((guest(BUFFERS + 0x1000 + number * piece), length, True))
        queue = min(self.profile.queue, self.queues - 1)
        return [*steps, *chain(parts, packed=self.packed, at=at, queue=queue), kick(queue)]

    def extras(self) -> list[Step]:
        """Valid messages that a running session may see."""
        steps = [
            send(encode(REQUEST.GET_FEATURES, 1)),
            self.message(REQUEST.SET_VRING_CALL, U64(0), ["call:0"]),
        ]
        if self.offers(ProtocolFeature.CONFIG):
            steps += [
                send(encode(REQUEST.GET_CONFIG, 1, Config(0, bytes(32)).pack())),
                self.message(REQUEST.SET_CONFIG, Config(32, b"\x01")),
            ]
        if self.offers(ProtocolFeature.LOG_SHMFD):
            steps.append(self.message(REQUEST.SET_LOG_BASE, Log(0x10000, 0), ["memfd:65536"]))
        if self.offers(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            slot = MemorySlot(MemoryRegion(0x40000000, 0x10000, 0x7F5000000000, 0))
            steps += [
                send(encode(REQUEST.GET_MAX_MEM_SLOTS, 1)),
                self.message(REQUEST.ADD_MEM_REG, slot, ["memfd:65536"]),
                self.message(REQUEST.REM_MEM_REG, slot),
            ]
        if self.offers(ProtocolFeature.BACKEND_REQ):
            steps.append(self.message(REQUEST.SET_BACKEND_REQ_FD, b"", ["socket"]))
        if self.offers(ProtocolFeature.STATUS):
            steps += [send(encode(REQUEST.GET_STATUS, 1))]
        if self.offers(ProtocolFeature.MQ):
            steps.append(send(encode(REQUEST.GET_QUEUE_NUM, 1)))
        return [*steps, self.message(REQUEST.SET_MEM_TABLE, Memory((REGION,)), ["memory"])]

    def down(self) -> list[Step]:
        """Stop the rings and leave."""
        return [*self.stop(), SETTLE, CLOSE]

    def whole(self) -> list[Step]:
        """A whole session with some requests."""
        return [*self.up(), *self.request(), SETTLE, *self.extras(), *self.down()]

    def stop(self) -> list[Step]:
        """Stop the rings."""
        return [
            send(encode(REQUEST.GET_VRING_BASE, 1, VringState(queue, 0).pack()))
            for queue in range(self.queues)
        ]

    def again(self) -> list[Step]:
        """A device that is unplugged, and plugged again on the same connection, as QEMU does it."""
        plug = [step for step in self.up() if step["op"] != "connect"]
        return [*self.up(), *self.request(), SETTLE, *self.stop(), *plug, *self.request(), *self.down()]

    def seeds(self) -> list[list[Step]]:
        """Valid sessions as different front-ends have them, for mutation."""
        queue = min(self.profile.queue, self.queues - 1)
        doorbells = [*self.up(sockets=True), *self.request()[:-1], kick(queue, by="socket"), SETTLE]
        seeds = [
            self.whole(),
            [*self.up(enable_first=True), *self.request(), *self.down()],
            [*doorbells, *self.down()],
            self.again(),
            [*self.up(), *self.long_table(64), kick(queue), SETTLE, *self.down()],
            [*self.up(inflight=b""), *self.request(), *self.extras(), *self.down()],
        ]
        if self.offers(ProtocolFeature.PAGEFAULT):
            end = send(encode(REQUEST.POSTCOPY_END, 1))
            seeds.append([*self.up(postcopy=True), *self.request(), end, SETTLE, *self.down()])
        if self.packed:
            seeds += [
                [*self.up(base=base), *self.request(), *self.extras(), *self.down()] for base in (0, 0x8000)
            ]
        return seeds

    def long_table(self, entries: int, *, length: int = 8) -> list[Step]:
        """A request whose indirect table has more descriptors than the ring, each ``length`` bytes long."""
        readable = self.profile.readable() or (b"" if self.profile.works else bytes(16))
        queue = min(self.profile.queue, self.queues - 1)
        parts = [(guest(BUFFERS), len(readable), 0)] if readable else []
        while len(parts) < entries:
            parts.append(
                (guest(BUFFERS + 0x1000 + 8 * (len(parts) % 1024)), length, int(DescriptorFlag.WRITE))
            )
        if self.packed:
            table = b"".join(
                PACKED_DESCRIPTOR.pack(address, size, 0, flags) for address, size, flags in parts
            )
        else:
            table = b"".join(
                DESCRIPTOR.pack(
                    address,
                    size,
                    flags | (DescriptorFlag.NEXT if number < len(parts) else 0),
                    number & 0xFFFF,
                )
                for number, (address, size, flags) in enumerate(parts, 1)
            )
        return [
            write(BUFFERS, readable, "request"),
            write(TABLE, table, f"indirect table of {entries}"),
            *indirect(guest(TABLE), len(table), packed=self.packed, queue=queue),
        ]
