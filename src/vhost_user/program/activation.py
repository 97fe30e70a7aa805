"""Sockets that were opened for us before we were started: sd_listen_fds(3).

systemd does that, systemd-socket-activate, and other supervisors; where the variables are not set, nothing
happens.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass

from vhost_user.program.errors import ServeError

FIRST_FD = 3
"""SD_LISTEN_FDS_START: the first descriptor that is handed over."""
MAX_FDS = 64
"""More sockets than these are not for one device."""
CONTROL = "control"
"""FileDescriptorName of the control socket."""


@dataclass(frozen=True, slots=True)
class Activated:
    """Sockets that were opened for this process."""

    device: int | None
    control: int | None


def activated(environment: MutableMapping[str, str] = os.environ) -> Activated:
    """Take over what LISTEN_FDS hands over: at most one socket for front-ends, and one named ``control``.

    The variables are removed, and the descriptors closed in children. Where LISTEN_PID is not this process
    they are for another. Raises ServeError for what makes no sense.
    """
    given = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()):
        return Activated(None, None)
    if not given["LISTEN_FDS"].isdecimal() or int(given["LISTEN_FDS"]) > MAX_FDS:
        raise ServeError(f"LISTEN_FDS={given['LISTEN_FDS']} is not a number of sockets up to {MAX_FDS}")
    fds = range(FIRST_FD, FIRST_FD + int(given["LISTEN_FDS"]))
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    names += ["unknown"] * (len(fds) - len(names))
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise ServeError(f"LISTEN_FDS hands over descriptor {fd}: {error.strerror}") from error
    sockets = dict(zip(fds, names, strict=False))
    control = [fd for fd, name in sockets.items() if name == CONTROL]
    device = [fd for fd in fds if fd not in control]
    if len(device) > 1 or len(control) > 1:
        raise ServeError(
            f"{len(fds)} sockets are handed over ({', '.join(names)}): a device has one, and one for "
            f"commands with FileDescriptorName={CONTROL}"
        )
    return Activated(next(iter(device), None), next(iter(control), None))
