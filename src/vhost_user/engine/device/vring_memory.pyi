"""Where the memory of a vring is, and how its ring gets there."""

from vhost_user.engine.device.vring_state import VringState
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.iotlb import Iotlb

class VringMemory(VringState):
    def set_addresses(self, *, descriptor: int, driver: int, device: int, log_address: int | None = None) -> None: ...
    def set_memory(self, memory: GuestMemory | None, iotlb: Iotlb | None = None) -> None: ...
