"""What holds for all tests."""

from __future__ import annotations

import os
from pathlib import Path

# The guest's kernel lies in the checkout's own cache unless somebody chose another place, whatever test runs.
os.environ.setdefault("VHOST_USER_CACHE", str(Path(__file__).resolve().parents[1] / ".cache"))
