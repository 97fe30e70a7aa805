"""The worker: waits for kicks and listeners without the GIL, enters Python once an event (types: worker.pyi)."""

# The order before sleeping is what makes kicks safe to suppress: arm every ring that the batch loop serves, look again
# (arming has the fence), and only then wait.

import os

import cython
from cython.cimports.cpython.exc import PyErr_CheckSignals
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint64_t
from cython.cimports.vhost_user.engine.barriers import counter_get, counter_set, now_ns, own_bell_take, pause, ticks
from cython.cimports.vhost_user.engine.device.placement import Placement
from cython.cimports.vhost_user.engine.device.poll_set import (
    EPOLLIN,
    EXIT,
    LISTENER,
    WAKE,
    Kick,
    PollSet,
    epoll_event,
    epoll_wait,
    sched_yield,
)
from cython.cimports.vhost_user.engine.device.vring_state import HALF_NEAR, VringState
from cython.cimports.vhost_user.engine.doorbell import EVENTFD

CREDIT = cython.declare(cython.int, 8)
MIN_PAUSE = cython.declare(cython.int, 8)
MAX_PAUSE = cython.declare(cython.int, 1024)
# Between two looks at the events while rings have work: some tens of microseconds.
LOOK_TICKS = cython.declare(uint64_t, 100_000)
# Nanoseconds until a ring whose handler raised is looked at again: at first, and at most.
FIRST_RETRY = cython.declare(int64_t, 1_000_000)
MAX_RETRY = cython.declare(int64_t, 1_000_000_000)


