"""System calls that fail although nothing is wrong: the kernel's own seccomp filter does it.

``fails`` lets a thread's calls fail a few times, or always; ``python -m tests.support.seccomp ERROR
COMMAND…`` runs a command in whose process io_uring_enter always fails.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

IO_URING_ENTER = 426  # the same number on every architecture, as for all calls this young
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _ERRNO, _USER_NOTIF = 0x7FFF0000, 0x00050000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1


def _install(action: int, flags: int = 0) -> int:
    """Filter io_uring_enter of this thread, and of what it starts, from now on."""
    instructions = (
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, IO_URING_ENTER),  # skip one unless it is this
        (0x06, 0, 0, action),
        (0x06, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    number = _SECCOMP[os.uname().machine]
    result = int(library.syscall(number, _SET_MODE_FILTER, flags, ctypes.c_char_p(program)))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


class Injection:
    """What the filter does: the next ``times`` calls fail with ``error``, and ``count`` counts them."""

    def __init__(self) -> None:
        self.error = 0
        self.times = 0
        self.count = 0


@contextmanager
def fails() -> Iterator[Injection]:
    """In this thread, for good: use it in a thread of its own. Calls go through unless told otherwise."""
    injection = Injection()
    listener = _install(_USER_NOTIF, _NEW_LISTENER)
    ended, tell = os.pipe()

    def decide() -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while not any(fd == ended for fd, _ in poll.poll()):
            notification = bytearray(80)
            # A completion interrupts the call while it waits for our answer; then it comes again.
            with suppress(FileNotFoundError):
                fcntl.ioctl(listener, _RECEIVE, notification)
                (identifier,) = struct.unpack_from("Q", notification)
                if injection.times == 0:
                    fcntl.ioctl(listener, _SEND, struct.pack("QqiI", identifier, 0, 0, _CONTINUE))
                    continue
                # Counted first: once it has its answer, the test goes on.
                injection.times -= 1
                injection.count += 1
                try:
                    fcntl.ioctl(listener, _SEND, struct.pack("QqiI", identifier, 0, -injection.error, 0))
                except FileNotFoundError:
                    injection.times += 1
                    injection.count -= 1

    thread = threading.Thread(target=decide)
    thread.start()
    try:
        yield injection
    finally:
        os.write(tell, b"x")
        thread.join()
        for fd in (listener, ended, tell):
            os.close(fd)


if __name__ == "__main__":
    _install(_ERRNO | getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # the command the test gives
