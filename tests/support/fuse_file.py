"""A file system of one file in user space, honest or hostile. It speaks to /dev/fuse itself.

usage: fuse_file.py MOUNT_POINT SIZE honest|silent

Mounts itself (needs root) and prints `mounted`. The file is MOUNT_POINT/memory. `silent` answers until the
file is open, and nothing any more after that: whoever asks waits, in the kernel, where no signal reaches it.
Nothing but the end of this process frees those, so it ends when its standard input does, or after two
minutes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys
import time

HEADER = struct.Struct("<IIQQIIIHH")
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, OPENDIR, ACCESS, INTERRUPT, BATCH_FORGET = 20, 25, 26, 27, 34, 36, 42
ROOT, FILE = 1, 2
LIFE = 120.0


class FileSystem:
    """The requests that one file and the folder around it need."""

    def __init__(self, device: int, size: int, *, silent: bool) -> None:
        self.device = device
        self.silent = silent
        self.content = bytearray(size)

    def attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o666
        size = 4096 if node == ROOT else len(self.content)
        # Times are 0; then mode, links, owner, group, device, block size.
        return struct.pack("<6Q10I", node, size, size // 512, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes | int:
        """What follows the header of the answer, or an error number."""
        if opcode == INIT:
            return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 8, 8, 65536, 1, 16, 0, *[0] * 8)
        if opcode == LOOKUP:
            if body.rstrip(b"\0") != b"memory":
                return errno.ENOENT
            # Names stay valid, attributes do not: who wants to know them asks each time.
            return struct.pack("<4Q2I", FILE, 0, 3600, 0, 0, 0) + self.attributes(FILE)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<Q2I", 1, 0, 0)
        if opcode == READ:
            offset, size = struct.unpack_from("<QI", body, 8)
            return bytes(self.content[offset : offset + size])
        if opcode == WRITE:
            offset, size = struct.unpack_from("<QI", body, 8)
            self.content[offset : offset + size] = body[40 : 40 + size]
            return struct.pack("<2I", size, 0)
        if opcode == STATFS:
            return struct.pack("<5Q4I6I", 1, 1, 1, 1, 1, 4096, 255, 4096, 0, *[0] * 6)
        if opcode in (FLUSH, RELEASE, FSYNC, ACCESS):
            return b""
        return errno.ENOSYS

    def serve(self) -> None:
        """Answer until the end."""
        end = time.monotonic() + LIFE
        quiet = False
        while True:
            ready, _, _ = select.select([self.device, 0], [], [], max(0.0, end - time.monotonic()))
            if self.device not in ready:
                return
            message = os.read(self.device, 1 << 20)
            _, opcode, unique, node, *_ = HEADER.unpack_from(message)
            if quiet or opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            found = self.answer(opcode, node, message[HEADER.size :])
            error, data = (-found, b"") if isinstance(found, int) else (0, found)
            os.write(self.device, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
            quiet = self.silent and opcode == OPEN


def main() -> None:
    """Mount and serve."""
    mount_point, size, kind = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"memory", mount_point.encode(), b"fuse.memory", 6, options.encode()) != 0:
        sys.exit(f"cannot mount at {mount_point}: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    try:
        FileSystem(device, int(size), silent=kind == "silent").serve()
    finally:
        libc.umount2(mount_point.encode(), 2)


if __name__ == "__main__":
    main()
