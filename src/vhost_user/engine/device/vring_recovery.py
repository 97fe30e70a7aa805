"""What a vring knows of the requests that a process before it left in flight (types: vring_recovery.pyi)."""

import cython
from cython.cimports.vhost_user.engine.barriers import condition_broadcast, counter_add, lock, unlock
from cython.cimports.vhost_user.engine.device.inflight import InflightArea, tracking_left
from cython.cimports.vhost_user.engine.device.vring_setup import must_be_stopped
from cython.cimports.vhost_user.engine.device.vring_state import VringState


@cython.final
@cython.no_gc_clear
@cython.cclass
class VringRecovery:
    """Records what is in flight, and takes up what was: ``Vring.recovery``."""

    # Not cleared by the garbage collector, as Vring.

    def __cinit__(self, state: VringState):
        self.state = state

    def set_inflight(self, area):
        """SET_INFLIGHT_FD: record requests in flight in ``area`` from the next start on; None: no longer.

        A start finds what a process before this one left in flight there. These requests come first, in the order in
        which they were fetched and without a kick, and the ring goes on after them, whatever SET_VRING_BASE said (C110 to
        C117). RingStateError while the ring is started (C107).
        """
        must_be_stopped(self.state, "set_inflight")
        if area is not None and not isinstance(area, InflightArea):
            raise TypeError(f"queue {self.state.index}: {area!r} is not an InflightArea")
        with cython.critical_section(self.state):
            self.state.area = area

    @property
    def tracked(self):
        """Whether requests in flight are recorded."""
        lock(cython.address(self.state.mutex))
        result: cython.bint = self.state.ring is not None and self.state.ring.tracking != cython.NULL
        unlock(cython.address(self.state.mutex))
        return result

    @property
    def recovering(self):
        """Requests that a process before this one left in flight and that nobody has taken again so far."""
        lock(cython.address(self.state.mutex))
        count: cython.int = 0
        if self.state.ring is not None and self.state.ring.tracking != cython.NULL:
            count = tracking_left(self.state.ring.tracking)
        unlock(cython.address(self.state.mutex))
        return count

    @property
    def problem(self):
        """What was wrong with the area at the last start, in words; None when nothing was."""
        with cython.critical_section(self.state):
            return self.state.problem

    def forget(self):
        """The driver forgot what it asked for, by a reset: nothing is in flight any more, in the area either.

        Does nothing to a ring that is not tracked.
        """
        lock(cython.address(self.state.mutex))
        if self.state.ring is not None and self.state.ring.tracking != cython.NULL:
            # Both at once: a request that ended after the area began anew would give back entries that are not its own any more.
            counter_add(cython.address(self.state.generation), 1)
            self.state.ring.forget()
            self.state.ring.track_anew()
            condition_broadcast(cython.address(self.state.idle))
        unlock(cython.address(self.state.mutex))

    def set_interrupted(self, callback):
        """Who gets the requests that a process before this one left in flight; None: the handler, as if nothing had happened.

        ``callback(request)`` answers it, or gives True, and the handler has it after all. Fast paths do not see it before.
        """
        # See VringState.snapshot. Only then, so that who is to be asked is there when requests are set apart for it.
        with cython.critical_section(self.state):
            old = self.state.on_interrupted
            self.state.on_interrupted = callback
            self.state.only_new = callback is not None
        del old
