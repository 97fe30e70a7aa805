"""A back-end that says yes to everything, keeps every descriptor and checks nothing; and worse, by name."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from vhost_user.conformance import Facts, Target, TargetGone
from vhost_user.frontend.frontend import Frontend
from vhost_user.protocol.requester import Quirk
from vhost_user.spec.features import ProtocolFeature, VirtioFeature
from vhost_user.spec.requests import FRONTEND_REQUESTS, FrontendRequest
from vhost_user.spec.table import ReplyKind

REQUEST = FrontendRequest
HEADER = struct.Struct("=III")
FEATURES = int(VirtioFeature.VERSION_1 | VirtioFeature.PROTOCOL_FEATURES | VirtioFeature.LOG_ALL)
PROTOCOL = int(
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
    | ProtocolFeature.DEVICE_STATE
    | ProtocolFeature.SHMEM
    | ProtocolFeature.INBAND_NOTIFICATIONS
    | ProtocolFeature.SHARED_OBJECT
)
FACTS = Facts(FEATURES, PROTOCOL, 4, 8)


def _u64(value: int) -> bytes:
    return struct.pack("=Q", value)


class YesMan:
    """``bugs`` are names that the code below asks for; ``fatal`` requests end the whole server."""

    def __init__(
        self, path: Path, bugs: Iterable[str] = (), *, fatal: Iterable[int] = (), facts: Facts = FACTS
    ) -> None:
        self.path = path
        self.bugs = frozenset(bugs)
        self.fatal = frozenset(fatal)
        self.facts = facts
        self.kept: list[int] = []
        self.base = 0
        self.messages = 0
        self.shared_memory = 100
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        self._stop.close()
        self._listener.close()
        for fd in self.kept:
            os.close(fd)

    def _run(self) -> None:
        alive = True
        while alive and self._readable(self._listener):
            connection, _ = self._listener.accept()
            if "one-session" in self.bugs and "slow-end" not in self.bugs:
                # Before it serves: nobody else may come in while this thread waits for its turn.
                self._listener.close()
            with connection:
                alive = self._serve(connection) and "one-session" not in self.bugs
        if "slow-end" in self.bugs:
            time.sleep(0.1)  # with a listener that takes connections which nobody will serve
        self._listener.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        """Whether a fatal request, or the end of the only session, has ended it."""
        return not self._thread.is_alive()

    def _readable(self, *sockets: socket.socket) -> bool:
        ready = select.select([self._stop, *sockets], [], [])[0]
        return self._stop not in ready

    def _serve(self, connection: socket.socket) -> bool:
        """One session; False when the server is to end."""
        self.messages = 0
        while True:
            try:
                data = self._read(connection, HEADER.size, first=True)
                if len(data) < HEADER.size:
                    return not (data and "dies-inside" in self.bugs)
                request, flags, size = HEADER.unpack(data)
                if "checks-version" in self.bugs and flags & 3 != 1:
                    return False
                payload = self._read(connection, size)
                if len(payload) < size:
                    return "dies-inside" not in self.bugs
                self.messages += 1
                if request in self.fatal or (self.messages > 100 and "tires" in self.bugs):
                    return False
                if not self._answer(connection, request, flags, payload):
                    return True
            except OSError:
                return "dies-inside" not in self.bugs

    def _read(self, connection: socket.socket, size: int, *, first: bool = False) -> bytes:
        data = b""
        while len(data) < size:
            if "jealous" in self.bugs:
                if not self._readable(connection, self._listener):
                    return b""
                if select.select([self._listener], [], [], 0)[0]:
                    self._listener.accept()[0].close()
                    return b""
            elif not self._readable(connection):
                return b""
            wanted = 4096 if first and "greedy" in self.bugs else size - len(data)
            piece, ancillary, _, _ = connection.recvmsg(wanted, 1200)
            for _level, _kind, content in ancillary:
                self.kept += array.array("i", content[: len(content) // 4 * 4])
            data += piece
            if not piece or "one-read" in self.bugs:
                break
        if first and "greedy" in self.bugs:
            return data[: HEADER.size]
        return data

    def _answer(self, connection: socket.socket, request: int, flags: int, payload: bytes) -> bool:
        answer, fds = self._reply(request, payload)
        if request in self.hangs_up:
            return False
        own = answer is not None
        asked = bool(flags & 8)
        if answer is None:
            answer = struct.pack("=Q", 0)
        if not own and ("no-acks" in self.bugs if asked else "eager" not in self.bugs):
            return True
        reply_flags = 1 if "plain-flags" in self.bugs else 5
        number = request + 1 if "other-id" in self.bugs else request
        message = HEADER.pack(number, reply_flags, len(answer)) + answer
        if own and asked and "two-replies" in self.bugs:
            message += HEADER.pack(request, 5, 8) + bytes(8)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        connection.sendmsg([message], ancillary)
        return True

    @property
    def hangs_up(self) -> set[int]:
        prefix = "hangs-up-on-"
        return {int(FrontendRequest[bug.removeprefix(prefix)]) for bug in self.bugs if bug.startswith(prefix)}

    def _reply(self, request: int, payload: bytes) -> tuple[bytes | None, list[int]]:
        """The payload of an answer, None where only an ack is due; and descriptors."""
        match request:
            case REQUEST.GET_FEATURES:
                return _u64(self.facts.features) + (bytes(8) if "long-reply" in self.bugs else b""), []
            case REQUEST.GET_PROTOCOL_FEATURES:
                return _u64(self.facts.protocol_features), []
            case REQUEST.GET_QUEUE_NUM:
                return _u64(0 if "no-queues" in self.bugs else self.facts.num_queues), []
            case REQUEST.SET_VRING_BASE if len(payload) == 8 and "stores-base" in self.bugs:
                _index, self.base = struct.unpack("=II", payload)
                return None, []
            case REQUEST.GET_VRING_BASE:
                return struct.pack("=II", 0, self.base), []
            case REQUEST.SET_LOG_BASE:
                return payload if "log-echo" in self.bugs else _u64(1), []
            case REQUEST.GET_CONFIG:
                far = "far-zeros" in self.bugs and int.from_bytes(payload[:4], "little") >= 256
                size = max(len(payload) - 12, 0)
                return payload[:8] + bytes(4) + (bytes(size) if far else os.urandom(size)), []
            case REQUEST.GET_MAX_MEM_SLOTS:
                return _u64(8), []
            case REQUEST.GET_INFLIGHT_FD:
                fd = os.memfd_create("short")
                os.ftruncate(fd, 4096)
                self.kept.append(fd)
                return struct.pack("=QQHH4x", 64, 0, 1, 64), [fd]
            case REQUEST.GET_SHMEM_CONFIG:
                return struct.pack("=II256Q", 1, 0, self.shared_memory, *([0] * 255)), []
            case _:
                row = FRONTEND_REQUESTS.get(request)
                if row is None or row.reply is ReplyKind.ACK:
                    return None, []
                return _u64(0), []


class YesManTarget(Target):
    """A yes-man that is started again when it has ended, as a command would be; its end is a death."""

    restartable = True

    def __init__(self, path: Path, **options: object) -> None:
        super().__init__(path, pid=os.getpid(), patience=0.2)
        self._options = options
        self._server = self._start()
        self._died = False

    def _start(self) -> YesMan:
        return YesMan(Path(self.path), **self._options)  # type: ignore[arg-type]  # as given

    def connect(self, *, timeout: float, quirks: Quirk = Quirk.TOLERANT) -> Frontend:
        self._bury()
        try:
            return super().connect(timeout=timeout, quirks=quirks)
        except TargetGone:  # it was ending just then
            self._server.join(5.0)
            self._bury()
            return super().connect(timeout=timeout, quirks=quirks)

    def _bury(self) -> None:
        if self._server.ended:
            self._died = True
            self.restart()

    def death(self, wait: float = 0.0) -> str | None:
        if wait:
            self._server.join(wait)
        self._bury()
        died, self._died = self._died, False
        return "the yes-man ended" if died else None

    def restart(self) -> None:
        self._server.close()
        Path(self.path).unlink(missing_ok=True)
        self._server = self._start()
        self.restarts += 1

    def close(self) -> None:
        self._server.close()
