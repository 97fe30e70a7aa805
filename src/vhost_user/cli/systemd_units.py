"""``vhost-user systemd-units``: the units with which systemd runs a device (docs/systemd.md)."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.cli.json_files import program_path
from vhost_user.device_types import UnknownDeviceTypeError, find, names

_DESCRIPTION = """\
Write the units with which systemd runs devices of one type: a template of a socket and one of a
service. An instance is a device: its options stand in /etc/vhost-user/TYPE/INSTANCE.conf, its
socket is /run/vhost-user/TYPE/INSTANCE.sock, and it is started when a front-end connects.

examples:
  vhost-user systemd-units blk                                  (show them)
  vhost-user systemd-units blk --directory=/etc/systemd/system
  echo 'OPTIONS=--blk-file=/srv/disk1.img' >/etc/vhost-user/blk/disk1.conf
  systemctl enable --now vhost-user-blk@disk1.socket
  vhost-user control /run/vhost-user/blk/disk1/control status
"""

SOCKET = """\
[Unit]
Description=Socket of the vhost-user {kind} device %i
Documentation=https://qemu.readthedocs.io/en/latest/interop/vhost-user.html

[Socket]
ListenStream=%t/vhost-user/{kind}/%i.sock
FileDescriptorName=device
# Whoever may connect has the device. For a VMM of another user: SocketUser= or SocketGroup= (systemctl edit).
SocketMode=0600
DirectoryMode=0755
# A front-end that comes while another is served waits here, or while the service restarts.
Backlog=8
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""
SERVICE = """\
[Unit]
Description=vhost-user {kind} device %i
Documentation=https://qemu.readthedocs.io/en/latest/interop/vhost-user.html
Requires=vhost-user-{kind}@%i.socket
After=vhost-user-{kind}@%i.socket
# However often it is killed, a running guest gets its device back.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
# OPTIONS=...: what `{shown} --help` lists, but for where to serve.
EnvironmentFile=-{configuration}/vhost-user/{kind}/%i.conf
ExecStart={program} --control=%t/vhost-user/{kind}/%i/control $OPTIONS
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=100ms
TimeoutStopSec=15s
RuntimeDirectory=vhost-user/{kind}/%i
RuntimeDirectoryMode=0700
LimitNOFILE=65536
NoNewPrivileges=yes
{hardening}"""
HARDENING = """\
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Run it as a user of its own: systemctl edit, and User=.
"""


def run_units(argv: Sequence[str]) -> int:
    """``vhost-user systemd-units``: the exit status."""
    parser = argparse.ArgumentParser(
        prog="vhost-user systemd-units",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("device", metavar="DEVICE", help=f"{', '.join(names())}, or path/file.py:Class")
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, help="write them there; without it they are shown"
    )
    parser.add_argument(
        "--user", action="store_true", help="for systemctl --user: units of ~/.config/systemd/user"
    )
    arguments = parser.parse_args(argv)
    units = units_of(arguments.device, user=arguments.user)
    if arguments.directory is None:
        print("\n".join(f"# {name}\n{text}" for name, text in units.items()), end="")
        return 0
    directory: Path = arguments.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in units.items():
            (directory / name).write_text(text)
            print(directory / name)
    except OSError as error:
        raise CommandError(f"cannot write to {directory}: {error.strerror}") from error
    print(f"now: systemctl {'--user ' if arguments.user else ''}daemon-reload", file=sys.stderr)
    return 0


def units_of(device: str, *, user: bool = False) -> dict[str, str]:
    """The text of each unit by its name. Raises CommandError when there is no such device or program."""
    kind, words = _program(device)
    fields = {
        "kind": kind,
        "program": " ".join(_quoted(word) for word in words),
        "shown": shlex.join(Path(word).name if number == 0 else word for number, word in enumerate(words)),
        # %E is /etc, or ~/.config for a user's own.
        "configuration": "%E",
        "hardening": "" if user else HARDENING,
    }
    return {
        f"vhost-user-{kind}@.socket": SOCKET.format(**fields),
        f"vhost-user-{kind}@.service": SERVICE.format(**fields),
    }


def _program(device: str) -> tuple[str, list[str]]:
    """What the units are called after, and the program with its first arguments."""
    if ":" in device:
        place, _, name = device.rpartition(":")
        if place.endswith(".py"):
            place = str(Path(place).absolute())
        return _unit_word(name), [_found("vhost-user"), "serve", f"{place}:{name}"]
    try:
        description = find(device)
    except UnknownDeviceTypeError:
        raise UsageError(
            f"there is no device {device!r}: use {', '.join(names())}, or path/file.py:Class"
        ) from None
    return description.name, [_found(f"vhost-user-{description.name}")]


def _found(program: str) -> str:
    path = program_path(program)
    if path is None:
        raise CommandError(f"the program {program} is neither beside {sys.executable} nor in PATH")
    return str(path)


def _unit_word(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_]\w*", name) is None:
        raise UsageError(f"{name!r} is not the name of a class")
    return name.lower()


def _quoted(word: str) -> str:
    """A word of ExecStart=, where % and $ mean something and a backslash does too (systemd.service(5))."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return plain if re.fullmatch(r"[\w@%+=:,./$-]+", word) else f'"{plain}"'
