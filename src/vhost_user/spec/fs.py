"""File system device, virtio id 26 (virtio 1.4 section 5.11): FUSE messages over queues."""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

from vhost_user.spec.record import Record

TAG_SIZE = 36
"""Bytes of the tag, filled with zeroes; a tag of full length has no final zero."""
HIGH_PRIORITY_QUEUE = 0


class FsFeature(IntFlag):
    """Feature bits of the file system device."""

    NOTIFICATION = 1 << 0


@dataclass(frozen=True, slots=True)
class FsConfig(Record):
    """Configuration space; ``notify_buf_size`` in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<{TAG_SIZE}sII")
    tag: bytes
    num_request_queues: int = 1
    notify_buf_size: int = 0


class FuseOpcode(IntEnum):
    """What a FUSE request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


@dataclass(frozen=True, slots=True)
class FuseInHeader(Record):
    """Before each FUSE request; ``len`` counts header and arguments in bytes."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQQIIIHxx")
    len: int
    opcode: int
    unique: int
    nodeid: int
    uid: int = 0
    gid: int = 0
    pid: int = 0
    total_extlen: int = 0


@dataclass(frozen=True, slots=True)
class FuseOutHeader(Record):
    """Before each FUSE answer; ``len`` counts header and data in bytes, ``error`` is 0 or minus an errno."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IiQ")
    len: int
    error: int
    unique: int