@cython.final
@cython.cclass
class Worker(PollSet):
    """Worker(vrings, *, first_listener_id, poll_microseconds=0, crowded=False)\n--\n\n\
    The event loop of one worker thread (the caller makes the thread and calls ``run`` in it).

    ``poll_microseconds`` bounds the polling before each sleep. It polls while that finds work, gives up
    when it does not, and tries again now and then (``statistics()["poll_nanoseconds"]``: at present). 0:
    never. Event ids: ``0 … len(vrings)-1`` are positions in ``vrings``; listeners use ids above
    ``first_listener_id - 1``. ``crowded`` says that rings and drivers have to share CPUs: the thread that is
    in ``run`` then moves to where its drivers sleep, if it polls (see ``Placement``).
    """

    def __init__(self, vrings, *, first_listener_id, poll_microseconds=0, crowded=False):
        if poll_microseconds < 0:
            raise ValueError("poll_microseconds is not negative")
        PollSet.__init__(self, vrings, first_listener_id=first_listener_id)
        self.poll_ns = poll_microseconds * 1000
        self.poll_now = self.poll_ns
        self.placement = Placement() if crowded and poll_microseconds > 0 else None
        self.credit = CREDIT
        self.pause = MIN_PAUSE

    def statistics(self):
        """Wake-ups, polls, how long it polls at present in nanoseconds, and moves to another CPU."""
        moves = 0 if self.placement is None else self.placement.moves
        return {"wakeups": self.wakeups, "polls": self.polls, "poll_nanoseconds": self.poll_now, "moves": moves}

    # ------------------------------------------------------------------ the loop
    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def find_work(self) -> cython.int:
        """A ring to look at without a kick: nudged, served by the batch loop and not empty, or without a kick fd and not empty. Or -1."""
        position: cython.int
        step: cython.int
        for step in range(self.count):
            position = self.turn + step
            if position >= self.count:
                position -= self.count
            if self.troubled and self.holds_back(position):
                continue
            if cython.cast(VringState, self.items[position]).nudged_to_run() or (
                (cython.cast(VringState, self.items[position]).served or cython.cast(VringState, self.items[position]).kick_bell.fd < 0)
                and cython.cast(VringState, self.items[position]).look()
            ):
                self.turn = position + 1 if position + 1 < self.count else 0
                return position
        return -1

    # ------------------------------------------------------------------ after a failure of the handler
    def look_again(self, position):
        """The handler of this vring raised: dispatch it again after 1 ms, then 2 ms … 1 s.

        Until a call of it comes back without. For ``dispatch``, in the worker's thread; other ids are
        ignored.
        """
        # With EVENT_IDX nobody else would: the driver kicks only past the point that the handler did not come to.
        if not 0 <= position < self.count:
            return
        kick: cython.pointer[Kick] = self.kicks + cython.cast(cython.int, position)
        self.failed = True
        if kick.due != 0:
            # A kick came before its time: however many come, the pause is as long as the failures make it.
            return
        if kick.pause == 0:
            self.troubled += 1
        kick.pause = FIRST_RETRY if kick.pause == 0 else min(kick.pause * 2, MAX_RETRY)
        kick.due = now_ns() + kick.pause

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def holds_back(self, position: cython.int) -> cython.bint:
        """Is it too early to look at this ring again? When it is not, it is nudged, so that it is looked at in any case."""
        kick: cython.pointer[Kick] = self.kicks + position
        if kick.due == 0:
            return False
        if now_ns() < kick.due:
            return True
        kick.due = 0
        counter_set(cython.address(cython.cast(VringState, self.items[position]).nudged), 1)
        return False

    @cython.cfunc
    def served_well(self, position: cython.int):
        """A dispatch returned: forget the trouble of that ring, unless this was more of it."""
        if self.failed:
            self.failed = False
        elif self.kicks[position].pause != 0:
            self.kicks[position].pause = 0
            self.kicks[position].due = 0
            self.troubled -= 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def patience(self) -> cython.int:
        """Milliseconds to wait for events at most, -1 for ever."""
        timeout: cython.int = 1 if counter_get(cython.address(self.kickless)) > 0 else -1
        position: cython.int
        left: int64_t
        if self.troubled:
            for position in range(self.count):
                if self.kicks[position].due != 0:
                    left = (self.kicks[position].due - now_ns()) // 1_000_000 + 1
                    if left < 1:
                        left = 1
                    if timeout < 0 or left < timeout:
                        timeout = cython.cast(cython.int, left)
        return timeout

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def arm_all(self) -> cython.int:
        position: cython.int
        found: cython.int = -1
        for position in range(self.count):
            # One that is held back is armed all the same: it may be the handler of one request that failed.
            if (
                cython.cast(VringState, self.items[position]).served
                and cython.cast(VringState, self.items[position]).arm()
                and not (self.troubled and self.holds_back(position))
            ):
                found = position
        return found

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def spin(self) -> cython.int:
        """Poll for a bounded while before sleeping: cheaper than a wake-up when the next request is near (see ``adapt``)."""
        until: int64_t = now_ns() + self.poll_now
        position: cython.int
        turn: cython.int
        while True:
            for turn in range(16):
                position = self.find_work()
                if position >= 0:
                    cython.cast(VringState, self.items[position]).note_poll()
                    return position
                pause()
            self.polls += 1
            if now_ns() >= until or counter_get(cython.address(self.stopping)):
                return -1
            if self.polls & 3 == 0:
                # The one we wait for may need this CPU.
                sched_yield()

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def adapt(self, found: cython.bint) -> cython.void:
        """Poll while that saves sleeps. After enough polls in vain it is given up, and tried again now and then, less and less often."""
        if found:
            self.credit = CREDIT
            self.poll_now = self.poll_ns
            self.pause = MIN_PAUSE
            return
        self.credit -= 1
        if self.credit <= 0:
            self.poll_now = 0
            self.sleeps_left = self.pause
            if self.pause < MAX_PAUSE:
                self.pause *= 2

    def run(self, dispatch):
        """Loop until ``stop``: ``dispatch(event_id, epoll_events)`` for each ready vring or listener.

        A true return value ends the loop, as one of ``VhostUserBackend.handle_event`` does; exceptions out of it
        are the caller's to catch. Returns when stopped.
        """
        events: epoll_event[64]
        ready: cython.int
        index: cython.int
        position: cython.int
        data: uint64_t
        problem: cython.int
        timeout: cython.int
        polled: cython.bint
        calls: int64_t
        looked: uint64_t = 0
        try:
            while not counter_get(cython.address(self.stopping)):
                problem = 0
                with cython.nogil:
                    position = self.find_work()
                    polled = position < 0
                    if position < 0 and self.poll_ns > 0:
                        if self.poll_now == 0:
                            # One try after so many sleeps.
                            self.sleeps_left -= 1
                            if self.sleeps_left <= 0:
                                self.credit = 1
                                self.poll_now = self.poll_ns
                        if self.poll_now > 0:
                            position = self.spin()
                            self.adapt(position >= 0)
                    if position < 0:
                        position = self.arm_all()
                    ready = 0
                    # Events are collected even when a ring has work, so that a busy ring starves no listener; but not for every
                    # few requests, because the look costs as much as one of them.
                    if position < 0 or ticks() - looked > LOOK_TICKS:
                        timeout = 0 if position >= 0 else self.patience()
                        ready = epoll_wait(self.epoll, events, 64, timeout)
                        looked = ticks()
                        if ready < 0:
                            problem = errno
                            ready = 0
                if problem and problem != EINTR:
                    raise OSError(problem, os.strerror(problem))
                if problem:
                    # Handlers of signals run here, if this is the main thread; one of them may stop the loop.
                    PyErr_CheckSignals()
                self.wakeups += 1
                if position >= 0:
                    calls = cython.cast(VringState, self.items[position]).counts.calls
                    if dispatch(position, EPOLLIN):
                        return
                    if self.placement is not None:
                        self.placement.after_turn(
                            polled,
                            cython.cast(VringState, self.items[position]).counts.calls - calls,
                            cython.cast(VringState, self.items[position]).near >= HALF_NEAR,
                        )
                    if self.troubled:
                        self.served_well(position)
                for index in range(ready):
                    data = events[index].data.u64
                    if data == WAKE:
                        own_bell_take(self.wake)
                    elif data == EXIT:
                        return
                    elif data & LISTENER:
                        if self.listens(data) and dispatch(int(data & 0xFFFFFFFF), int(events[index].events)):
                            return
                    else:
                        kicked: cython.int = cython.cast(cython.int, data & 0xFFFFFFFF)
                        if cython.cast(uint64_t, counter_get(cython.address(self.kicks[kicked].registration))) != data >> 32:
                            # Of a kick fd that was replaced or taken out meanwhile.
                            continue
                        vring: VringState = cython.cast(VringState, self.items[kicked])
                        if vring.kick_bell.kind == EVENTFD:
                            vring.take_kick()
                        else:
                            # What a socket carried may be closed by this, which can take its time.
                            with cython.nogil:
                                more: cython.bint = vring.take_kick()
                            if more:
                                self.hear_again(kicked, data)
                        # A kick whose buffers the poll has found already tells nothing new.
                        news: cython.bint = vring.can_run() and (not vring.served or vring.look())
                        # One that came while the ring was served just now was taken with the older one. A ring that the batch
                        # loop serves is looked at again before sleeping, one served by hand is not.
                        anew: cython.bint = kicked != position or not vring.served
                        if anew and news:
                            if dispatch(kicked, int(events[index].events)):
                                return
                            if self.troubled:
                                self.served_well(kicked)
        finally:
            counter_set(cython.address(self.stopping), 0)
