"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# The guest's kernel lies in the checkout's own cache unless somebody chose another place, whatever test runs.
CACHE = os.environ.setdefault("VHOST_USER_CACHE", str(Path(__file__).resolve().parents[1] / ".cache"))

# Where no byte code may be written beside the sources, it is kept in the cache. The tests start more than a
# thousand programs, and without it each of them compiles all that it imports.
if sys.dont_write_bytecode and sys.pycache_prefix is None:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(CACHE, "byte-code"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_processes: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what is there before the first test.

    Many tests call it, and each time it would look at ten thousand tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    """Note a process of pytest-xdist, which begins."""
    node.config.stash.setdefault(_processes, {})[node.gateway.id] = node.gateway._io


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Fail if a process of pytest-xdist crashed: between tests, or at its end, xdist takes no notice."""
    yield
    for name, process in session.config.stash.get(_processes, {}).items():
        status = process.wait()  # they have ended by now
        if status:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            print(f"\nthe test process {name} {how}", file=sys.stderr)
            session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR
