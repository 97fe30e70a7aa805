"""The pager: the process in which the page faults of a post-copy migration happen (C118 to C121).

usage: pager_process.py PARENT CONTROL QUESTIONS

The front-end gets this process's userfaultfd. Whoever has one can stop any thread of the process that made
it, and say what pages it had not touched before contain: so it is not the device's process. This one has
nothing but the guest's memory, which is the front-end's own, and touches the pages it is asked for. It ends
with the sockets, and with PARENT.

CONTROL carries JSON in packets, QUESTIONS those of userfault.h: region, offset, length; the answer is a byte.
Runs by itself, without the package: it needs the standard library only, and starts quickly.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import signal
import socket
import struct
import sys
import threading

NUMBERS = {"x86_64": 323}
OTHER_NUMBER = 282
"""Of the system call userfaultfd, on all newer architectures."""
USER_MODE_ONLY = 1
API, REGISTER = 0xC018AA3F, 0xC020AA00
MISSING_HUGETLBFS, MISSING_SHMEM = 1 << 4, 1 << 5
MODE_MISSING = 1
PR_SET_PDEATHSIG = 1
PROT_READ, MAP_SHARED, MAP_NORESERVE, MADV_NOHUGEPAGE = 1, 1, 0x4000, 15
PAGE = 4096
MOST_REGIONS = 4096
"""A front-end that keeps on changing its table gets no further."""

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
# Called with the GIL given up, so that a page that does not come keeps only the thread that wants it.
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def failure() -> OSError:
    """What the last call of the C library failed with."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def open_userfaultfd() -> int:
    """A userfaultfd of this process. OSError where there is none for shared memory."""
    number = NUMBERS.get(platform.machine(), OTHER_NUMBER)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    fd = libc.syscall(number, flags | USER_MODE_ONLY)
    if fd < 0:
        fd = libc.syscall(number, flags)
    if fd < 0:
        raise failure()
    answer = bytearray(struct.pack("=QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, API, answer)
    if not struct.unpack("=QQQ", answer)[1] & MISSING_SHMEM:
        raise OSError("the kernel's userfaultfd does not know shared memory")
    return int(fd)


class Pager:
    """Maps regions, and touches their pages."""

    def __init__(self, control: socket.socket, questions: socket.socket) -> None:
        self.control = control
        self.questions = questions
        self.faults = open_userfaultfd()
        self.regions: list[tuple[int, int]] = []
        """Address and length of each."""

    def add(self, fd: int, start: int, length: int) -> int:
        """Map a part of a file; where it is. Its missing pages are the front-end's to bring."""
        if len(self.regions) == MOST_REGIONS:
            raise OSError(f"{MOST_REGIONS} regions were added already")
        base = libc.mmap(None, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, start)
        if base in {None, ctypes.c_void_p(-1).value}:
            raise failure()
        libc.madvise(base, length, MADV_NOHUGEPAGE)
        fcntl.ioctl(self.faults, REGISTER, bytearray(struct.pack("=QQQQ", base, length, MODE_MISSING, 0)))
        self.regions.append((base, length))
        return int(base)

    def touch(self, region: int, offset: int, length: int) -> None:
        """Wait until these pages are there."""
        base, size = self.regions[region]
        byte = ctypes.create_string_buffer(1)
        for at in range(offset, min(offset + length, size), PAGE):
            libc.memcpy(byte, base + at, 1)

    def answer_questions(self) -> None:
        """Touch what is asked for, in a thread of its own, until nobody asks any more."""
        # The end may come at any moment: then nobody waits for the answer either.
        with contextlib.suppress(OSError):
            while len(question := self.questions.recv(64)) == 24:
                self.touch(*struct.unpack("=QQQ", question))
                self.questions.send(b"\1")
        os._exit(0)

    def serve(self) -> None:
        """Say hello, with the userfaultfd, and map regions as they come, until the other end is closed."""
        socket.send_fds(self.control, [json.dumps({"ready": True}).encode()], [self.faults])
        threading.Thread(target=self.answer_questions, daemon=True).start()
        while True:
            data, fds, _, _ = socket.recv_fds(self.control, 4096, 1)
            if not data:
                return
            answer: dict[str, int | str]
            try:
                answer = {"base": self.add(fds[0], **json.loads(data)), "number": len(self.regions) - 1}
            except OSError as error:
                answer = {"problem": error.strerror or str(error)}
            finally:
                for fd in fds:
                    os.close(fd)
            with contextlib.suppress(OSError):  # the end of it comes next
                self.control.send(json.dumps(answer).encode())


def main() -> None:
    """Serve until the parent, or its interest, ends."""
    parent, control, questions = map(int, sys.argv[1:])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    channel = socket.socket(fileno=control)
    try:
        pager = Pager(channel, socket.socket(fileno=questions))
    except OSError as error:
        channel.send(json.dumps({"problem": f"userfaultfd: {error.strerror or error}"}).encode())
        return
    pager.serve()
    os._exit(0)  # a thread may wait for a page


if __name__ == "__main__":
    main()
