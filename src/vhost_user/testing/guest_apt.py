"""Packages of Debian's coming release: an apt with lists of its own, which leaves the system's alone."""

from __future__ import annotations

from pathlib import Path

_SUITE = "testing"
_MIRROR = "http://deb.debian.org/debian"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def coming_release(folder: Path) -> list[str]:
    """Options of apt-get and apt-cache, which keep their lists in ``folder``.

    Nothing counts as installed, so that a download brings all that a package needs.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources").write_text(f"deb [signed-by={_KEYS}] {_MIRROR} {_SUITE} main\n")
    settings = {
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
        "Dir::Etc::sourcelist": str(folder / "sources"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(folder),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
