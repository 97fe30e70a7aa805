"""The cell that holds the current table of guest memory (types: atomic.pyi)."""

import cython
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory


@cython.final
@cython.cclass
class GuestMemoryAtomic:
    """GuestMemoryAtomic(memory=None)\n--\n\n\
    The cell that holds the current snapshot.

    Readers take it without a lock, the control plane replaces it whole.
    """

    def __init__(self, memory: GuestMemory = None):
        self.current = GuestMemory() if memory is None else memory

    def memory(self):
        """The snapshot of this moment; it stays usable when another takes its place."""
        # As in GuestMemory.regions: taken and referred to in one step.
        with cython.critical_section(self):
            return self.current

    def replace(self, memory: GuestMemory):
        """Put another snapshot in its place."""
        if memory is None:
            raise TypeError("a snapshot is needed; use GuestMemory() for an empty one")
        with cython.critical_section(self):
            old = self.current
            self.current = memory
        del old
