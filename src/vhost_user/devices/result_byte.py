"""The answer of device types whose requests end with a result: one byte, the last of what the driver gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.engine.device.request import Request

RESULT = 1


def refuse(request: Request, result: int, *, most: int) -> None:
    """Write the result alone; what is before it counts as written, so that the result does.

    That is up to ``most`` bytes, which are filled with zeroes. More is no request of the device type.
    """
    if RESULT < request.writable <= most + RESULT:
        request.fill(0, keep=RESULT)
    if request.writable:
        request.write_last(bytes((result,)))
