"""Which QEMU the printed command line is for."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess

from vhost_user.device_types.description import Version

PROGRAM = "qemu-system-x86_64"
CURRENT: Version = (11, 1)
"""What a command line is made for where no QEMU is installed and none was named."""
PATIENCE = 3.0
"""Seconds that QEMU may take to say its version."""


def parse_version(text: str) -> Version:
    """``"7.2"`` or ``"10.0.13"`` as numbers. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(\.\d+)*", text)
    if found is None:
        raise ValueError(f"{text!r} is not a version of QEMU such as 7.2")
    return int(found[1]), int(found[2])


def version_text(version: Version) -> str:
    """The version as people write it."""
    return f"{version[0]}.{version[1]}"


@functools.cache
def installed_version() -> Version | None:
    """The version of the QEMU in PATH, asked once a process; None if there is none or it does not say."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  # the QEMU that the line would be pasted behind
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version (\d{1,4})\.(\d{1,4})", done.stdout)
    return None if found is None else (int(found[1]), int(found[2]))


def default_version() -> Version:
    """The version installed here, else a current one."""
    return installed_version() or CURRENT
