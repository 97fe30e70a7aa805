"""The cell that holds the current table of guest memory."""

from typing import final

from vhost_user.engine.memory.guest_memory import GuestMemory

@final
class GuestMemoryAtomic:
    def __init__(self, memory: GuestMemory | None = None) -> None: ...
    def memory(self) -> GuestMemory: ...
    def replace(self, memory: GuestMemory) -> None: ...
