"""The base of the fast paths: what carries requests out without Python, in front of a device's handler.

A fast path takes only what is plain: well formed, wholly mapped, inside of the disk, not special. Everything else it
declines, and the device's handler sees it as if there were no fast path; so errors are reported in one place.
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.posix.unistd import usleep
from cython.cimports.vhost_user.engine.barriers import counter_get, full_fence
from cython.cimports.vhost_user.engine.device.chain import Chain, chain_free, chain_new
from cython.cimports.vhost_user.engine.device.fast_path import DECLINED
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory


@cython.cclass
class FastPath:
    """Base of the fast paths; not to be subclassed in Python."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def carry_out(
        self, chain: cython.pointer[Chain], memory: GuestMemory, generation: int64_t, used: cython.pointer[uint64_t]
    ) -> cython.int:
        return DECLINED

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def prepare(self, chain: cython.pointer[Chain]) -> cython.void:
        """This one will be carried out soon: what it needs from far memory may be sent for. Nothing else happens."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def submit(self) -> cython.void:
        """The end of a batch."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def bell(self, on: cython.bint) -> cython.void:
        """Whether ``fd`` is written for what finishes: not while ``process`` looks by itself. Switched on, it looks once more."""

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def finished(
        self,
        outcome: cython.pointer[cython.int],
        generation: cython.pointer[int64_t],
        used: cython.pointer[uint64_t],
        memory: cython.pointer[cython.p_void],
    ) -> cython.pointer[Chain]:
        """A chain that was under way and is not any more (DONE, or DECLINED: to the handler after all), or NULL."""
        return cython.NULL

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def replacement(self) -> cython.pointer[Chain]:
        """An empty chain in exchange for one that is under way."""
        return chain_new()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def recycle(self, chain: cython.pointer[Chain]) -> cython.void:
        """A chain that was finished and put back into its ring."""
        chain_free(chain)

    @cython.cfunc
    def keep(self, memory: GuestMemory):
        """This snapshot is about to be used by requests that may be under way for a while."""

    @property
    def fd(self):
        """Readable when requests under way finished: then process the vring again. -1 if none ever is."""
        return -1

    @cython.cfunc
    def leave_alone(self):
        """Wait until no ``process`` uses this; the caller has seen to it that later ones decline."""
        with cython.nogil:
            full_fence()
            while counter_get(cython.address(self.users)) > 0:
                usleep(50)

    def settle(self):
        """How many requests are under way, after those that ended were let go of, unanswered.

        For the worker of the vring, when the session of all of them is over: nobody waits for an answer.
        """
        outcome: cython.int = 0
        generation: int64_t = 0
        used: uint64_t = 0
        memory: cython.p_void = cython.NULL
        chain: cython.pointer[Chain]
        with cython.nogil:
            chain = self.finished(cython.address(outcome), cython.address(generation), cython.address(used), cython.address(memory))
            while chain != cython.NULL:
                self.recycle(chain)
                chain = self.finished(cython.address(outcome), cython.address(generation), cython.address(used), cython.address(memory))
        return self.under_way

    def statistics(self):
        """Requests accepted, declined and under way, since it was made."""
        return {"accepted": self.accepted, "declined": self.declined, "under_way": self.under_way}
