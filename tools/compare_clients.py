"""Compares our block driver with a client in C, in turn, on one and the same qemu-storage-daemon.

``.venv/bin/python -m tools.compare_clients``: needs gcc, mke2fs and qemu-storage-daemon; takes about three
minutes. The C client is tests/bench/reference_client.c, compiled with -O2. Cases called ``verify`` read an
ext4 image whole, again and again, and compare every byte with the file; cases called ``load`` read at
random and look at nothing. Ratios are ours to C's of the same round: median, lowest and highest.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import mmap
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.comparison.compare import Spread
from tools.comparison.contenders import (
    QEMU_STORAGE_DAEMON,
    Contender,
    ContenderError,
    Place,
    RunningContender,
    TemporaryPlace,
)
from tools.comparison.machine import machine_state
from tools.comparison.report import write_json
from vhost_user.bench.units import parse_size, show_rate
from vhost_user.frontend import BlockDriver
from vhost_user.frontend.load import run_block_load

SOURCE = Path(__file__).resolve().parent.parent / "tests" / "bench" / "reference_client.c"
TARGET = 0.9
BLOCK = 4096
RING = 256
IMAGE = "image"
NULL = "null"


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: which disk, whether the data is verified, whether the clients spin."""

    disk: str
    verify: bool
    polling: bool

    @property
    def name(self) -> str:
        """For people and for --case."""
        what = "verify" if self.verify else "load"
        return f"{what}-{self.disk}-{'polling' if self.polling else 'waiting'}"

    @property
    def title(self) -> str:
        """In words."""
        disk = "ext4 image through driver=file" if self.disk == IMAGE else "null-co disk"
        what = "sequential reads of all of it, every byte compared" if self.verify else "random reads"
        how = "clients spin" if self.polling else "clients sleep until called"
        return f"{disk}, {what}, {how}"


CASES = [
    Case(IMAGE, verify=True, polling=True),
    Case(IMAGE, verify=True, polling=False),
    Case(IMAGE, verify=False, polling=True),
    Case(IMAGE, verify=False, polling=False),
    Case(NULL, verify=True, polling=True),
    Case(NULL, verify=True, polling=False),
    Case(NULL, verify=False, polling=True),
    Case(NULL, verify=False, polling=False),
]


def compile_client(program: Path) -> None:
    """Compile the client in C. Raises CalledProcessError."""
    gcc = shutil.which("gcc")
    assert gcc, "gcc is missing"
    options = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([gcc, *options, "-o", str(program), str(SOURCE)], check=True)  # noqa: S603  # our own source


