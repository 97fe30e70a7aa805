"""The JSON files that tell QEMU and libvirt which back-end programs there are (C145)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from vhost_user.cli.failure import CommandError
from vhost_user.device_types import DeviceType, everything


def program_path(name: str) -> Path | None:
    """Where the program ``name`` of this installation is; None if it is nowhere."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    return None if found is None else Path(found).absolute()


def folder_for(prefix: Path | None) -> Path:
    """``PREFIX/share/qemu/vhost-user``, or the user's own folder if no prefix is given."""
    if prefix is not None:
        return prefix / "share" / "qemu" / "vhost-user"
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "qemu" / "vhost-user"


def install(folder: Path) -> list[Path]:
    """Write a file for each device type that has a program; the paths written.

    What is left out, because it has none or cannot be loaded, is said on stderr. Raises CommandError when
    nothing can be written.
    """
    found = everything()
    for error in found.broken:
        print(f"vhost-user: left out: {error}", file=sys.stderr)
    written = list(_install(folder, found.types))
    if not written:
        raise CommandError(
            f"no program vhost-user-TYPE is beside {sys.executable} or in PATH; install the package first"
        )
    return written


def _install(folder: Path, types: Iterable[DeviceType]) -> Iterable[Path]:
    for each in types:
        name = f"vhost-user-{each.name}"
        program = program_path(name)
        if program is None:
            print(
                f"vhost-user: {each.name} is left out: the program {name} is neither beside "
                f"{sys.executable} nor in PATH",
                file=sys.stderr,
            )
            continue
        content = {
            "description": f"vhost-user {each.name} device in Python: {each.title}",
            "type": each.capability_type,
            "binary": str(program),
        }
        target = folder / f"50-vhost-user-python-{each.name}.json"
        temporary = target.with_name(f".{target.name}.new")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(target)
        except OSError as error:
            raise CommandError(
                f"cannot write to {folder}: {error.strerror}; choose another --prefix, "
                "or leave it out to install for yourself only"
            ) from error
        yield target
