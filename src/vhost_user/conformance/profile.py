"""Requests by device type that are harmless and surely answered, so that rings can be seen at work."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from vhost_user.conformance.findings import Deviation
from vhost_user.spec.blk import SECTOR_SIZE, BlkFeature, BlkRequestType, BlkStatus
from vhost_user.spec.features import VirtioFeature

_DEVICE_BITS = (1 << 24) - 1
FUSE_GETATTR = 3
FUSE_HEADER = struct.Struct("<IIQQIIII")
FUSE_ANSWER = struct.Struct("<IiQ")
FUSE_UNIQUE = 0x1234
RNG_BYTES = 64
NET_HEADER = 12


@dataclass(frozen=True, slots=True)
class Profile:
    """A device type as the suite sees it.

    ``readable()`` and ``writable()`` make a request (bytes, and sizes in bytes of what is to be written),
    ``verify(data, length)`` raises Deviation when the answer is wrong: ``data`` is the whole writable part,
    ``length`` what used.len says. ``larger(n)`` is the size of a writable part of at least n bytes that such
    a request may have as well. ``queue`` takes such requests, ``queues`` are needed at least; with
    ``every_queue`` each other takes them, too.
    """

    name: str
    works: bool = True
    queue: int = 0
    queues: int = 1
    queue_size: int = 64
    readable: Callable[[], bytes] = bytes
    writable: Callable[[], int] = int
    verify: Callable[[bytes, int], None] = lambda _data, _length: None
    larger: Callable[[int], int] = int
    every_queue: bool = False


def blk_request(kind: int, sector: int = 0) -> bytes:
    """The header of a block request."""
    return struct.pack("<IIQ", kind, 0, sector)


def _verify_blk(data: bytes, length: int) -> None:
    if data[-1] != BlkStatus.OK:
        raise Deviation(f"reading sector 0 ends with status {data[-1]}")
    if length > len(data):
        raise Deviation(f"used.len is {length}, only {len(data)} bytes are writable")


def _verify_rng(data: bytes, length: int) -> None:
    if not 1 <= length <= len(data):
        raise Deviation(f"used.len is {length}: at least one random byte is due, {len(data)} fit")


def _fuse_request() -> bytes:
    return FUSE_HEADER.pack(FUSE_HEADER.size + 16, FUSE_GETATTR, FUSE_UNIQUE, 1, 0, 0, 0, 0) + bytes(16)


def _verify_fuse(data: bytes, length: int) -> None:
    size, _error, unique = FUSE_ANSWER.unpack_from(data)
    if unique != FUSE_UNIQUE or not FUSE_ANSWER.size <= size <= len(data):
        raise Deviation(f"the answer to GETATTR is not a FUSE answer: {data[:16].hex()}, used.len {length}")


GENERIC = Profile("generic", works=False)
PROFILES = {
    profile.name: profile
    for profile in (
        GENERIC,
        Profile(
            "blk",
            readable=lambda: blk_request(BlkRequestType.IN),
            writable=lambda: SECTOR_SIZE + 1,
            verify=_verify_blk,
            larger=lambda size: -(-size // SECTOR_SIZE) * SECTOR_SIZE + 1,
            every_queue=True,
        ),
        Profile("rng", writable=lambda: RNG_BYTES, verify=_verify_rng, every_queue=True),
        Profile(
            "fs",
            queue=1,
            queues=2,
            readable=_fuse_request,
            writable=lambda: FUSE_ANSWER.size + 104,
            verify=_verify_fuse,
        ),
        # The net device has no request that is always answered: somebody else must read and write packets.
        Profile("net", works=False, queues=2),
        # If somebody takes every packet that the guest sends, sending one is a request without an answer.
        Profile("net-receiving", queue=1, queues=2, readable=lambda: bytes(NET_HEADER + 60)),
    )
}


def guess(features: int, num_queues: int) -> str:
    """The device type that the offered features look like; the protocol itself does not tell.

    Unsure is ``generic``.
    """
    bits = features & _DEVICE_BITS
    if not bits and num_queues == 1 and features & VirtioFeature.VERSION_1:
        return "rng"
    blk = BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE
    net = 1 << 15 | 1 << 16 | 1 << 17  # MRG_RXBUF, STATUS, CTRL_VQ
    if bits & blk == blk and not bits & net:
        return "blk"
    if bits & net:
        return "net"
    return "generic"
