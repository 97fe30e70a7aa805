"""Where a worker runs when rings share CPUs: where the driver is that it calls."""

import cython
from cython.cimports.libc.stdint import int64_t
from cython.cimports.vhost_user.engine.barriers import now_ns
from cython.cimports.vhost_user.engine.device.placement import move_to_next_cpu

# Calls in one turn, more than which only a driver on this CPU is worth; and turns that wait for one elsewhere, until we move.
FEW_CALLS = cython.declare(int64_t, 3)
FAR_TURNS = cython.declare(cython.int, 64)
# Nanoseconds between two moves: at first, and at most. A driver that was found makes it the first again.
SHORTEST_REST = cython.declare(int64_t, 4_000_000)
MAX_REST = cython.declare(int64_t, 1_000_000_000)


@cython.final
@cython.cclass
class Placement:
    """Placement()\n--\n\n\
    Watches one worker's turns, and moves its thread to the next CPU when the drivers it calls sleep elsewhere.

    A driver that sleeps on the worker's own CPU is called for the price of a system call: it runs, brings its
    next requests and sleeps again before the call returns. One that sleeps on another CPU costs an interrupt
    between CPUs for each call. The scheduler leaves either arrangement as it is. For workers that have to
    share their CPUs with the drivers anyway; elsewhere a CPU of one's own is worth more. ``moves`` counts.
    """

    def __init__(self):
        self.rest = SHORTEST_REST

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def after_turn(self, polled: cython.bint, calls: int64_t, near: cython.bint) -> cython.void:
        """A ring was served, with so many calls of its driver; ``polled``: its work came while we waited for it.

        A driver on this CPU takes it at each call and has its next requests there when the call returns (``near``), so that the
        turn goes on. One that is elsewhere answers while we poll. One that polls is not called at all, and is left alone.
        """
        now: int64_t
        if near or calls > FEW_CALLS:
            self.far = 0
            self.rest = SHORTEST_REST
        elif not polled:
            # There was something to do already: nobody waits for a wake-up while most turns are like this.
            if self.far > 0:
                self.far -= 1
        elif calls > 0:
            self.far += 1
            if self.far >= FAR_TURNS:
                self.far = 0
                now = now_ns()
                if now - self.moved >= self.rest:
                    self.moved = now
                    self.moves += move_to_next_cpu()
                    if self.rest < MAX_REST:
                        self.rest *= 2
