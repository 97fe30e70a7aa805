"""A scenario of the fuzzer: made from bytes, a driver that does anything and a device that does everything.

The same bytes always give the same scenario. After every operation of the device the whole memory is compared
with a copy: what changed must be what that operation may change. Any exception but the documented ones is a
finding.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress

from tests.engine.pair import Pair, mapped
from tests.fuzz.checked_device import CheckedDevice, Finding
from tests.fuzz.hostile_driver import BASE, REGION, Source
from tests.fuzz.ring_model import Areas, Chain, Model
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.inflight import InflightArea, make_area_file
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.memory import DriverRegion
from vhost_user.engine.errors import MemoryTableError
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.spec import inflight as layout

SIZES = (1, 2, 4, 8, 16, 64, 3, 7)


class Scenario(CheckedDevice):
    def __init__(self, data: bytes) -> None:
        self.source = Source(data)
        kind = self.source.byte()
        self.packed = bool(kind & 1)
        size = SIZES[self.source.below(8 if self.packed else 6)]
        self.in_order = bool(kind & 8)
        self.bitmap = Bitmap()
        self.log = os.memfd_create("log")
        os.ftruncate(self.log, 16384)
        self.bitmap.map(self.log, 16000, 7)
        self.bitmap.enabled = bool(kind & 16)
        indirect = bool(kind & 4)
        # Three neighbours: the ring's, and two for buffers, so that chains cross the border between them.
        self.regions = [
            DriverRegion(REGION, guest_address=BASE + index * REGION, file_offset=index * 0x123, seal=False)
            for index in range(3)
        ]
        self.pair = Pair(
            self.packed,
            size,
            event_idx=bool(kind & 2),
            indirect=indirect,
            in_order=self.in_order,
            regions=self.regions,
            bitmap=self.bitmap,
            log_address=0x123450 if kind & 32 else None,
            start=False,
        )
        queue = self.pair.queue
        self.vring = self.pair.vring
        # Of two queues, so that there is something behind the one in use.
        self.area_fd, area_size = make_area_file(2, size, packed=self.packed)
        self.tracked = bool(kind & 64)
        if self.tracked:
            area = InflightArea(self.area_fd, size=area_size, num_queues=2, queue_size=size)
            self.vring.recovery.set_inflight(area)
            area.close()
        self.pair.start()
        self.vring.set_header(Header("<IIQ"))
        self.areas = Areas(
            queue.descriptor_address, queue.driver_address, queue.device_address, size, indirect
        )
        self.model = Model(self.packed, self.areas, queue.base)
        self.views = [memoryview(region) for region in self.regions]
        for view in self.views[1:]:
            view[:] = b"\xee" * REGION
        self.copy = self.memory()
        self.held: list[tuple[Request, Chain]] = []
        self.taken = self.returned = self.forgotten = 0
        self.cut = False
        self.slots_known = True

    def control(self) -> None:
        kind = self.source.below(11)
        vring = self.vring
        self.copy = self.memory()
        if kind == 0:
            vring.set_memory(None)
        elif kind == 1:
            vring.set_memory(self.pair.guest)
        elif kind == 2:
            with suppress(MemoryTableError):  # once the file is too short
                self.pair.guest = mapped(self.pair.memory, self.bitmap)
            vring.set_memory(self.pair.guest)
        elif kind == 3:
            region = self.regions[1 + self.source.below(2)]
            smaller = self.pair.guest.without_region(region.guest_address, region.user_address, region.size)
            vring.set_memory(smaller if self.cut else self.pair.guest)
        elif kind == 4:
            self.restart()
        elif kind == 5:
            vring.set_enabled(bool(self.source.byte() & 3))
        elif kind == 6:
            vring.set_suspended(self.source.byte() & 3 == 3)
        elif kind == 7:
            self.forgotten += sum(1 for request, _ in self.held if request.alive)
            vring.abandon()
            # What was abandoned stays in the area otherwise, and takes its room.
            vring.recovery.forget()
            self.model.in_flight.clear()
        elif kind == 8:
            vring.set_call(os.dup(self.pair.queue.call_fd) if self.source.byte() & 1 else None)
        elif kind == 9:
            if self.source.byte() & 1:
                vring.disable_notification()
            else:
                vring.enable_notification()
            vring.needs_notification()
            vring.signal_used_queue()
        elif self.source.byte() == 0xEE:
            self.regions[2].truncate(self.source.below(REGION))
            self.cut = True
        self.changed_only(f"control {kind}", *self.ring_writes())

    def restart(self) -> None:
        vring = self.vring
        vring.stop()
        base = vring.base()
        self.forgotten += sum(1 for request, _ in self.held if request.alive)
        vring.abandon()
        vring.recovery.forget()
        if self.source.byte() & 3 == 3:
            base = self.source.below(0x10000) | self.source.below(0x10000) << 16
            if self.packed:
                base = (
                    base & 0x8000_8000
                    | (base & 0x7FFF) % self.areas.size
                    | ((base >> 16 & 0x7FFF) % self.areas.size) << 16
                )
            else:
                base &= 0xFFFF
            vring.set_base(base)
        if vring.base() != base:
            raise Finding(f"base {vring.base():#x} is not {base:#x}")
        if not self.packed and self.source.byte() & 7:
            # A driver that starts again with the device; else it goes on from where it was.
            self.write(self.areas.driver + 2, (base & 0xFFFF).to_bytes(2, "little"))
            self.copy = self.memory()
        with suppress(RuntimeError):
            vring.start()
        # Plain 0 is a new packed ring's base, unless its memory shows that it was used (V024). The area has
        # the last word (C111).
        self.model.restart(vring.base() if self.tracked or (self.packed and base == 0) else base)

    # ------------------------------------------------------------------ the whole
    def run(self) -> None:
        try:
            while self.source.left:
                operation = self.source.below(16)
                if self.vring.broken is not None and operation < 12:
                    self.copy = self.memory()
                    self.restart()
                elif operation < 5:
                    self.driver_offers_chain()
                elif operation == 5:
                    self.driver_writes_descriptor()
                elif operation == 6:
                    self.driver_writes_fields()
                elif operation < 10:
                    self.device_pops()
                elif operation == 10:
                    self.device_processes()
                elif operation < 13:
                    self.device_uses_request()
                elif operation == 13:
                    self.device_completes(drop=False)
                elif operation == 14:
                    self.device_completes(drop=bool(self.source.byte() & 1))
                else:
                    self.control()
                self.consistent()
            self.finish()
        finally:
            self.close()

    def consistent(self) -> None:
        alive = sum(1 for request, _ in self.held if request.alive)
        if self.vring.in_flight != alive:
            raise Finding(f"{self.vring.in_flight} in flight, {alive} in our hands")

    def nothing_behind_the_entries(self) -> None:
        """Of the area, only the region of this queue is written."""
        header, state = (
            (layout.PACKED_HEADER_SIZE, layout.PACKED_DESCRIPTOR.size)
            if self.packed
            else (layout.SPLIT_HEADER_SIZE, layout.SPLIT_DESCRIPTOR.size)
        )
        end = header + state * self.areas.size
        rest = os.pread(self.area_fd, os.fstat(self.area_fd).st_size - end, end)
        if any(rest):
            raise Finding("something was written behind the entries of the in-flight area")

    def finish(self) -> None:
        self.nothing_behind_the_entries()
        self.vring.set_memory(self.pair.guest)
        self.vring.stop()
        while self.held:
            self.device_completes(drop=len(self.held) % 2 == 0)
        if not self.vring.drain(0) or self.vring.in_flight:
            raise Finding("something is still in flight")
        if self.taken != self.returned + self.forgotten:
            raise Finding(f"{self.taken} taken, {self.returned} returned, {self.forgotten} forgotten")

    def close(self) -> None:
        self.held.clear()
        self.pair.close()
        self.views.clear()
        os.close(self.log)
        os.close(self.area_fd)
        self.bitmap.unmap()


def run(data: bytes) -> None:
    """Run one scenario; raises Finding, or whatever the engine should not have raised."""
    before = live_mappings()
    Scenario(data).run()
    if live_mappings() != before:
        gc.collect()
        if live_mappings() != before:
            raise Finding(f"{live_mappings() - before} mappings are left")
