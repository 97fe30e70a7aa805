"""The JSON files that tell QEMU and libvirt which back-end programs there are (C145)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from vhost_user.cli.failure import CommandError

_SHIPPED = Path(__file__).parent / "qemu"


def program_path(name: str) -> Path:
    """Where the program ``name`` of this installation is. Raises CommandError if it is nowhere."""
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    found = shutil.which(name)
    if found is None:
        raise CommandError(
            f"the program {name} is neither beside {sys.executable} nor in PATH; install the package first"
        )
    return Path(found).absolute()


def folder_for(prefix: Path | None) -> Path:
    """``PREFIX/share/qemu/vhost-user``, or the user's own folder if no prefix is given."""
    if prefix is not None:
        return prefix / "share" / "qemu" / "vhost-user"
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "qemu" / "vhost-user"


def install(folder: Path) -> list[Path]:
    """Write the files, each with the path of its program in this installation; the paths written."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shipped in sorted(_SHIPPED.glob("*.json")):
            content = json.loads(shipped.read_text())
            content["binary"] = str(program_path(Path(content["binary"]).name))
            target = folder / shipped.name
            temporary = target.with_name(f".{target.name}.new")
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            temporary.replace(target)
            written.append(target)
    except OSError as error:
        raise CommandError(
            f"cannot write to {folder}: {error.strerror}; choose another --prefix, "
            "or leave it out to install for yourself only"
        ) from error
    return written
