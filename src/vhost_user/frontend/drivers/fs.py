"""Driver of the file system device (virtio 1.4 section 5.11).

A small FUSE client, enough to look around and read.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.fs import HIGH_PRIORITY_QUEUE, FsConfig, FuseInHeader, FuseOpcode, FuseOutHeader

ROOT = 1
"""Node id of the root directory."""
FUSE_MAJOR, FUSE_MINOR = 7, 31
MAX_READ = 1 << 17
INIT_IN = struct.Struct("<IIII")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
INIT_OUT_LEAST = 24
ENTRY_OUT = struct.Struct("<QQQQII")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
ATTRIBUTES_OUT = struct.Struct("<QII")
OPEN_IN = struct.Struct("<II")
OPEN_OUT = struct.Struct("<QII")
READ_IN = struct.Struct("<QQIIQII")
RELEASE_IN = struct.Struct("<QIIQ")
GETATTR_IN = struct.Struct("<IIQ")
DIRENT = struct.Struct("<QQII")
STATFS_OUT = struct.Struct("<QQQQQIII28x")


class FsAttributes(NamedTuple):
    """Attributes of a node, as ``os.stat`` names them where it can."""

    node: int
    st_ino: int
    st_size: int
    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_mtime: float


class FsDriver(DeviceDriver):
    """``with FsDriver(socket) as fs: fs.listdir("/"); fs.read_bytes("/etc/hostname")``.

    The file system is mounted (FUSE_INIT) when the constructor returns. Errors of the server are OSError with
    its errno and the path.
    """

    QUEUES: ClassVar[int] = 2

    def __init__(self, target: Target, **options: Any) -> None:
        self.tag = ""
        self.minor = 0
        self.max_write = 0
        self._unique = 0
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the tag where the back-end has it, and mount."""
        if self.frontend.has_protocol_feature(ProtocolFeature.CONFIG):
            config = FsConfig.unpack(self.read_config(0, FsConfig.SIZE))
            self.tag = config.tag.rstrip(b"\0").decode(errors="replace")
        flags = 0
        answer = self.call(
            FuseOpcode.INIT, 0, INIT_IN.pack(FUSE_MAJOR, FUSE_MINOR, 1 << 16, flags), INIT_OUT.size
        )
        if len(answer) < INIT_OUT_LEAST:
            raise DeviceError(f"the answer to FUSE_INIT has {len(answer)} bytes")
        major, self.minor, _, _, _, _, self.max_write, *_ = INIT_OUT.unpack(
            answer.ljust(INIT_OUT.size, b"\0")
        )
        if major != FUSE_MAJOR:
            raise DeviceError(f"the server speaks FUSE {major}, not {FUSE_MAJOR}")

    def call(
        self,
        opcode: FuseOpcode,
        node: int,
        arguments: bytes = b"",
        size: int = 0,
        *,
        path: str = "",
        queue: int = 1,
    ) -> bytes:
        """One FUSE request with up to ``size`` bytes of answer behind the header.

        Raises OSError, DeviceError.
        """
        self._unique += 2
        header = FuseInHeader(
            FuseInHeader.SIZE + len(arguments),
            opcode,
            self._unique,
            node,
            os.getuid(),
            os.getgid(),
            os.getpid(),
        )
        parts = [header.pack(), arguments] if arguments else [header.pack()]
        sizes = [FuseOutHeader.SIZE, size] if size else [FuseOutHeader.SIZE]
        answer = self.queues[queue].request(parts, sizes)
        if len(answer) < FuseOutHeader.SIZE:
            raise DeviceError(f"{opcode.name}: an answer of {len(answer)} bytes")
        out = FuseOutHeader.unpack(answer[: FuseOutHeader.SIZE])
        if out.unique != self._unique or not FuseOutHeader.SIZE <= out.len <= len(answer):
            raise DeviceError(f"{opcode.name}: the answer's header makes no sense: {out}")
        if out.error:
            raise OSError(-out.error, f"{opcode.name}: {os.strerror(-out.error)}", path or None)
        return answer[FuseOutHeader.SIZE : out.len]

    def forget(self, node: int, count: int = 1) -> None:
        """Give lookups back; no answer comes."""
        self._unique += 2
        header = FuseInHeader(FuseInHeader.SIZE + 8, FuseOpcode.FORGET, self._unique, node)
        self.queues[HIGH_PRIORITY_QUEUE].request([header.pack(), struct.pack("<Q", count)])

    def lookup(self, path: str) -> int:
        """Node id of a path; give it back with ``forget``. Raises FileNotFoundError and the like."""
        node = ROOT
        for name in filter(None, path.split("/")):
            answer = self.call(
                FuseOpcode.LOOKUP,
                node,
                os.fsencode(name) + b"\0",
                ENTRY_OUT.size + 8 + ATTRIBUTES.size,
                path=path,
            )
            if len(answer) < ENTRY_OUT.size:
                raise DeviceError(f"LOOKUP of {path}: an answer of {len(answer)} bytes")
            if node != ROOT:
                self.forget(node)
            node = ENTRY_OUT.unpack(answer[: ENTRY_OUT.size])[0]
            if node == 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def stat(self, path: str) -> FsAttributes:
        """Attributes of a path; symbolic links are not followed."""
        node = self.lookup(path)
        try:
            return self._attributes(node, path)
        finally:
            self._drop(node)

    def _attributes(self, node: int, path: str) -> FsAttributes:
        size = ATTRIBUTES_OUT.size + ATTRIBUTES.size
        answer = self.call(FuseOpcode.GETATTR, node, GETATTR_IN.pack(0, 0, 0), size, path=path)
        if len(answer) < size - 8:
            raise DeviceError(f"GETATTR of {path}: an answer of {len(answer)} bytes")
        fields = ATTRIBUTES.unpack(answer[ATTRIBUTES_OUT.size :].ljust(ATTRIBUTES.size, b"\0"))
        ino, length, _, _, mtime, _, _, mtime_ns, _, mode, nlink, uid, gid, *_ = fields
        return FsAttributes(node, ino, length, mode, nlink, uid, gid, mtime + mtime_ns / 1e9)

    def _drop(self, node: int) -> None:
        if node != ROOT:
            self.forget(node)

    def listdir(self, path: str = "/") -> list[str]:
        """Names in a directory, without ``.`` and ``..``."""
        return sorted(name for name, _ in self.entries(path) if name not in (".", ".."))

    def entries(self, path: str = "/") -> Iterator[tuple[str, int]]:
        """(name, type as in DT_…) of everything in a directory."""
        with _Handle(self, path, FuseOpcode.OPENDIR, FuseOpcode.RELEASEDIR) as handle:
            offset = 0
            while True:
                data = handle.read(FuseOpcode.READDIR, offset, 4096)
                if not data:
                    return
                for name, kind, following in _directory_entries(data, path):
                    offset = following
                    yield name, kind

    def read_bytes(self, path: str) -> bytes:
        """Contents of a file."""
        with _Handle(self, path, FuseOpcode.OPEN, FuseOpcode.RELEASE) as handle:
            content = bytearray()
            while data := handle.read(FuseOpcode.READ, len(content), MAX_READ):
                content += data
            return bytes(content)

    def readlink(self, path: str) -> str:
        """Target of a symbolic link."""
        node = self.lookup(path)
        try:
            return os.fsdecode(self.call(FuseOpcode.READLINK, node, b"", 4096, path=path))
        finally:
            self._drop(node)

    def statfs(self) -> dict[str, int]:
        """Size of the file system: blocks, bfree, bavail, files, ffree, bsize, namelen."""
        answer = self.call(FuseOpcode.STATFS, ROOT, b"", STATFS_OUT.size)
        names = ("blocks", "bfree", "bavail", "files", "ffree", "bsize", "namelen", "frsize")
        return dict(zip(names, STATFS_OUT.unpack(answer.ljust(STATFS_OUT.size, b"\0")), strict=True))

    def is_dir(self, path: str) -> bool:
        """Whether a path is a directory."""
        return stat.S_ISDIR(self.stat(path).st_mode)


