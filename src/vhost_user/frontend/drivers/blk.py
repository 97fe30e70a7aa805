"""Driver of the block device (virtio 1.4 section 5.2), with a file object on top."""

import io
import struct
import time
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from vhost_user.engine.driver.block_transfer import BlockTransfer
from vhost_user.frontend.driver import Target
from vhost_user.frontend.drivers.device import DeviceDriver
from vhost_user.frontend.errors import DeviceError
from vhost_user.frontend.pending import Pending
from vhost_user.protocol.errors import Disconnected, PeerTimeout
from vhost_user.spec.blk import (
    IDENTITY_SIZE,
    REQUEST_FORMAT,
    SECTOR_SIZE,
    SEGMENT,
    SEGMENT_FLAG_UNMAP,
    BlkConfig,
    BlkFeature,
    BlkRequestType,
    BlkStatus,
)
from vhost_user.spec.features import ProtocolFeature

HEADER = struct.Struct(REQUEST_FORMAT)
MAX_TRANSFER = 1 << 20
"""Bytes that one request moves at most; more is split."""
NO_STATUS = 0xFF
LOOK_UP_SECONDS = 0.1
"""How often a transfer of many blocks comes up to see signals and a back-end that went away."""


class BlockDriver(DeviceDriver):
    """``with BlockDriver("/run/blk.sock", num_queues=4) as disk: disk.read(0, 8)``. Sectors have 512 bytes.

    Every request raises DeviceError when the device reports an error, with its ``status``. Requests of one
    thread go to the queue it names (``queue=0``).
    """

    FEATURES: ClassVar[int] = (
        BlkFeature.SIZE_MAX
        | BlkFeature.SEG_MAX
        | BlkFeature.GEOMETRY
        | BlkFeature.RO
        | BlkFeature.BLK_SIZE
        | BlkFeature.FLUSH
        | BlkFeature.TOPOLOGY
        | BlkFeature.CONFIG_WCE
        | BlkFeature.MQ
        | BlkFeature.DISCARD
        | BlkFeature.WRITE_ZEROES
    )

    def __init__(self, target: Target, **options: Any) -> None:
        self.config = BlkConfig()
        super().__init__(target, **options)

    def ready(self) -> None:
        """Read the configuration space."""
        self.read_configuration()

    def read_configuration(self) -> BlkConfig:
        """Read the configuration space again, as after a change of the capacity."""
        if self.frontend.has_protocol_feature(ProtocolFeature.CONFIG):
            size = self._config_size()
            self.config = BlkConfig.unpack(self.read_config(0, size).ljust(BlkConfig.SIZE, b"\0"))
        return self.config

    def _config_size(self) -> int:
        """As much as the negotiated features define; some back-ends refuse to read beyond what they have."""
        for feature, end in (
            (BlkFeature.ZONED, 96),
            (BlkFeature.SECURE_ERASE, 72),
            (BlkFeature.WRITE_ZEROES, 60),
            (BlkFeature.DISCARD, 48),
            (BlkFeature.MQ, 36),
            (BlkFeature.CONFIG_WCE, 33),
            (BlkFeature.TOPOLOGY, 32),
            (BlkFeature.BLK_SIZE, 24),
        ):
            if self.features & feature:
                return end
        return 20

    @property
    def capacity(self) -> int:
        """Sectors of 512 bytes."""
        return self.config.capacity

    @property
    def size(self) -> int:
        """Bytes."""
        return self.config.capacity * SECTOR_SIZE

    @property
    def read_only(self) -> bool:
        """Whether the device says that it cannot be written."""
        return bool(self.features & BlkFeature.RO)

    def read(self, sector: int, count: int, *, queue: int = 0) -> bytes:
        """Read ``count`` sectors."""
        data = bytearray(count * SECTOR_SIZE)
        self.readinto(sector, data, queue=queue)
        return bytes(data)

    def readinto(self, sector: int, buffer: Any, *, queue: int = 0) -> int:
        """Fill ``buffer``, a whole number of sectors, from ``sector`` on; returns its size in bytes."""
        target = memoryview(buffer).cast("B")
        _whole(len(target))
        pieces = []
        for offset in range(0, len(target), MAX_TRANSFER):
            length = min(MAX_TRANSFER, len(target) - offset)
            header = HEADER.pack(BlkRequestType.IN, 0, sector + offset // SECTOR_SIZE)
            pieces.append((offset, length, self._submit(queue, header, (length, 1))))
        for offset, length, pending in pieces:
            self._finish(pending, BlkRequestType.IN, sector + offset // SECTOR_SIZE)
            if pending.length != length + 1:
                raise DeviceError(
                    f"read of {length} bytes at sector {sector}: the device says it wrote {pending.length}",
                    rule="V014",
                )
            target[offset : offset + length] = pending.view[:length]
            pending.release()
        return len(target)

    def read_blocks(
        self,
        sector: int,
        buffer: Any,
        *,
        queue: int = 0,
        depth: int = 32,
        block_size: int = 4096,
        polling: bool = False,
    ) -> int:
        """Fill ``buffer`` from ``sector`` on with ``depth`` requests of ``block_size`` bytes in flight.

        The compiled way to read much, without the GIL; returns its size in bytes. With ``polling`` it spins
        instead of sleeping until the device signals. The queue must be idle and is its own meanwhile. Raises
        DeviceError for the first block that failed, PeerTimeout, Disconnected, DeviceBroken.
        """
        transfer = BlockTransfer(
            self.queues[queue].ring,
            buffer,
            sector=sector,
            depth=depth,
            block_size=block_size,
            polling=polling,
        )
        self._carry_out(transfer, sector)
        return transfer.size

    def first_difference(
        self,
        sector: int,
        expected: Any,
        *,
        queue: int = 0,
        depth: int = 32,
        block_size: int = 4096,
        polling: bool = False,
    ) -> int | None:
        """Read like ``read_blocks`` and compare with ``expected``, which may be a map of an image file.

        Returns the offset in ``expected`` of the first byte that differs, None when all are equal. Raises
        the same errors.
        """
        transfer = BlockTransfer(
            self.queues[queue].ring,
            expected,
            sector=sector,
            compare=True,
            depth=depth,
            block_size=block_size,
            polling=polling,
        )
        self._carry_out(transfer, sector)
        return transfer.difference if transfer.differs else None

    def _carry_out(self, transfer: BlockTransfer, sector: int) -> None:
        """Run it to its end, whatever that is; the queue is ours again unless the device never answers."""
        answered, last = 0, time.monotonic()
        try:
            while not transfer.run(LOOK_UP_SECONDS):
                now = time.monotonic()
                if transfer.completed != answered:
                    answered, last = transfer.completed, now
                elif self.frontend.hung_up():
                    raise Disconnected(
                        f"queue {transfer.queue.index}: the back-end went away during a transfer"
                    )
                elif now - last > self.timeout:
                    raise PeerTimeout(
                        f"queue {transfer.queue.index}: the device did not answer in time\n"
                        f"{transfer.queue.describe()}"
                    )
        except KeyboardInterrupt:
            transfer.stop()
            transfer.run(self.timeout)  # takes back what is in flight
            raise
        finally:
            transfer.close()
        at = sector + transfer.error_offset // SECTOR_SIZE
        if transfer.error_status > 0:
            self._refuse(BlkRequestType.IN, at, transfer.error_status)
        if transfer.error_status == 0:
            raise DeviceError(
                f"read at sector {at}: the device says it wrote {transfer.error_length} bytes",
                rule="V014",
            )

    def write(self, sector: int, data: Any, *, queue: int = 0) -> int:
        """Write ``data``, a whole number of sectors; returns its size in bytes."""
        source = memoryview(data).cast("B")
        _whole(len(source))
        pieces = []
        for offset in range(0, len(source), MAX_TRANSFER):
            at = sector + offset // SECTOR_SIZE
            header = HEADER.pack(BlkRequestType.OUT, 0, at)
            piece = source[offset : offset + MAX_TRANSFER]
            pieces.append((at, self._submit(queue, [header, piece], (1,))))
        for at, pending in pieces:
            self._finish(pending, BlkRequestType.OUT, at)
            pending.release()
        return len(source)

    def flush(self, *, queue: int = 0) -> None:
        """Have everything written put to stable storage."""
        self._simple(queue, BlkRequestType.FLUSH, b"")

    def discard(self, sector: int, count: int, *, queue: int = 0) -> None:
        """Tell the device that the contents of these sectors do not matter any more."""
        self._simple(queue, BlkRequestType.DISCARD, SEGMENT.pack(sector, count, 0))

    def write_zeroes(self, sector: int, count: int, *, unmap: bool = False, queue: int = 0) -> None:
        """Have sectors zeroed; with ``unmap`` the device may give their storage back."""
        flags = SEGMENT_FLAG_UNMAP if unmap else 0
        self._simple(queue, BlkRequestType.WRITE_ZEROES, SEGMENT.pack(sector, count, flags))

    def get_id(self, *, queue: int = 0) -> bytes:
        """The device's identity, up to 20 bytes."""
        pending = self._submit(queue, HEADER.pack(BlkRequestType.GET_ID, 0, 0), (IDENTITY_SIZE, 1))
        self._finish(pending, BlkRequestType.GET_ID, 0)
        identity = pending.data[:IDENTITY_SIZE].split(b"\0")[0]
        pending.release()
        return identity

    def command(
        self,
        kind: int,
        sector: int = 0,
        data: bytes | Iterable[bytes] = b"",
        *,
        writable: int = 0,
        queue: int = 0,
    ) -> tuple[int, bytes]:
        """Any request at all: returns (status, the writable part before it).

        Nothing is raised for the status.
        """
        parts = [data] if isinstance(data, bytes) else list(data)
        header = HEADER.pack(kind, 0, sector)
        pending = self._submit(
            queue, [header, *(part for part in parts if part)], (writable, 1) if writable else (1,)
        )
        pending.wait(self.timeout)
        content = pending.data
        pending.release()
        return content[-1], content[:-1]

    def open(self, mode: str = "rb") -> "BlockFile":
        """The disk as a raw binary file: mode ``"rb"``, or ``"r+b"`` to write as well."""
        if mode not in ("rb", "r+b"):
            raise ValueError(f"mode {mode!r} is neither 'rb' nor 'r+b'")
        return BlockFile(self, writable=mode == "r+b")

    def _simple(self, queue: int, kind: BlkRequestType, data: bytes) -> None:
        header = HEADER.pack(kind, 0, 0)
        pending = self._submit(queue, [header, data] if data else header, (1,))
        self._finish(pending, kind, 0)
        pending.release()

    def _submit(self, queue: int, readable: Any, writable: tuple[int, ...]) -> Pending:
        pending = self.queues[queue].submit_when_free(readable, writable, self.timeout)
        # A device that forgets the status must not be taken for one that succeeded.
        self.memory.fill(pending.writable_address + pending.writable_size - 1, 1, NO_STATUS)
        pending.publish()
        return pending

    def _finish(self, pending: Pending, kind: BlkRequestType, sector: int) -> None:
        pending.wait(self.timeout)
        status = pending.view[-1]
        if status == BlkStatus.OK:
            return
        pending.release()
        self._refuse(kind, sector, status)

    @staticmethod
    def _refuse(kind: BlkRequestType, sector: int, status: int) -> NoReturn:
        words = {
            BlkStatus.IOERR: "an I/O error",
            BlkStatus.UNSUPP: "an unsupported request",
            NO_STATUS: "no status at all",
        }
        said = words.get(status, f"status {status}")
        raise DeviceError(f"{kind.name} at sector {sector}: the device reports {said}", status=status)


def _whole(size: int) -> None:
    if size % SECTOR_SIZE or not size:
        raise ValueError(f"{size} bytes are not a whole number of sectors of {SECTOR_SIZE} bytes")


class BlockFile(io.RawIOBase):
    """A disk as a raw file of fixed size; accesses may have any alignment.

    Wrap it in io.BufferedReader for small reads.
    """

    def __init__(self, disk: BlockDriver, *, writable: bool = False) -> None:
        super().__init__()
        self._disk = disk
        self._writable = writable
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writable

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._disk.size}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} is before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the disk; returns the number of bytes."""
        target = memoryview(buffer).cast("B")
        start = self._position
        end = min(start + len(target), self._disk.size)
        if end <= start:
            return 0
        first, last = start // SECTOR_SIZE, -(-end // SECTOR_SIZE)
        if start % SECTOR_SIZE == 0 and end % SECTOR_SIZE == 0:
            self._disk.readinto(first, target[: end - start])
        else:
            data = self._disk.read(first, last - first)
            skip = start - first * SECTOR_SIZE
            target[: end - start] = data[skip : skip + end - start]
        self._position = end
        return end - start

    def write(self, data: Any) -> int:
        """Write up to the end of the disk; sectors written in part are read first.

        Returns the number of bytes.
        """
        if not self._writable:
            raise io.UnsupportedOperation("the disk was opened for reading")
        source = memoryview(data).cast("B")
        start = self._position
        end = min(start + len(source), self._disk.size)
        if end <= start:
            return 0
        first, last = start // SECTOR_SIZE, -(-end // SECTOR_SIZE)
        if start % SECTOR_SIZE or end % SECTOR_SIZE:
            whole = bytearray(self._disk.read(first, last - first))
            skip = start - first * SECTOR_SIZE
            whole[skip : skip + end - start] = source[: end - start]
            self._disk.write(first, whole)
        else:
            self._disk.write(first, source[: end - start])
        self._position = end
        return end - start

    def flush(self) -> None:
        """Have everything written put to stable storage."""
        if self._writable and self._disk.queues and self._disk.features & BlkFeature.FLUSH:
            self._disk.flush()
