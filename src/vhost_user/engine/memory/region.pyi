"""One region of guest memory.

Addresses and lengths are bytes. ``guest_address`` is a guest-physical address, ``user_address`` an address of
the front-end's own address space (what SET_VRING_ADDR carries, C045).
"""

from typing import final

from vhost_user.engine.memory.missing import MissingPages

@final
class MemoryRegion:
    def __init__(
        self,
        fd: int,
        *,
        guest_address: int,
        size: int,
        user_address: int | None = None,
        file_offset: int = 0,
        allow_remote: bool = False,
    ) -> None: ...
    @property
    def guest_address(self) -> int: ...
    @property
    def user_address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def file_offset(self) -> int: ...
    @property
    def lost(self) -> bool: ...
    @property
    def file_span(self) -> tuple[int, int]: ...
    def expect(self, missing: MissingPages, number: int) -> None: ...
    def settle(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