def make_image(folder: Path, size: int) -> Path:
    """An ext4 file system with files of many sizes, about three quarters full."""
    mke2fs = shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert mke2fs, "mke2fs is missing (Debian package e2fsprogs)"
    files, image = folder / "files", folder / "image.ext4"
    files.mkdir()
    dice, left = random.Random(4), size * 3 // 4  # noqa: S311  # the same image every time, no secret
    for number in range(10**6):
        length = min(left, int(2 ** dice.uniform(10, 22)))
        if length <= 0:
            break
        (files / f"file-{number}").write_bytes(dice.randbytes(length))
        left -= length
    options = ["-q", "-F", "-t", "ext4", "-m", "0", "-d", str(files)]
    subprocess.run([mke2fs, *options, str(image), f"{size // 1024}k"], check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # found above
    shutil.rmtree(files)
    return image


def storage_daemon(disk: str, image: Path) -> Contender:
    """Qemu-storage-daemon with one of the two disks, which nobody writes."""

    def command(place: Place, path: str) -> Sequence[str]:
        node = f"driver=file,node-name=disk,read-only=on,filename={image}"
        if disk == NULL:
            node = f"driver=null-co,node-name=disk,size={place.disk_size},read-zeroes=on"
        export = f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={path}"
        return [QEMU_STORAGE_DAEMON, "--blockdev", node, "--export", export]

    return Contender(disk, f"qemu-storage-daemon, {disk}", command, ours=False)


@dataclass(frozen=True, slots=True)
class Clients:
    """Both clients with what they are to do. ``expected`` is a file with what the disk holds."""

    program: Path
    socket: str
    case: Case
    depth: int
    expected: Path

    def run(self, name: str, seconds: float) -> dict[str, Any]:
        """One of them, once, for about ``seconds``."""
        return (run_c if name == "c" else run_ours)(self, seconds)


def run_c(clients: Clients, seconds: float) -> dict[str, Any]:
    """The client in C, once."""
    case = clients.case
    options = [
        f"--socket={clients.socket}",
        f"--depth={clients.depth}",
        f"--seconds={seconds}",
        f"--size={BLOCK}",
    ]
    if case.verify:
        options += ["--sequential", f"--verify={clients.expected}"]
    if not case.polling:
        # Each as ours does: a transfer sleeps until half came back, the load generator until anything did.
        options.append("--wait=half" if case.verify else "--wait=first")
    command = [str(clients.program), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # compiled above
    if not done.stdout:
        raise ContenderError(f"the client in C ended with status {done.returncode}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_ours(clients: Clients, seconds: float) -> dict[str, Any]:
    """Our block driver, once; the same figures."""
    depth, polling = clients.depth, clients.case.polling
    with BlockDriver(clients.socket, queue_size=RING, packed=False, event_idx=True) as disk:
        if clients.case.verify:
            return _verify(disk, clients, seconds)
        result = run_block_load(disk, depth=depth, block_size=BLOCK, seconds=seconds, polling=polling)
        return {
            "requests": result.requests,
            "seconds": result.seconds,
            "requests_per_second": result.requests_per_second,
            "p50_seconds": result.percentile(50),
            "p99_seconds": result.percentile(99),
            "kicks": result.kicks,
            "calls": result.calls,
            "errors": result.errors,
            "length_errors": result.length_errors,
            "mismatches": 0,
            "verified": 0,
        }


def _verify(disk: BlockDriver, clients: Clients, seconds: float) -> dict[str, Any]:
    ring = disk.queue().ring
    blocks, mismatches, passes = disk.size // BLOCK, 0, 0
    with (
        clients.expected.open("rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ) as expected,
    ):
        begun = time.perf_counter()
        while (took := time.perf_counter() - begun) < seconds:
            different = disk.first_difference(
                0, expected, depth=clients.depth, block_size=BLOCK, polling=clients.case.polling
            )
            mismatches += different is not None
            passes += 1
    return {
        "requests": passes * blocks,
        "seconds": took,
        "requests_per_second": passes * blocks / took,
        "kicks": ring.kicks,
        "calls": ring.calls,
        "errors": 0,
        "length_errors": 0,
        "mismatches": mismatches,
        "verified": passes * blocks,
    }


def compare(clients: Clients, rounds: int, seconds: float) -> dict[str, Any]:
    """Both in turn, each round beginning with the other one."""
    results: dict[str, list[dict[str, Any]]] = {"c": [], "ours": []}
    for name in results:
        clients.run(name, min(0.1, seconds))
    for number in range(rounds):
        for name in results if number % 2 else reversed(results):
            results[name].append(clients.run(name, seconds))
    rates = {name: [each["requests_per_second"] for each in runs] for name, runs in results.items()}
    ratio = Spread.of([own / its for own, its in zip(rates["ours"], rates["c"], strict=True)])
    assert ratio is not None
    every = [each for runs in results.values() for each in runs]
    failed = sum(each["errors"] + each["length_errors"] + each["mismatches"] for each in every)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    shown = ", ".join(f"{name} {show_rate(medians[name])}/s" for name in medians)
    say(f"{clients.case.name:24} ratio {ratio}   {shown}{'   FAILED' if failed else ''}")
    return {
        "name": clients.case.name,
        "title": clients.case.title,
        "ratio": ratio.as_dict(),
        "median_requests_per_second": medians,
        "failed": failed,
        "rounds": results,
    }


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """For JSON: the rate of each round, and what was read and signalled for it in all."""
    runs = result["rounds"]
    counted = ("requests", "verified", "kicks", "calls")
    return result | {
        "rounds": {name: [round(each["requests_per_second"]) for each in runs[name]] for name in runs},
        "totals": {name: {what: sum(each[what] for each in runs[name]) for what in counted} for name in runs},
    }


def say(text: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison: exit status 1 when something failed or a ``verify`` case is below 0.9."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="rounds of each case (9)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="length of a run (1)")
    parser.add_argument("--depth", type=int, default=32, metavar="N", help="requests in flight (32)")
    parser.add_argument(
        "--image-size", type=parse_size, default=128 << 20, metavar="SIZE", help="of the file system (128M)"
    )
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="only this one")
    parser.add_argument("--pin", action="store_true", help="clients on the first CPU, the others for QEMU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args(argv)
    chosen = [case for case in CASES if not arguments.case or case.name in arguments.case]
    if not chosen or arguments.rounds < 1:
        parser.error(f"the cases are {', '.join(case.name for case in CASES)}; at least one round is needed")
    cpus = sorted(os.sched_getaffinity(0))
    others = cpus[1:] if arguments.pin else ()
    if others:
        os.sched_setaffinity(0, cpus[:1])
    machine, results = machine_state(), []
    with TemporaryPlace(arguments.image_size) as place:
        program = place.folder / "reference_client"
        compile_client(program)
        image = make_image(place.folder, arguments.image_size)
        zeroes = place.image("zeroes")
        for case in chosen:
            with RunningContender(storage_daemon(case.disk, image), place, cpus=others) as back_end:
                expected = image if case.disk == IMAGE else zeroes
                clients = Clients(program, back_end.socket, case, arguments.depth, expected)
                results.append(compare(clients, arguments.rounds, arguments.seconds))
    machine["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    names = ("rounds", "seconds", "depth", "image_size", "pin")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.json is not None:
        content = {
            "format": 1,
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine,
            "settings": settings | {"block_size": BLOCK, "ring_size": RING},
            "cases": [_short(each) for each in results],
        }
        write_json(content, arguments.json)
    low = [each for each in results if each["name"].startswith("verify") and each["ratio"]["median"] < TARGET]
    return 1 if low or any(each["failed"] for each in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ContenderError, subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"compare_clients: {error}")
