"""The state of the machine, kept with every result: without it a figure says little. No names, no paths."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tools.comparison.contenders import QEMU_STORAGE_DAEMON


def machine_state() -> dict[str, Any]:
    """What the figures depend on besides the programs: processor, kernel, versions, how busy it is."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "hypervisor": "hypervisor" in _cpu_flags(),
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "python_compiler": platform.python_compiler(),
        "vhost_user": _own_version(),
        "qemu_storage_daemon": _program_version(QEMU_STORAGE_DAEMON),
        "implementation": sys.implementation.name,
    }


def _cpu_lines(key: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [
        value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key
    ]


def _processor() -> str:
    return next(iter(_cpu_lines("model name")), platform.machine())


def _cpu_flags() -> list[str]:
    return " ".join(_cpu_lines("flags")[:1]).split()


def _own_version() -> str:
    try:
        return version("vhost-user")
    except PackageNotFoundError:
        return "not installed"


def _program_version(program: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # found above
    return next(iter(said.stdout.splitlines()), "").strip() or None
