"""Post-copy migration, the destination's front-end: memory whose pages come when the back-end wants them.

    pages = PostCopy()
    with VirtioDriver(path, postcopy=pages) as driver:
        place = driver.memory.allocate(4096, 4096)
        driver.memory.write(place, content)
        pages.withhold(place, 4096)              # not there until somebody asks for it
        ...
        pages.end()                              # POSTCOPY_END; all pages are there

Also a page that the driver never wrote is missing until the back-end asked for it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vhost_user.spec.requests import FrontendRequest

if TYPE_CHECKING:
    from vhost_user.frontend.frontend import Frontend, Region

PAGE = 4096
WAKE = 0x8010AA02
"""UFFDIO_WAKE."""
PAGEFAULT = 0x12
MESSAGE = struct.Struct("=B7xQQ8x")
"""struct uffd_msg: event, flags, address."""


class PostCopy:
    """Brings pages in a thread of its own, from ``share`` until ``end`` or ``close``.

    ``asked`` are the guest addresses of the pages that the back-end faulted on, ``strays`` addresses of
    faults outside of what it said that it has. ``silent`` withholds everything.
    """

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.strays: list[int] = []
        self.bases: list[int] = []
        """Where the back-end has each region."""
        self._frontend: Frontend | None = None
        self._regions: Sequence[Region] = ()
        self._faults = -1
        self._withheld: dict[int, bytes] = {}
        self._unanswered: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._silent = False
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None

    # the messages

    def announce(self, frontend: Frontend) -> None:
        """POSTCOPY_ADVISE and POSTCOPY_LISTEN, before any memory is shared (C118)."""
        self._frontend = frontend
        self._faults = frontend.postcopy_advise()
        os.set_blocking(self._faults, False)
        frontend.postcopy_listen()

    def share(self, regions: Sequence[Region], *, ready: bool = True, slots: bool = False) -> None:
        """Hand memory over, learn where the back-end has it, and say that page faults are served (C119)."""
        frontend = self._frontend
        assert frontend is not None, "announce comes first"
        with self._lock:
            if slots:
                bases = [frontend.add_mem_reg(region, postcopy=True) or 0 for region in regions]
            else:
                bases = frontend.set_mem_table(regions, postcopy=True)
            self._regions, self.bases = tuple(regions), bases
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="post-copy", daemon=True)
            self._thread.start()
        if ready:
            frontend.postcopy_ready(
                request=FrontendRequest.ADD_MEM_REG if slots else FrontendRequest.SET_MEM_TABLE
            )

    def end(self) -> None:
        """All pages are there: POSTCOPY_END (C120)."""
        self.silent = False
        self.bring_all()
        assert self._frontend is not None, "announce comes first"
        self._frontend.postcopy_end()
        self.close()

    def close(self) -> None:
        """Bring nothing any more. May be called again."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            self._thread = None
        for fd in (self._stop, self._faults):
            if fd >= 0:
                os.close(fd)
        self._stop = self._faults = -1

    # the pages

    def withhold(self, address: int, length: int) -> None:
        """Take the pages of a range of guest addresses away, for now.

        Nobody may touch them before they are back.
        """
        with self._lock:
            for page in range(address // PAGE * PAGE, address + length, PAGE):
                region, offset = self._place(page)
                self._withheld[page] = os.pread(region.fd, PAGE, offset)
                _punch(region.fd, offset)

    def bring_all(self) -> None:
        """Put back everything that was withheld, asked for or not."""
        with self._lock:
            for page in list(self._withheld):
                self._bring(page)
            waiting, self._unanswered = self._unanswered, []
        for page, address in waiting:
            self._answer(page, address)

    @property
    def silent(self) -> bool:
        """Whether faults are noted and not served."""
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        with self._lock:
            self._silent = silent
            waiting, self._unanswered = ([], self._unanswered) if silent else (self._unanswered, [])
        for page, address in waiting:
            self._answer(page, address)

    def _place(self, page: int) -> tuple[Region, int]:
        for region in self._regions:
            if 0 <= page - region.guest_address < region.size:
                return region, region.file_offset + page - region.guest_address
        raise ValueError(f"{page:#x} lies in no region that was shared")

    def _bring(self, page: int) -> None:
        region, offset = self._place(page)
        content = self._withheld.pop(page, None)
        if content is None:
            # It becomes a page of zeros, unless the driver has written it just now.
            os.posix_fallocate(region.fd, offset, PAGE)
        else:
            os.pwrite(region.fd, content, offset)

    def _answer(self, page: int, address: int) -> None:
        with self._lock:
            self._bring(page)
        fcntl.ioctl(self._faults, WAKE, struct.pack("=QQ", address, PAGE))

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._faults, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop in ready:
                return
            try:
                data = os.read(self._faults, 32)
            except BlockingIOError:
                continue
            except OSError:  # the back-end has gone
                return
            event, _, address = MESSAGE.unpack(data)
            if event == PAGEFAULT:
                self._fault(address // PAGE * PAGE)

    def _fault(self, address: int) -> None:
        for region, base in zip(self._regions, self.bases, strict=True):
            if 0 <= address - base < region.size:
                page = region.guest_address + address - base
                break
        else:
            self.strays.append(address)
            return
        self.asked.append(page)
        with self._lock:
            if self._silent:
                self._unanswered.append((page, address))
                return
        self._answer(page, address)


def _punch(fd: int, offset: int) -> None:
    """Make a hole of a page in a memfd."""
    with mmap.mmap(fd, PAGE, offset=offset) as page:
        page.madvise(mmap.MADV_REMOVE)
