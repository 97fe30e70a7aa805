"""A QEMU with the generic vhost-user device (10.2 and later), where the installed one is older.

`python3 -m vhost_user.testing.guest_qemu` fetches it (as any user; it needs no root): Debian's packages of
the coming release with all the libraries they need, unpacked into the cache folder and not installed. The
cache folder is that of ``vhost_user.testing.guest_kernel``.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vhost_user.device_types.description import Version
from vhost_user.device_types.qemu import GENERIC
from vhost_user.device_types.qemu_version import PROGRAM, installed_version, version_text
from vhost_user.testing.guest_apt import coming_release
from vhost_user.testing.guest_errors import GuestUnavailableError
from vhost_user.testing.guest_kernel import cache_folder

GENERIC_SINCE = GENERIC.since
FETCH_COMMAND = "python3 -m vhost_user.testing.guest_qemu"
_PACKAGE = "qemu-system-x86"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_WRAPPER = """\
#!/bin/sh
# Runs the QEMU beside this file with the libraries that came with it.
root=$(dirname "$(readlink -f "$0")")/root
export QEMU_MODULE_DIR="$root/{libraries}/qemu"
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/{libraries}:$root/{libraries}/pulseaudio" \\
    "$root/usr/bin/{program}" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" \\
    -L "$root/usr/lib/ipxe/qemu" "$@"
"""


def locate_qemu(minimum: Version = GENERIC_SINCE, cache: Path | None = None) -> Path:
    """The QEMU in PATH if it is at least of this version, else the one that was fetched.

    Raises GuestUnavailableError when there is none; the message says which command fetches one.
    """
    installed = installed_version()
    if installed is not None and installed >= minimum:
        return Path(shutil.which(PROGRAM) or PROGRAM)
    cache = cache or cache_folder()
    found = sorted(cache.glob(f"qemu-*/{PROGRAM}"), key=lambda path: _version(path.parent))
    if not found or _version(found[-1].parent) < minimum:
        raise GuestUnavailableError(
            f"this needs QEMU {version_text(minimum)} or later, and there is none in PATH or in {cache}. "
            f"Fetch one (45 MB of packages, unpacked and not installed): {FETCH_COMMAND}"
        )
    return found[-1]


def fetch_qemu(cache: Path | None = None) -> Path:
    """Download QEMU of Debian's coming release with apt-get, and unpack it into the cache. Needs no root.

    Gives the program. Raises GuestUnavailableError when a program is missing, or the mirror does not answer.
    """
    cache = cache or cache_folder()
    if platform.machine() != "x86_64":
        raise GuestUnavailableError(f"guests are x86-64 only so far; this machine is {platform.machine()}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        work = Path(name)
        apt = ["apt-get", "-q", *coming_release(work)]
        _run([*apt, "update"])
        _run([*apt, "install", "-y", "--no-install-recommends", "--download-only", _PACKAGE])
        built = work / "qemu"
        (built / "root").mkdir(parents=True)
        for archive in sorted((work / "cache/archives").glob("*.deb")):
            _run(["dpkg", "-x", str(archive), str(built / "root")])
        wrapper = built / PROGRAM
        wrapper.write_text(_WRAPPER.format(libraries=_LIBRARIES, program=PROGRAM))
        wrapper.chmod(0o755)
        said = _run([str(wrapper), "--version"])
        version = re.search(r"version (\d+\.\d+)", said)
        if version is None:
            raise GuestUnavailableError(f"the QEMU that was fetched does not say its version: {said}")
        final = cache / f"qemu-{version[1]}"
        if final.exists():
            shutil.rmtree(final)
        built.rename(final)
    return final / PROGRAM


def _version(folder: Path) -> Version:
    major, _, minor = folder.name.removeprefix("qemu-").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise GuestUnavailableError(
            f"{command[0]} is missing: QEMU can be fetched on Debian and what descends from it"
        ) from error
    if done.returncode:
        raise GuestUnavailableError(
            f"`{' '.join(command)}` failed with status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def main() -> int:
    """Fetch QEMU; return the exit status."""
    try:
        program = fetch_qemu()
    except GuestUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{program}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
