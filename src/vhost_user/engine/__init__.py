"""The second layer: everything that touches shared memory, compiled.

Modules are Cython in Python syntax; there is no pure-Python twin of a ring (docs/design.md says why).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util


def _require_compiled() -> None:
    spec = importlib.util.find_spec("vhost_user.engine.memory.guest_memory")
    if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        raise ImportError("the engine is not compiled; run: make build")


_require_compiled()
