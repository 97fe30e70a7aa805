"""Pages of guest memory that go back to the host."""

from vhost_user.engine.memory.guest_memory import GuestMemory

def give_back(memory: GuestMemory, guest_address: int, length: int) -> int: ...
