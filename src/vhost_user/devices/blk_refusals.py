"""Why a disk does not carry out a request, in words for the log; the guest sees a status byte."""

from __future__ import annotations

from vhost_user.spec.blk import SECTOR_SIZE, BlkStatus

IOERR = bytes((BlkStatus.IOERR,))


class BlkRequestError(Exception):
    """The driver asked for something that this disk does not do.

    The guest sees the status, the log the reason.
    """

    def __init__(self, message: str, *, status: bytes = IOERR) -> None:
        super().__init__(message)
        self.status = status


def no_status_byte() -> BlkRequestError:
    """There is nowhere to answer (H46)."""
    return BlkRequestError("the request has no writable byte for its status")


def bad_range(name: str, sector: int, length: int, sectors: int) -> BlkRequestError:
    """``length`` bytes from ``sector`` on are not whole sectors of a disk of ``sectors``."""
    if length < 0:
        return no_status_byte()
    if length % SECTOR_SIZE:
        return BlkRequestError(f"{name} of {length} bytes at sector {sector}: no multiple of {SECTOR_SIZE}")
    return BlkRequestError(
        f"{name} of {length // SECTOR_SIZE} sectors at sector {sector} passes the end of the disk, "
        f"which has {sectors} sectors"
    )


def short(name: str, sector: int, length: int) -> BlkRequestError:
    """The storage moved less than it was asked to."""
    return BlkRequestError(
        f"the image ended inside a {name} of {length} bytes at sector {sector}; was it truncated?"
    )
