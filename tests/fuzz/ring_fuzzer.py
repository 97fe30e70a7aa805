"""The fuzzer of the rings' device side.

    python tests/fuzz/ring_fuzzer.py --seconds 60          # new scenarios by mutation of the corpus
    python tests/fuzz/ring_fuzzer.py --replay FILE...      # these scenarios only
    tools/sanitize tests/fuzz/ring_fuzzer.py --seconds 600 # under the sanitizers

A scenario that finds something is written to ``--findings`` before it runs, so that a crash leaves it behind.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.fuzz.scenario import run  # noqa: E402 (after the path is set)

CORPUS = Path(__file__).parent / "corpus"


def seeds() -> list[bytes]:
    """The corpus in the repository, in a fixed order."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]


def mutate(dice: random.Random, corpus: list[bytes]) -> bytes:
    """A new scenario: a random one, or one or two of the corpus with a few changes."""
    if not corpus or dice.random() < 0.3:
        return dice.randbytes(dice.choice((20, 60, 200, 600)))
    data = bytearray(dice.choice(corpus))
    if dice.random() < 0.3:
        other = dice.choice(corpus)
        cut = dice.randrange(len(data) + 1)
        data = data[:cut] + other[dice.randrange(len(other) + 1) :]
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        kind = dice.randrange(4)
        place = dice.randrange(len(data) + 1)
        if kind == 0 and place < len(data):
            data[place] = dice.randrange(256)
        elif kind == 1:
            data[place:place] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 2:
            del data[place : place + dice.randrange(1, 9)]
        elif place < len(data):
            data[place] ^= 1 << dice.randrange(8)
    return bytes(data[:1200])


def fuzz(seconds: float, seed: int, findings: Path) -> int:
    """Run new scenarios for a while; 0 if nothing was found."""
    dice = random.Random(seed)
    corpus = seeds()
    pool = list(corpus)
    findings.mkdir(parents=True, exist_ok=True)
    current = findings / "current.bin"
    deadline = time.monotonic() + seconds
    count = found = 0
    report = time.monotonic() + 30
    while time.monotonic() < deadline:
        data = mutate(dice, pool)
        current.write_bytes(data)
        try:
            run(data)
        except Exception as error:  # noqa: BLE001 (every exception is a finding)
            found += 1
            name = hashlib.sha256(data).hexdigest()[:12]
            (findings / f"{name}.bin").write_bytes(data)
            print(f"finding {name}: {type(error).__name__}: {error}", flush=True)
            if found >= 20:
                break
        count += 1
        if len(pool) < 4000 and dice.random() < 0.05:
            pool.append(data)
        if time.monotonic() > report:
            print(f"{count} scenarios, {found} findings", flush=True)
            report += 30
    current.unlink(missing_ok=True)
    print(f"{count} scenarios, {found} findings")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    parser.add_argument("--findings", type=Path, default=Path("build/findings"))
    parser.add_argument("--replay", nargs="+", type=Path)
    options = parser.parse_args()
    if options.replay:
        for path in options.replay:
            print(path)
            run(path.read_bytes())
        return 0
    print(f"seed {options.seed}", flush=True)
    return fuzz(options.seconds, options.seed, options.findings)


if __name__ == "__main__":
    sys.exit(main())
