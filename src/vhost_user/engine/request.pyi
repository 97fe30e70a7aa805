"""One request: a descriptor chain taken from a ring, with the copies in and out and its completion."""

import struct
from collections.abc import Callable
from typing import Any, Self, final

from _typeshed import ReadableBuffer, WriteableBuffer

from vhost_user.engine.memory import GuestMemory

@final
class Header:
    """A fixed request header, compiled once.

    ``Header("<IIQ")`` as for the struct module (little-endian integers b B h H i I q Q and pad x), always
    without alignment: ``"HQ"`` has 10 bytes here, in ``struct`` 16. A device's ``header`` must say ``"<HQ"``.

    ``into`` is called with the fields, and what it returns is ``request.header``: a named tuple or a
    dataclass for example. ``Header(VsockHeader)`` takes the format of a class from its ``LAYOUT`` and makes
    an object of it. Raises ValueError for a format, TypeError for a class, that cannot be used.
    """

    def __init__(self, format: str | type[Any], into: Callable[..., Any] | None = None) -> None: ...  # noqa: A002  # as in the struct module
    @property
    def size(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def into(self) -> Callable[..., Any] | None: ...

@final
class Request:
    """A descriptor chain made available by the driver: two byte streams across its descriptors.

    Descriptors were copied once and checked (V051). The device-readable part is consumed by ``read*`` and
    ``unpack``, the device-writable part filled by ``write*``; both keep a position. A range that is not
    mapped raises MemoryFault when touched (V011), using a request after completion or after its session
    ended raises RequestError. Complete it exactly once, from any thread, in any order; a second
    ``complete`` raises RequestError, one after the session ended does nothing. Do not keep a request after
    completing it: the object is recycled.
    """

    @property
    def queue(self) -> int:
        """Index of the queue it came from."""
    @property
    def head(self) -> int:
        """Head descriptor index (split) or buffer id (packed)."""
    @property
    def readable(self) -> int:
        """Device-readable bytes left to read."""
    @property
    def writable(self) -> int:
        """Device-writable bytes left to write."""
    @property
    def readable_total(self) -> int: ...
    @property
    def writable_total(self) -> int: ...
    @property
    def written(self) -> int:
        """Bytes written contiguously from the first writable one: what used.len will say (V014)."""
    @property
    def header(self) -> Any:
        """The fields of the queue's declared Header: a tuple of numbers, or what its ``into`` makes of them.

        Decoded from the first bytes of the readable part: read once, the position moves past it at the
        first access. Raises RequestError if the part is shorter or no header was declared.
        """
    @property
    def held(self) -> bool: ...
    @property
    def holds(self) -> int:
        """How many times ``hold`` was called, by the framework or the device."""
    @property
    def completed(self) -> bool: ...
    @property
    def alive(self) -> bool:
        """False once the session ended or the ring was stopped without draining.

        Completing then does nothing.
        """
    @property
    def error(self) -> Exception | None:
        """What kept a call of its Batch from serving it; None while nothing did."""
    @property
    def user_data(self) -> Any:
        """Free for the device; None at first."""
    @user_data.setter
    def user_data(self, value: Any) -> None: ...
    def read(self, length: int = -1, /) -> bytes:
        """The next ``length`` readable bytes (all that are left if negative; fewer at the end).

        The guest decides how many are left, up to 4 GiB. Without a length at most ``Vring.max_read`` are
        given, 16 MiB unless the device says otherwise; RequestError if there are more.
        """
    def read_at(self, position: int, length: int, /) -> bytes:
        """Exactly ``length`` bytes of the readable part from ``position`` on, which counts from its beginning.

        The position of the stream stays. Raises RequestError if the part is shorter.
        """
    def read_into(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` from the readable part; returns the number of bytes copied."""
    def unpack(self, format: str | struct.Struct, /) -> tuple[Any, ...]:  # noqa: A002  # as above
        """Read and unpack exactly that many bytes; raises RequestError if fewer are left."""
    def write(self, data: ReadableBuffer, /) -> int:
        """Append to the writable part. Raises RequestError if it does not fit (nothing is written then)."""
    def pack(self, format: str | struct.Struct, /, *values: Any) -> int: ...  # noqa: A002  # as above
    def fill(self, byte: int, length: int = -1, /, *, keep: int = 0) -> int:
        """Write the same byte ``length`` times.

        A negative ``length`` fills the writable part to its end, but for the last ``keep`` bytes.
        """
    def skip_readable(self, length: int, /) -> None: ...
    def skip_writable(self, length: int, /) -> None:
        """Leave a gap: ``written`` stops counting there."""
    def write_last(self, data: ReadableBuffer, /) -> None:
        """Write to the end of the writable part (a trailing status field) without moving the position.

        Counted in ``written`` when everything before it was written.
        """
    def write_at(self, position: int, data: ReadableBuffer, /) -> int:
        """Write into the writable part from ``position`` on, which counts from its beginning, and mark it dirty.

        The position of the stream stays: for a header that is known only after the data, with
        ``skip_writable`` first. Filling the gap makes ``written`` count on after it. Raises RequestError,
        with nothing written, if the part is shorter.
        """
    def write_from(self, source: ReadableBuffer, offset: int = 0, length: int = -1, /, *, keep: int = -1) -> int:
        """Copy ``length`` bytes of ``source`` from ``offset`` on straight into guest memory.

        If that is negative, the rest of ``source``; with ``keep``, as many as fill the writable part but for
        its last ``keep`` bytes. Large ones without the GIL.
        """
    def read_to(self, target: WriteableBuffer, offset: int = 0, length: int = -1, /) -> int:
        """Copy the next readable bytes straight into ``target`` at ``offset``."""
    def write_from_file(self, fd: int, offset: int, length: int = -1, /) -> int:
        """``preadv`` from the file straight into guest memory.

        Returns the bytes moved (short at end of file). ``offset`` -1 reads at the file's own position
        (pipes, sockets, character devices). Raises OSError; MemoryFault on EFAULT.
        """
    def read_to_file(self, fd: int, offset: int, length: int = -1, /) -> int:
        """``pwritev`` from guest memory straight to the file. Same rules."""
    def readable_views(self) -> list[memoryview]:
        """Read-only views of what is left of the readable part, one a segment.

        They keep the memory mapped.
        """
    def writable_views(self) -> list[memoryview]:
        """Writable views of what is left of the writable part.

        Tell ``advance_writable`` how much was written: that marks the pages dirty.
        """
    def advance_writable(self, length: int, /) -> None: ...
    def memory(self) -> GuestMemory:
        """The snapshot of guest memory that the chain was translated with; RequestError once it is complete."""
    def segments(self) -> list[tuple[int, int, bool]]:
        """Guest address, length in bytes and whether the device writes it, of each segment in order.

        Descriptors of length 0 are not among them, and one that lies in several memory regions is several.
        """
    def split_readable_at(self, offset: int, /) -> tuple[ReadablePart, ReadablePart]:
        """What is left of the readable part, in two: the first ``offset`` bytes, and the rest.

        Each has a position of its own, and the request's stays. Raises RequestError if fewer are left.
        """
    def split_writable_at(self, offset: int, /) -> tuple[WritablePart, WritablePart]:
        """What is left of the writable part, in two, in the same way.

        What is written through them counts in ``written`` as with ``write_at``.
        """
    def describe(self) -> str:
        """The chain in words, for logs and failure output."""
    def hold(self) -> None:
        """Take the request over: returning from ``handle`` does not complete it.

        Somebody calls ``complete`` later.
        """
    def complete(self, written: int = -1, /) -> None:
        """Give the chain back to the driver, and notify it if it wants to be.

        The driver is told that ``written`` bytes were written, by default as many as were.
        """

class RequestPart:
    """A stretch of the readable or writable part of a request, with a position of its own."""

    @property
    def position(self) -> int:
        """Bytes of it that were read, written or skipped."""
    @property
    def left(self) -> int:
        """Bytes of it that were not."""
    def __len__(self) -> int: ...
    def skip(self, length: int, /) -> None:
        """Move over so many bytes; RequestError if fewer are left."""
    def views(self) -> list[memoryview]:
        """Views of what is left, one a segment, as ``Request.readable_views`` or ``writable_views``."""
    def split_at(self, offset: int, /) -> tuple[Self, Self]:
        """What is left, in two: the first ``offset`` bytes, and the rest."""

@final
class ReadablePart(RequestPart):
    def read(self, length: int = -1, /) -> bytes:
        """The next ``length`` bytes (all that are left if negative, as ``Request.read``; fewer at the end)."""

@final
class WritablePart(RequestPart):
    def write(self, data: ReadableBuffer, /) -> int:
        """Write the next bytes, and mark them dirty; RequestError if they do not fit."""

DescriptorChain = Request
