"""The device of the fuzzer: it does everything, and after each operation the whole memory is looked at."""

from __future__ import annotations

import os
from contextlib import suppress

from tests.fuzz.hostile_driver import BASE, REGION, HostileDriver
from tests.fuzz.ring_model import Broken, Chain
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.request import Request
from vhost_user.engine.device.vring import Vring
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import MemoryFault, RequestError, RingError

ZEROS = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)


class Finding(AssertionError):  # noqa: N818 (the word for what a fuzzer finds)
    """The engine did something it must not."""


class CheckedDevice(HostileDriver):
    """The device's half of a scenario; the whole sets these."""

    vring: Vring
    regions: list[DriverRegion]
    in_order: bool
    tracked: bool
    held: list[tuple[Request, Chain]]
    taken: int
    returned: int
    cut: bool
    """A region was truncated: from then on only survival is checked."""
    slots_known: bool

    # ------------------------------------------------------------------ memory
    def memory(self) -> bytes:
        return b"".join(self.views)

    def changed_only(self, what: str, *allowed: tuple[int, int]) -> None:
        """Compare with the copy: nothing but these ranges may differ."""
        now = self.memory()
        if now != self.copy and not self.cut:
            expected = bytearray(self.copy)
            for address, length in allowed:
                low, high = max(address - BASE, 0), min(address - BASE + length, 3 * REGION)
                if low < high:
                    expected[low:high] = now[low:high]
            if bytes(expected) != now:
                place = next(index for index in range(len(now)) if now[index] != expected[index])
                raise Finding(f"{what} wrote at {BASE + place:#x}, where it must not")
        self.copy = now

    def ring_writes(self) -> list[tuple[int, int]]:
        device = (self.areas.device, 4 if self.packed else 6 + 8 * self.areas.size)
        return [device, (self.areas.descriptor, 16 * self.areas.size)] if self.packed else [device]

    # ------------------------------------------------------------------ the device
    def expect(self) -> Chain | str | None:
        if self.cut or not self.vring.runnable:
            return None
        try:
            return self.model.next(self.read)
        except Broken as broken:
            return str(broken)

    def accept(self, request: Request | None, expected: Chain | str | None) -> None:
        """A look at the ring gave this; is it what the model says?"""
        if self.cut:
            if request is not None:
                self.taken += 1
                self.held.append((request, Chain(request.head)))
            return
        if request is None:
            if isinstance(expected, Chain):
                raise Finding(f"a chain was not taken: {expected}")
            return
        self.taken += 1
        if not isinstance(expected, Chain):
            raise Finding(f"{request!r} was taken, expected was {expected}")
        readable = sum(length for _, length in expected.readable)
        writable = sum(length for _, length in expected.writable)
        got = (request.head, request.readable_total, request.writable_total)
        if got != (expected.head, readable, writable):
            raise Finding(f"{request.describe()}\nexpected {expected}")
        self.held.append((request, expected))

    def device_pops(self) -> None:
        self.copy = self.memory()
        expected = self.expect()
        try:
            request = self.vring.pop()
        except RingError as error:
            # What waits for its turn (IN_ORDER), or slots that a batch took, are unknown to the model.
            blind = (self.in_order and error.rule in {"V021", "V022"}) or (
                error.rule == "V022" and not self.slots_known
            )
            # Where no entry of the area is left for a descriptor, what comes after it was not looked at.
            blind = blind or (self.tracked and error.rule == "V022" and isinstance(expected, str))
            if not self.cut and not blind and expected != error.rule:
                raise Finding(f"{error}, expected was {expected}") from error
            request, expected = None, None
        self.changed_only("pop", *self.ring_writes())
        self.accept(request, expected)

    def device_processes(self) -> None:
        """A batch; the handler acts on one byte for each request."""
        self.copy = self.memory()
        runs = self.vring.runnable
        # A split ring is emptied, because the index it read last would be unknown to the model otherwise.
        budget = 1 + self.source.below(70) if self.packed else 1 << 20

        def handler(request: Request) -> None:
            # Its chain is not checked: the batch was read before we could look. What a request does is.
            self.taken += 1
            self.model.in_flight[request.head] = 0
            action = self.source.byte()
            if action & 1:
                request.hold()
                self.held.append((request, Chain(request.head)))
                return
            del self.model.in_flight[request.head]
            self.returned += 1
            if action & 2:
                with suppress(MemoryFault, RequestError):
                    request.write(request.read(64)[: request.writable])
            if action & 4:
                request.complete(action)
            elif action & 8:
                raise ValueError("the handler's own")

        def batch(requests: Batch) -> None:
            whole = list(requests)
            for _ in range(self.source.below(4)):
                self.act_on_all(requests)
            for request in whole:
                handler(request)

        if self.source.byte() & 1:
            self.vring.process(handler, lambda _request, _error: None, budget)
        else:
            size = 1 + self.source.below(64)
            self.vring.process_batch(batch, lambda _request, _error: None, budget, size=size)
        # What the batch took is read back from the ring's own position.
        if runs:
            self.resynchronise()
        self.copy = self.memory()

    def act_on_all(self, requests: Batch) -> None:
        """One call for the whole batch; what it cannot do is an error of that request, not an exception."""
        action, amount = self.source.below(9), self.source.below(0x3000)
        keep, unit = self.source.below(4), (1, 512)[self.source.below(2)]
        offsets = [self.source.below(0x3000) - 16 if index % 5 else None for index in range(len(requests))]
        if action == 0:
            groups = requests.by_field(self.source.below(3))
            assert sum(map(len, groups.values())) == len(requests)
            for group in groups.values():
                group.write_from(bytes(amount), group.field(2), unit=unit, keep=keep)
                group.read_to(bytearray(amount), at_field=keep % 3, unit=unit)
        elif action == 1:
            assert len(requests.headers()) == len(requests)
        elif action == 2:
            requests.write_from(bytes(amount), offsets, unit=unit, keep=keep)
        elif action == 3:
            requests.read_to(bytearray(amount), offsets, unit=unit)
        elif action == 4:
            requests.fill(amount & 0xFF, keep=keep)
        elif action == 5:
            requests.write_last(b"\xdd" * keep)
        elif action == 6:
            requests.write([b"\xdd" * (amount & 0xFF)] * len(requests))
        elif action == 7:
            assert len(requests.read()) == len(requests)
        else:
            del requests[keep:]

    def resynchronise(self) -> None:
        base = self.vring.base()
        self.model.last = base & 0xFFFF
        self.model.seen = self.model.last
        self.model.position, self.model.wrap = base & 0x7FFF, base >> 15 & 1
        self.slots_known = False

    def device_uses_request(self) -> None:
        if not self.held:
            return
        request, chain = self.held[self.source.below(len(self.held))]
        self.copy = self.memory()
        action, amount = self.source.below(12), self.source.below(0x9000)
        with suppress(RequestError, MemoryFault):
            if action == 0:
                self.check_read(request, chain, amount)
            elif action == 1:
                request.write(b"\xdd" * amount)
            elif action == 2:
                request.fill(0xDD, amount)
            elif action == 3:
                request.write_last(b"\xdd" * amount)
            elif action == 4:
                request.skip_writable(amount)
            elif action == 5:
                request.skip_readable(amount)
            elif action == 6:
                request.read_to(bytearray(amount), amount // 2)
            elif action == 7:
                for view in request.writable_views():
                    view[: amount % 64] = b"\xdd" * len(view[: amount % 64])
            elif action == 8:
                request.advance_writable(amount)
            elif action == 9:
                request.write_from_file(ZEROS, -1, amount)
            elif action == 10:
                assert sum(len(view) for view in request.readable_views()) == request.readable
            else:
                request.write_from(memoryview(bytes(amount)), amount // 3)
            request.describe()
        self.changed_only(
            f"action {action}", *(chain.writable if chain.count or self.cut else [(BASE, 3 * REGION)])
        )

    def check_read(self, request: Request, chain: Chain, amount: int) -> None:
        before = request.readable_total - request.readable
        got = request.read(amount)
        if chain.count and not self.cut:
            parts = [self.read(address, length) for address, length in chain.readable]
            if None not in parts and got != b"".join(part or b"" for part in parts)[before : before + amount]:
                raise Finding("other bytes were read than the driver wrote")

    def device_completes(self, drop: bool) -> None:
        if not self.held:
            return
        request, chain = self.held.pop(self.source.below(len(self.held)))
        self.copy = self.memory()
        alive = request.alive
        if drop:
            del request
        else:
            request.complete(-1 if self.source.byte() & 1 else self.source.below(0x10000))
            with suppress(RequestError):
                request.complete()
                raise Finding("completed twice")
        if alive:
            self.returned += 1
            self.model.in_flight.pop(chain.head, None)
        self.changed_only("complete", *self.ring_writes())