class _Handle:
    """An open file or directory of the server."""

    def __init__(self, fs: FsDriver, path: str, opener: FuseOpcode, closer: FuseOpcode) -> None:
        self._fs, self._path, self._opener, self._closer = fs, path, opener, closer
        self._node = 0
        self._handle = 0

    def __enter__(self) -> "_Handle":
        self._node = self._fs.lookup(self._path)
        try:
            answer = self._fs.call(
                self._opener, self._node, OPEN_IN.pack(os.O_RDONLY, 0), OPEN_OUT.size, path=self._path
            )
        except BaseException:
            self._fs._drop(self._node)  # noqa: SLF001  # of the same module
            raise
        self._handle = OPEN_OUT.unpack(answer.ljust(OPEN_OUT.size, b"\0"))[0]
        return self

    def read(self, opcode: FuseOpcode, offset: int, size: int) -> bytes:
        arguments = READ_IN.pack(self._handle, offset, size, 0, 0, 0, 0)
        return self._fs.call(opcode, self._node, arguments, size, path=self._path)

    def __exit__(self, *exception: object) -> None:
        arguments = RELEASE_IN.pack(self._handle, os.O_RDONLY, 0, 0)
        self._fs.call(self._closer, self._node, arguments, path=self._path)
        self._fs._drop(self._node)  # noqa: SLF001  # of the same module


def _directory_entries(data: bytes, path: str) -> Iterator[tuple[str, int, int]]:
    position = 0
    while position < len(data):
        if position + DIRENT.size > len(data):
            raise DeviceError(f"READDIR of {path}: an entry is cut off")
        _, following, length, kind = DIRENT.unpack_from(data, position)
        start = position + DIRENT.size
        if start + length > len(data) or not length:
            raise DeviceError(f"READDIR of {path}: a name of {length} bytes is cut off")
        yield os.fsdecode(data[start : start + length]), kind, following
        position = start + (length + 7) // 8 * 8
