"""Pages that vanish under us: a truncated file ends its own session and nothing else (C039, H85)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.engine.pair import MakePair, Pair, mapped
from tests.support.programs import run_python
from vhost_user.engine.device.request import Request
from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.errors import MemoryFault
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion

BASE = 0x1000_0000
SIZE = 1 << 20


def truncated(size: int = 0) -> GuestMemory:
    """A table of one region whose file was cut to ``size`` bytes."""
    fd = os.memfd_create("truncated")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"\xaa" * SIZE, 0)
    memory = GuestMemory([MemoryRegion(fd, guest_address=BASE, size=SIZE)])
    os.ftruncate(fd, size)
    os.close(fd)
    return memory


def unsealed(make_pair: MakePair) -> Pair:
    """A ring in a region of its own, its buffers in one that can be cut."""
    ring = DriverRegion(1 << 20, guest_address=BASE)
    data = DriverRegion(1 << 20, guest_address=BASE + (1 << 20), seal=False)
    return make_pair(regions=[ring, data])


def test_C039_H85_plain_accesses_read_zeros_and_the_region_is_lost() -> None:
    memory = truncated(8192)
    assert (memory.lost, memory.regions[0].lost) == (False, False)
    assert memory.read(BASE, 4) == b"\xaa" * 4
    assert (memory.lost, memory.regions[0].lost) == (False, False)
    assert memory.read(BASE + 8192, 8) == b"\0" * 8
    assert (memory.lost, memory.regions[0].lost) == (True, True)
    assert memory.read(BASE, SIZE) == b"\0" * SIZE
    memory.write(BASE, b"harmless")
    assert "lost" in repr(memory.regions[0])
    memory.close()


def test_C039_writes_are_survived() -> None:
    memory = truncated()
    memory.write(BASE, b"x" * 5000)
    assert memory.lost
    memory.close()


def test_C039_memoryviews_are_survived() -> None:
    memory = truncated()
    view = memory.view(BASE, SIZE)
    assert bytes(view) == b"\0" * SIZE
    assert memory.lost
    view[5] = 1
    memory.close()
    assert view[5] == 1


def test_C039_one_region_lost_leaves_the_others() -> None:
    fd = os.memfd_create("fine")
    os.ftruncate(fd, 4096)
    os.pwrite(fd, b"fine", 0)
    fine = MemoryRegion(fd, guest_address=0, size=4096)
    gone = truncated()
    both = GuestMemory([fine, *gone.regions])
    assert both.read(BASE, 1) == b"\0"
    assert both.lost
    assert not fine.lost
    assert both.read(0, 4) == b"fine"
    both.write(0, b"well")
    assert os.pread(fd, 4, 0) == b"well"
    os.close(fd)
    gone.close()
    both.close()


def test_C039_several_threads_fault_at_once() -> None:
    for _ in range(10):
        memory = truncated()
        barrier = threading.Barrier(4)
        seen: list[bytes] = []

        def read(
            memory: GuestMemory = memory, barrier: threading.Barrier = barrier, seen: list[bytes] = seen
        ) -> None:
            barrier.wait()
            seen.append(memory.read(BASE, SIZE))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [b"\0" * SIZE] * 4
        assert memory.lost
        memory.close()


def test_C039_requests_over_lost_memory(make_pair: MakePair) -> None:
    pair = unsealed(make_pair)
    place = BASE + (1 << 20)
    pair.queue.add([(place, 100_000)], [(place + 200_000, 100_000)])
    pair.queue.publish()
    request = pair.take()
    pair.memory.regions[1].truncate(0)
    assert request.read(10) == b"\0" * 10
    assert request.read_to(bytearray(90_000)) == 90_000
    request.write(b"x" * 100)
    request.write_from(bytes(70_000))
    assert bytes(request.writable_views()[0][:4]) == b"\0" * 4
    request.complete()
    assert pair.guest.lost
    assert not pair.guest.regions[0].lost
    assert pair.queue.poll() is not None


def test_C039_files_into_lost_memory_fault_by_the_kernel(make_pair: MakePair) -> None:
    pair = unsealed(make_pair)
    place = BASE + (1 << 20)
    pair.queue.add([(place, 8192)], [(place + 8192, 8192)])
    pair.queue.publish()
    request = pair.take()
    pair.memory.regions[1].truncate(0)
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(MemoryFault):
        request.write_from_file(zeros.fileno(), 0)
    fd = os.memfd_create("target")
    with pytest.raises(MemoryFault):
        request.read_to_file(fd, 0)
    os.close(fd)
    assert request.written == 0
    request.complete()


def test_C039_a_ring_in_lost_memory_does_not_take_the_blame(make_pair: MakePair) -> None:
    """Zeros where a ring was are no broken driver: the session ends because the memory is lost."""
    region = DriverRegion(1 << 20, guest_address=BASE, seal=False)
    pair = make_pair(regions=[region])
    held = [pair.serve([b"x"], [1]) for _ in range(3)]
    region.truncate(0)
    pair.vring.process(lambda request: request.read(), lambda _request, _error: None)
    for request in held:
        request.complete()
    pair.vring.process(lambda request: request.read(), lambda _request, _error: None)
    assert pair.guest.lost
    assert pair.errors == []


def test_C082_H85_a_truncated_log_is_survived() -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, 8192)
    bitmap = Bitmap()
    bitmap.map(fd, 8192)
    bitmap.enabled = True
    os.ftruncate(fd, 0)
    for page in range(0, 65536, 4096):
        bitmap.mark(page * 4096, 1)
    bitmap.unmap()
    os.close(fd)


def test_C039_a_worker_goes_on_with_another_session(make_pair: MakePair) -> None:
    lost, fine = unsealed(make_pair), make_pair()
    place = BASE + (1 << 20)
    lost.queue.add([(place, 10)], [(place, 10)])
    lost.queue.publish()
    lost.memory.regions[1].truncate(0)

    def handler(request: Request) -> None:
        request.write(request.read())

    assert lost.vring.process(handler) == 1
    fine.add([b"x"], [1])
    assert fine.vring.process(handler) == 1
    assert (lost.guest.lost, fine.guest.lost) == (True, False)


# ---------------------------------------------------------------------- faults that are not ours
PREPARE = """
import ctypes, faulthandler, mmap, os, signal, sys
{before}
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion
def cut():
    fd = os.memfd_create("x"); os.ftruncate(fd, 4096)
    return fd
