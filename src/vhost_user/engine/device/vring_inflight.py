"""What a vring knows of the requests that a process before it left in flight (types: vring_inflight.pyi)."""

import cython
from cython.cimports.vhost_user.engine.barriers import lock, unlock
from cython.cimports.vhost_user.engine.device.inflight import InflightArea, tracking_left
from cython.cimports.vhost_user.engine.device.ring import Ring
from cython.cimports.vhost_user.engine.device.vring_control import VringControl


@cython.cclass
class VringInflight(VringControl):
    """Records what is in flight, and takes up what was."""

    def set_inflight(self, area):
        """SET_INFLIGHT_FD: record requests in flight in ``area`` from the next start on; None: no longer.

        A start finds what a process before this one left in flight there. These requests come first, in the order in
        which they were fetched and without a kick, and the ring goes on after them, whatever SET_VRING_BASE said (C110 to
        C117). RingStateError while the ring is started (C107).
        """
        self.must_be_stopped("set_inflight")
        if area is not None and not isinstance(area, InflightArea):
            raise TypeError(f"queue {self.index}: {area!r} is not an InflightArea")
        with cython.critical_section(self):
            self.area = area

    @property
    def tracked(self):
        """Whether requests in flight are recorded."""
        lock(cython.address(self.mutex))
        result: cython.bint = self.ring is not None and self.ring.tracking != cython.NULL
        unlock(cython.address(self.mutex))
        return result

    @property
    def recovering(self):
        """Requests that a process before this one left in flight and that nobody has taken again so far."""
        lock(cython.address(self.mutex))
        count: cython.int = 0
        if self.ring is not None and self.ring.tracking != cython.NULL:
            count = tracking_left(self.ring.tracking)
        unlock(cython.address(self.mutex))
        return count

    @property
    def inflight_problem(self):
        """What was wrong with the area at the last start, in words; None when nothing was."""
        with cython.critical_section(self):
            return self.problem

    def forget_inflight(self):
        """The driver forgot what it asked for, by a reset: nothing is in flight any more, in the area either."""
        lock(cython.address(self.mutex))
        if self.ring is not None and self.ring.tracking != cython.NULL:
            self.ring.track_anew()
        unlock(cython.address(self.mutex))

    def set_interrupted(self, callback):
        """Who gets the requests that a process before this one left in flight; None: the handler, as if nothing had happened.

        ``callback(request)`` answers it, or gives True, and the handler has it after all. Fast paths do not see it before.
        """
        self.only_new = callback is not None
        self.on_interrupted = callback

    @cython.cfunc
    def track(self, ring: Ring):
        with cython.critical_section(self):
            area: InflightArea = self.area
        problem = None if area is None else ring.track(area, self.index)
        with cython.critical_section(self):
            self.problem = problem

    @cython.cfunc
    def shut(self):
        VringControl.shut(self)
        area = self.area
        self.area = None
        self.problem = None
        del area
