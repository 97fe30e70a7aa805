"""``ServedBoard``: every device of a board at a socket of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from vhost_user.backend import ownership
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.board.board import Board
from vhost_user.device_types.description import Version
from vhost_user.program.descriptor_limit import allow_descriptors
from vhost_user.program.guest_lines import MEMORY, qemu_lines
from vhost_user.protocol.listener import Listener


class ServedBoard:
    """Serves in threads until ``close``: ``with ServedBoard(board, "/tmp/board") as served: served.sockets``.

    The sockets are in ``folder``, which must exist: ``NAME.sock`` for the device of that name. Raises
    SocketError for a socket that cannot be made, ValueError or TypeError for a device that cannot be served;
    then nothing is served, and all devices are closed but those that somebody else serves.
    """

    def __init__(self, board: Board, folder: str | Path) -> None:
        self.board = board
        self.sockets = {name: Path(folder) / f"{name}.sock" for name in board.devices}
        """Where each device is, by name."""
        self.daemons: dict[str, VhostUserDaemon] = {}
        """What serves each."""
        with ExitStack() as stack:
            stack.callback(self._close_unserved)
            for name, device in board.devices.items():
                self.daemons[name] = stack.enter_context(VhostUserDaemon(name, device))
            allow_descriptors(sum(len(daemon.vrings) for daemon in self.daemons.values()))
            for name, daemon in self.daemons.items():
                listener = stack.enter_context(Listener.bind(self.sockets[name]))
                stack.callback(daemon.close)  # before the listener, which it uses
                daemon.start(listener)
            self._serving = stack.pop_all()

    def _close_unserved(self) -> None:
        """A device is closed by its daemon; for these none could be made."""
        for name, device in self.board.devices.items():
            if name not in self.daemons and not ownership.is_taken(device):
                device.close()

    @property
    def failure(self) -> tuple[str, Exception] | None:
        """The name of a device that nobody serves any more, and why; None while all are served."""
        for name, daemon in self.daemons.items():
            if daemon.failure is not None:
                return name, daemon.failure
        return None

    def close(self) -> None:
        """End it; the devices are closed. May be called again."""
        self._serving.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def guest_lines(self, *, version: Version | None = None) -> tuple[list[str], dict[str, str]]:
        """What to paste after ``qemu-system-x86_64`` for a guest with the whole board.

        Gives the lines, and for each device that this version of QEMU has none for, why.
        """
        lines, missing = [MEMORY], {}
        for name, device in self.board.devices.items():
            try:
                lines += qemu_lines(device, str(self.sockets[name]), version=version, chardev=name)[1:]
            except ValueError as error:  # NoQemuDeviceError, mostly
                missing[name] = str(error)
        return lines, missing