fd = cut()
memory = GuestMemory([MemoryRegion(fd, guest_address=0, size=4096)])
{after}
os.ftruncate(fd, 0)
assert memory.read(0, 4) == bytes(4) and memory.lost
print("survived", flush=True)
fd = cut()
elsewhere = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
{fault}
print("not reached", flush=True)
"""


def run(before: str = "", after: str = "", fault: str = "elsewhere[0]") -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(PREPARE).format(before=before, after=after, fault=fault)
    environment = dict(os.environ)
    environment.pop("PYTHONFAULTHANDLER", None)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return run_python("-c", script, env=environment | {"PYTHONPATH": path})


def test_H85_a_fault_elsewhere_kills_as_it_always_did() -> None:
    done = run()
    assert done.stdout == "survived\n"
    assert done.returncode == -signal.SIGBUS
    assert done.stderr == ""


ANOTHER = "another = GuestMemory([MemoryRegion(cut(), guest_address=0, size=4096)])"


@pytest.mark.parametrize(
    ("position", "then"), [("before", ""), ("after", ANOTHER), ("after", "")], ids=["under", "over", "top"]
)
def test_H85_a_fault_elsewhere_reaches_faulthandler_and_kills(position: str, then: str) -> None:
    """Wherever faulthandler stands: under ours, over ours until the next region is mapped, or on top.

    On top it reports lost memory too, and then lets ours have its way.
    """
    done = run(**{position: f"faulthandler.enable(); {then}"})
    assert done.stdout == "survived\n"
    assert done.returncode == -signal.SIGBUS
    assert "Bus error" in done.stderr
    assert "most recent call first" in done.stderr


def test_H85_a_signal_that_somebody_sent_kills() -> None:
    done = run(fault="os.kill(os.getpid(), signal.SIGBUS)")
    assert (done.stdout, done.returncode) == ("survived\n", -signal.SIGBUS)


def test_H85_a_region_that_is_gone_guards_nothing_any_more() -> None:
    done = run(fault="memory.close(); elsewhere[0]")
    assert (done.stdout, done.returncode) == ("survived\n", -signal.SIGBUS)


def test_V057_the_drivers_own_memory_is_guarded_too() -> None:
    region = DriverRegion(8192, guest_address=BASE, seal=False)
    with DriverMemory([region]) as memory:
        device = mapped(memory)
        region.truncate(0)
        assert memory.read(BASE, 4) == b"\0" * 4
        device.close()
