"""Messages cut out of a byte stream, descriptors kept with the message they came with (C001 to C021)."""

from collections.abc import Iterable
from dataclasses import dataclass

from vhost_user.protocol.errors import Disconnected, ProtocolError
from vhost_user.protocol.fds import OwnedFds, close_all
from vhost_user.spec.structs import (
    KNOWN_FLAGS,
    MAX_FDS,
    MAX_PAYLOAD_SIZE,
    PROTOCOL_VERSION,
    VERSION_MASK,
    Header,
    HeaderFlag,
)
from vhost_user.spec.table import RequestTable


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes to send, and the descriptors to send with the first of them, which stay the caller's."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole message as it arrived. ``fds`` belong to whoever has the frame."""

    header: Header
    payload: bytes
    fds: OwnedFds

    @property
    def is_reply(self) -> bool:
        """Whether the REPLY bit is set."""
        return bool(self.header.flags & HeaderFlag.REPLY)

    @property
    def need_reply(self) -> bool:
        """Whether the NEED_REPLY bit is set."""
        return bool(self.header.flags & HeaderFlag.NEED_REPLY)


def encode(request: int, flags: int, payload: bytes = b"") -> bytes:
    """Header and payload as they stand on the wire; no check at all, so that tests can send anything."""
    return Header(request, flags, len(payload)).pack() + payload


class FrameDecoder:
    """Cuts frames out of what was read, never asking for a byte beyond the current message (C015).

    Read at most ``wanted`` bytes with one ``recvmsg`` and give them, with the descriptors that came along, to
    ``receive``. Descriptors belong to the decoder from that call on; they are closed on every error. After an
    error the decoder refuses to go on: where the next message starts is not known.
    """

    def __init__(
        self,
        table: RequestTable,
        *,
        allow_reserved_flags: bool = False,
        maximum_payload: int = MAX_PAYLOAD_SIZE,
        maximum_fds: int = MAX_FDS,
    ) -> None:
        self._table = table
        self._allow_reserved_flags = allow_reserved_flags
        self._maximum_payload = maximum_payload
        self._maximum_fds = maximum_fds
        self._buffer = bytearray()
        self._header: Header | None = None
        self._fds = OwnedFds()
        self._broken = False

    @property
    def wanted(self) -> int:
        """How many bytes to read next at most; 0 once the decoder has given up."""
        if self._broken:
            return 0
        whole = Header.SIZE if self._header is None else Header.SIZE + self._header.size
        return whole - len(self._buffer)

    @property
    def inside_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._buffer)

    def close(self) -> None:
        """Give up: close what is held and take nothing more."""
        self._broken = True
        self._buffer.clear()
        self._fds.close()

    def receive(self, data: bytes, fds: Iterable[int] = (), *, truncated: bool = False) -> Frame | None:
        """Take what one ``recvmsg`` returned; empty ``data`` is the end of the stream.

        ``truncated`` says that MSG_CTRUNC or MSG_TRUNC was set. Returns a frame when one is complete. Raises
        ProtocolError when the stream makes no sense, Disconnected at its end, ValueError when ``data`` is
        longer than ``wanted``, which is the caller's mistake.
        """
        if self._broken:
            close_all(fds)
            raise ProtocolError(
                "the stream was given up after an earlier error", rule="C019", message=self._name()
            )
        try:
            self._take(data, list(fds), truncated=truncated)
        except BaseException:
            self.close()
            raise
        if self.wanted or self._header is None:
            return None
        frame = Frame(self._header, bytes(self._buffer[Header.SIZE :]), OwnedFds(self._fds.take()))
        self._buffer.clear()
        self._header = None
        return frame

    def _take(self, data: bytes, arrived: list[int], *, truncated: bool) -> None:
        first = not self._buffer
        self._fds.add(arrived)
        if len(data) > self.wanted:
            raise ValueError(f"{len(data)} bytes given, {self.wanted} wanted")
        if not data:
            self._end()
        if truncated:
            raise self._error("ancillary data was cut off (more file descriptors than we take?)", "C011")
        if arrived and not first:
            raise self._error(f"{len(arrived)} file descriptors came after the first byte", "C009")
        if len(self._fds) > self._maximum_fds:
            raise self._error(
                f"{len(self._fds)} file descriptors came, at most {self._maximum_fds} may", "C010"
            )
        self._buffer += data
        if self._header is None and len(self._buffer) == Header.SIZE:
            self._header = Header.unpack(self._buffer)
            self._check(self._header)

    def _end(self) -> None:
        if not self._buffer:
            raise Disconnected
        part = "the header" if self._header is None else "the payload"
        raise Disconnected(f"{self._name() or 'message'}: the stream ended inside {part}", clean=False)

    def _check(self, header: Header) -> None:
        if header.flags & VERSION_MASK != PROTOCOL_VERSION:
            raise self._error(
                f"protocol version {header.flags & VERSION_MASK}, not {PROTOCOL_VERSION}", "C002"
            )
        if header.flags & ~KNOWN_FLAGS and not self._allow_reserved_flags:
            raise self._error(f"reserved flags in {header.flags:#x}", "C005")
        if header.size > self._maximum_payload:
            raise self._error(
                f"payload of {header.size} bytes, at most {self._maximum_payload} are legal", "C007"
            )

    def _name(self) -> str | None:
        if self._header is None:
            return None
        row = self._table.get(self._header.request)
        return row.name if row else f"request {self._header.request}"

    def _error(self, reason: str, rule: str) -> ProtocolError:
        return ProtocolError(reason, rule=rule, message=self._name())
