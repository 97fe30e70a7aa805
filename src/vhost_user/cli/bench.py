"""``vhost-user bench``: put a load on any block back-end and say how it did."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from vhost_user.bench.measure import Load, LoadError, Measurement, measure
from vhost_user.bench.plot import PlotError, plot_latency, require_matplotlib
from vhost_user.bench.units import parse_mix, parse_size, show_rate, show_time
from vhost_user.cli.failure import CommandError
from vhost_user.engine.errors import EngineError
from vhost_user.protocol.errors import VhostUserError

_EXAMPLES = """\
examples:
  vhost-user bench /tmp/disk.sock
  vhost-user bench /tmp/disk.sock --rw mixed=70 --size 64K --depth 128 --queues 4 --seconds 30
  vhost-user bench /tmp/disk.sock --ring packed --depth 1 --pid $(pidof qemu-storage-daemon)
  vhost-user bench /tmp/disk.sock --rw mixed --verify --requests 1000000 --json result.json

Writing overwrites what is on the disk. Exit status: 0 all requests were answered well, 1 something
went wrong and it says what, 2 wrong arguments. Ctrl-C ends the load early and prints what it has."""


def bench_parser() -> argparse.ArgumentParser:
    """The parser of ``vhost-user bench``."""
    parser = argparse.ArgumentParser(
        prog="vhost-user bench",
        description="Puts a load of reads and writes on a vhost-user block back-end, without a guest.",
        epilog=_EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=100
        ),
        allow_abbrev=False,
    )
    parser.add_argument("socket", metavar="SOCKET", help="the socket at which the back-end listens")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--rw", metavar="MIX", type=_argument(parse_mix), default=100,
        help="read (default), write, mixed (70 %% reads), or mixed=PERCENT-OF-READS",
    )  # fmt: skip
    load.add_argument(
        "--size",
        type=_argument(parse_size),
        default=4096,
        help="bytes of a request, 512 to 1M and beyond (4K)",
    )
    load.add_argument(
        "--depth", metavar="N", type=_positive, default=32, help="requests in flight a queue (32)"
    )
    load.add_argument("--queues", metavar="N", type=_positive, default=1, help="queues, a thread each (1)")
    load.add_argument("--seconds", metavar="S", type=_seconds, help="how long (5, or until --requests)")
    load.add_argument("--requests", metavar="N", type=_positive, help="end after so many on each queue")
    load.add_argument("--sequential", action="store_true", help="one block after the other, not random ones")
    load.add_argument(
        "--offset",
        metavar="SIZE",
        type=_argument(parse_size),
        default=0,
        help="stay above this byte of the disk",
    )
    load.add_argument(
        "--span",
        metavar="SIZE",
        type=_argument(parse_size),
        help="stay in so many bytes (to the end of the disk)",
    )
    load.add_argument(
        "--verify",
        action="store_true",
        help="check that blocks hold what this run wrote to them; costs speed",
    )
    ring = parser.add_argument_group("ring")
    ring.add_argument("--ring", choices=("split", "packed"), default="split", help="its layout (split)")
    ring.add_argument(
        "--ring-size", metavar="N", type=_positive, help="its entries (256, or as the depth needs)"
    )
    ring.add_argument("--no-event-idx", action="store_true", help="do not negotiate VIRTIO_F_RING_EVENT_IDX")
    ring.add_argument(
        "--indirect",
        action=argparse.BooleanOptionalAction,
        help="indirect descriptors (where the ring is too small)",
    )
    ring.add_argument(
        "--batch", metavar="N", type=_positive, default=0,
        help="show the device N requests at a time, 1 like a driver that does not batch (all that are free)",
    )  # fmt: skip
    ring.add_argument(
        "--poll",
        action="store_true",
        help="spin on the ring instead of waiting for the call eventfd: a core a queue",
    )
    output = parser.add_argument_group("result")
    output.add_argument(
        "--pid", metavar="PID", type=_positive, help="the back-end's process: show its CPU time"
    )
    output.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="the result as JSON, to FILE or to standard output",
    )
    output.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the latencies (.png, .svg, .pdf; matplotlib)"
    )
    output.add_argument("--quiet", action="store_true", help="show no progress")
    output.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=10.0,
        help="for each answer of the back-end's socket (10)",
    )
    return parser


def run_bench(argv: list[str]) -> int:
    """``vhost-user bench``: the exit status. Raises CommandError."""
    parser = bench_parser()
    arguments = parser.parse_args(argv)
    load = _load(arguments)
    try:
        load.check()
        if arguments.plot is not None:
            require_matplotlib()  # before the load, not after an hour of it
        with _interruptible() as interrupted:
            progress = _Progress(None if arguments.quiet else sys.stderr, interrupted)
            try:
                measurement = measure(
                    arguments.socket, load, pid=arguments.pid, progress=progress, timeout=arguments.timeout
                )
            finally:
                progress.clear()
    except (LoadError, ValueError) as error:
        raise CommandError(str(error)) from error
    except ProcessLookupError as error:
        raise CommandError(f"--pid {arguments.pid}: {error}") from error
    except OSError as error:
        raise CommandError(error.strerror or str(error)) from error
    except PlotError as error:
        raise CommandError(str(error)) from error
    except (VhostUserError, EngineError) as error:
        raise CommandError(f"{arguments.socket}: {error}") from error
    return _report(arguments, measurement, interrupted.is_set())


def _load(arguments: argparse.Namespace) -> Load:
    seconds = arguments.seconds
    if seconds is None and arguments.requests is None:
        seconds = 5.0
    return Load(
        read_percent=arguments.rw,
        size=arguments.size,
        depth=arguments.depth,
        queues=arguments.queues,
        seconds=seconds,
        requests=arguments.requests,
        packed=arguments.ring == "packed",
        event_idx=not arguments.no_event_idx,
        polling=arguments.poll,
        random=not arguments.sequential,
        verify=arguments.verify,
        offset=arguments.offset,
        span=arguments.span,
        ring_size=arguments.ring_size,
        indirect=arguments.indirect,
        batch=arguments.batch,
    )


def _report(arguments: argparse.Namespace, measurement: Measurement, interrupted: bool) -> int:
    content = {**measurement.as_dict(), "interrupted": interrupted}
    if arguments.json == "-":
        print(json.dumps(content, indent=2))
    else:
        print("\n".join(report_lines(measurement, interrupted=interrupted)))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for problem in measurement.problems():
        print(f"vhost-user bench: {problem}", file=sys.stderr)
    if arguments.plot is not None and measurement.result.requests:
        try:
            plot_latency(measurement, arguments.plot)
        except PlotError as error:
            raise CommandError(str(error)) from error
    return 1 if measurement.failed else 0


def report_lines(measurement: Measurement, *, interrupted: bool = False) -> list[str]:
    """The result as a person reads it."""
    result = measurement.result
    rate, seconds = result.requests_per_second, result.seconds
    unoffered = measurement.load.event_idx and not measurement.event_idx
    mix = f"({result.reads:,} reads, {result.writes:,} writes)"
    moved = show_rate(result.bytes_moved / seconds if seconds else 0)
    lines = [
        f"{measurement.load}{' (event index: not offered)' if unoffered else ''}",
        f"  requests   {result.requests:,} in {seconds:.2f} s{', interrupted' if interrupted else ''} {mix}",
        f"  rate       {rate:,.0f} requests/s, {moved}B/s",
        "  latency    "
        + "  ".join(
            f"{name} {show_time(result.percentile(percent))}"
            for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9), ("max", 100))
        )
        + f"  mean {show_time(result.mean)}",
        f"  doorbells  {result.kicks:,} kicks, {result.calls:,} calls",
    ]
    if measurement.load.verify:
        lines.append(f"  verified   {result.verified:,} blocks, {result.mismatches:,} wrong")
    cpu = f"  CPU time   {measurement.client_cpu_per_million or 0:.2f} s a million requests here"
    if measurement.backend_cpu_per_million is not None:
        cpu += f", {measurement.backend_cpu_per_million:.2f} s in the back-end"
    return [*lines, cpu]


class _Progress:
    """A line that is rewritten on a terminal; elsewhere nothing. Ends the load when interrupted."""

    def __init__(self, stream: TextIO | None, interrupted: threading.Event) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._interrupted = interrupted
        self._last = (0, 0.0)
        self._shown = False

    def __call__(self, requests: int, seconds: float) -> bool:
        if self._stream is not None:
            before, then = self._last
            rate = (requests - before) / (seconds - then) if seconds > then else 0.0
            self._last = (requests, seconds)
            print(
                f"\r{seconds:6.1f} s  {requests:,} requests  {rate:,.0f}/s\033[K",
                end="",
                file=self._stream,
                flush=True,
            )
            self._shown = True
        return self._interrupted.is_set()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown and self._stream is not None:
            print("\r\033[K", end="", file=self._stream, flush=True)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event, the second one ends the program as usual."""
    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before: dict[int, Any] = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _argument(convert: Any) -> Any:
    def argument(text: str) -> int:
        try:
            return int(convert(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
