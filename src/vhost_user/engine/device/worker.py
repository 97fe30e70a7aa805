"""The worker: waits for kicks and listeners without the GIL, enters Python once an event (types and docstrings: worker.pyi)."""

# The order before sleeping is what makes kicks safe to suppress: arm every ring that the batch loop serves, look again
# (arming has the fence), and only then wait. A ring changed by the control plane is nudged: flag first, then the wake fd.

import os
import select
import sys

import cython
from cython.cimports.cpython.exc import PyErr_CheckSignals
from cython.cimports.cpython.object import PyObject_AsFileDescriptor
from cython.cimports.libc.errno import EEXIST, EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    counter_exchange,
    counter_get,
    counter_set,
    own_bell_ring,
    own_bell_take,
    lock,
    lock_destroy,
    lock_init,
    now_ns,
    pause,
    ticks,
    unlock,
)
from cython.cimports.vhost_user.engine.doorbell import EVENTFD, take_bell
from cython.cimports.vhost_user.engine.device.placement import Placement
from cython.cimports.vhost_user.engine.device.vring import Vring
from cython.cimports.vhost_user.engine.device.vring_flow import HALF_NEAR
from cython.cimports.vhost_user.engine.device.worker import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLIN,
    Kick,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    eventfd,
    sched_yield,
)

WAKE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
EXIT = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFE)
LARGEST_ID = 1 << 32
# In the data of an event: a kick has its registration above its position, a listener that and this bit above its id.
LISTENER = cython.declare(uint64_t, 0x8000000000000000)
LAST_REGISTRATION = cython.declare(uint64_t, 0x7FFFFFF0)
CREDIT = cython.declare(cython.int, 8)
SHORTEST_PAUSE = cython.declare(cython.int, 8)
LONGEST_PAUSE = cython.declare(cython.int, 1024)
# Between two looks at the events while rings have work: some ten microseconds.
LOOK_TICKS = cython.declare(uint64_t, 100_000)
# Nanoseconds until a ring whose handler raised is looked at again: at first, and at most.
FIRST_RETRY = cython.declare(int64_t, 1_000_000)
LONGEST_RETRY = cython.declare(int64_t, 1_000_000_000)


@cython.final
@cython.cclass
class Worker:
    """Worker(vrings, *, first_listener_id, poll_microseconds=0, crowded=False)\n--\n\n\
    The event loop of one worker thread (the caller makes the thread and calls ``run`` in it).

    ``poll_microseconds`` bounds the polling before each sleep. It polls while that finds work, gives up
    when it does not, and tries again now and then (``statistics()["poll_nanoseconds"]``: at present). 0:
    never. Event ids: ``0 … len(vrings)-1`` are positions in ``vrings``; listeners use ids above
    ``first_listener_id - 1``. ``crowded`` says that rings and drivers have to share CPUs: the thread that is
    in ``run`` then moves to where its drivers sleep, if it polls (see ``Placement``).
    """

    def __cinit__(self, vrings, *, first_listener_id, poll_microseconds=0, crowded=False):
        self.epoll = -1
        self.wake = -1
        self.exit_fd = -1
        lock_init(cython.address(self.mutex))

    def __init__(self, vrings, *, first_listener_id, poll_microseconds=0, crowded=False):
        event: epoll_event
        vring: Vring
        self.vrings = tuple(vrings)
        self.count = len(self.vrings)
        if first_listener_id < self.count:
            raise ValueError(f"listener ids from {first_listener_id} on would collide with those of {self.count} queues")
        if poll_microseconds < 0:
            raise ValueError("poll_microseconds is not negative")
        self.first_listener_id = first_listener_id
        self.poll_ns = poll_microseconds * 1000
        self.poll_now = self.poll_ns
        self.placement = Placement() if crowded and poll_microseconds > 0 else None
        self.credit = CREDIT
        self.pause = SHORTEST_PAUSE
        self.listeners = {}
        self.items = cython.cast(cython.pointer[cython.p_void], calloc(self.count + 1, cython.sizeof(cython.p_void)))
        self.kicks = cython.cast(cython.pointer[Kick], calloc(self.count + 1, cython.sizeof(Kick)))
        if self.items == cython.NULL or self.kicks == cython.NULL:
            raise MemoryError
        for position in range(self.count):
            vring = self.vrings[position]
            if vring.position >= 0:
                raise ValueError(f"queue {vring.index} has a worker already")
            self.items[position] = cython.cast(cython.p_void, vring)
            self.kicks[position].fd = -1
        for position in range(self.count):
            vring = self.vrings[position]
            vring.position = position
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll < 0 or self.wake < 0:
            raise OSError(errno, os.strerror(errno))
        event.events = EPOLLIN
        event.data.u64 = WAKE
        epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.wake, cython.address(event))

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        if self.wake >= 0:
            close(self.wake)
        free(self.items)
        free(self.kicks)
        lock_destroy(cython.address(self.mutex))

    def close(self):
        """Close the poll set. The thread that called ``run`` has ended."""
        vring: Vring
        for vring in self.vrings:
            vring.position = -1
        if self.epoll >= 0:
            close(self.epoll)
            self.epoll = -1
        # Its owner may close it now, and the number may become another file's.
        self.exit_fd = -1

    def fileno(self):
        """The descriptor of the poll set."""
        return self.epoll

    def statistics(self):
        """Wake-ups, polls, how long it polls at present in nanoseconds, and moves to another CPU."""
        moves = 0 if self.placement is None else self.placement.moves
        return {"wakeups": self.wakeups, "polls": self.polls, "poll_nanoseconds": self.poll_now, "moves": moves}

    # ------------------------------------------------------------------ registrations
    @cython.cfunc
    def control(self, operation: cython.int, fd: cython.int, events: uint32_t, data: uint64_t):
        event: epoll_event
        event.events = events
        event.data.u64 = data
        if epoll_ctl(self.epoll, operation, fd, cython.address(event)) < 0:
            number = errno
            what = "exit event" if data == EXIT else f"event {data & 0xFFFFFFFF}"
            raise OSError(number, f"{what}, fd {fd}: {os.strerror(number)}")

    def update(self, vring: Vring):
        """Derive the registration of a vring's kick fd from its state.

        Call after every control-plane change. A ring that is runnable is looked at at once, without a kick
        (C051); one without a kick fd is polled (C052).
        """
        if vring.position < 0 or vring.position >= self.count or self.vrings[vring.position] is not vring:
            raise ValueError(f"queue {vring.index} does not belong to this worker")
        wanted: cython.int = vring.kick_bell.fd if vring.can_run() else -1
        if self.kicks[vring.position].fd != wanted:
            self.remove(vring)
            if wanted >= 0:
                # Each kick is one event, whether the descriptor can be emptied or not: a peer that leaves it readable
                # burns no CPU (C068, H88). What was pending before counts as seen: the ring is looked at below.
                take_bell(wanted, vring.kick_bell.kind)
                registration: uint64_t = self.register()
                self.kicks[vring.position].fd = wanted
                counter_set(cython.address(self.kicks[vring.position].registration), registration)
                try:
                    self.control(EPOLL_CTL_ADD, wanted, EPOLLIN | EPOLLET, registration << 32 | cython.cast(uint64_t, vring.position))
                except OSError:
                    self.kicks[vring.position].fd = -1
                    raise
        kickless = 0
        for other in self.vrings:
            if other.runnable and not other.has_kick:
                kickless += 1
        counter_set(cython.address(self.kickless), kickless)
        if vring.can_run():
            # Buffers may wait there since before the ring ran (C051).
            counter_set(cython.address(vring.nudged), 1)
        own_bell_ring(self.wake)

    def remove(self, vring: Vring):
        """Unregister its kick fd: before the fd is closed or replaced, always (C066)."""
        fd: cython.int = self.kicks[vring.position].fd
        if fd >= 0:
            lock(cython.address(self.mutex))
            # Events of this registration may be on their way to the worker: they are not the next one's.
            counter_set(cython.address(self.kicks[vring.position].registration), 0)
            # An eventfd that came over a socket stays in the set after close: its other holders keep it open (C066).
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, cython.NULL)
            self.kicks[vring.position].fd = -1
            unlock(cython.address(self.mutex))

    @cython.cfunc
    def register(self) -> uint64_t:
        """A number for each registration, 1 to 2^31 and again."""
        lock(cython.address(self.mutex))
        self.registrations = 1 if self.registrations >= LAST_REGISTRATION else self.registrations + 1
        result: uint64_t = self.registrations
        unlock(cython.address(self.mutex))
        return result

    def register_listener(self, fd, events, data):
        """Have ``dispatch`` called with ``data`` when ``fd``, a number or an object with ``fileno()``, is ready.

        ``events`` are as for epoll. Several file descriptors may share an id. It stays its owner's: keep it
        open until it is unregistered. ValueError for an id below first_listener_id and for a descriptor that
        has this id already, OSError for one that cannot be waited for or has another id.
        """
        number: cython.int = descriptor(fd)
        if not self.first_listener_id <= data < LARGEST_ID:
            raise ValueError(f"listener id {data}: ids below {self.first_listener_id} are the queues' and the exit event's")
        registration: uint64_t = self.register()
        fds = self.listeners.setdefault(data, {})
        before = fds.get(number)
        # Known before its first event can come.
        fds[number] = registration
        try:
            self.control(EPOLL_CTL_ADD, number, events, LISTENER | registration << 32 | cython.cast(uint64_t, data))
        except BaseException as error:
            if before is None:
                self.forget_listener(number, data)
            else:
                fds[number] = before
            # The poll set knows better than we do: a descriptor that was closed has left it.
            if isinstance(error, OSError) and error.errno == EEXIST and before is not None:
                raise ValueError(f"listener id {data} is in use for fd {number}; modify_listener() changes its events") from None
            raise

    def modify_listener(self, fd, events, data):
        """Wait for other ``events`` of a registered file descriptor; ValueError if it is not registered."""
        number: cython.int = self.listener(fd, data)
        registration: uint64_t = self.listeners[data][number]
        self.control(EPOLL_CTL_MOD, number, events, LISTENER | registration << 32 | cython.cast(uint64_t, data))

    def unregister_listener(self, fd, events, data):
        """End ``register_listener``, before ``fd`` is closed. ValueError if it is not registered.

        ``events`` are not looked at.
        """
        number: cython.int = self.listener(fd, data)
        self.forget_listener(number, data)
        self.control(EPOLL_CTL_DEL, number, events, LISTENER)

    @cython.cfunc
    def forget_listener(self, number: cython.int, data):
        fds = self.listeners[data]
        del fds[number]
        if not fds:
            del self.listeners[data]

    @cython.cfunc
    @cython.exceptval(-1)
    def listener(self, fd, data) -> cython.int:
        """The number of a registered descriptor. A closed object has none any more: it is unregistered before."""
        number: cython.int = descriptor(fd)
        if number not in self.listeners.get(data, ()):
            raise ValueError(f"no listener with id {data} on fd {number}")
        return number

    @cython.cfunc
    def hear_again(self, position: cython.int, data: uint64_t):
        """What is left in a kick descriptor is an event of the next round. The registration may have gone: then nothing happens."""
        event: epoll_event
        event.events = EPOLLIN | EPOLLET
        event.data.u64 = data
        lock(cython.address(self.mutex))
        if cython.cast(uint64_t, counter_get(cython.address(self.kicks[position].registration))) == data >> 32:
            epoll_ctl(self.epoll, EPOLL_CTL_MOD, self.kicks[position].fd, cython.address(event))
        unlock(cython.address(self.mutex))

    @cython.cfunc
    def listens(self, data: uint64_t) -> cython.bint:
        """Is the listener still there that this event is for? One before it in the same batch may have taken it out (C066)."""
        known = self.listeners.get(data & 0xFFFFFFFF)
        return known is not None and (data & ~LISTENER) >> 32 in known.values()

    def set_exit_event(self, fd):
        """Watch ``fd`` (not owned): readable ends the loop."""
        number: cython.int = descriptor(fd)
        self.control(EPOLL_CTL_ADD, number, EPOLLIN, EXIT)
        self.exit_fd = number

    def send_exit_event(self):
        """Write the exit event, if there is one, and end ``run`` in any case; any thread."""
        fd: cython.int = self.exit_fd
        if fd >= 0:
            poll = select.poll()
            try:
                poll.register(fd, select.POLLOUT)
                # Its owner may have filled it.
                if poll.poll(0):
                    os.write(fd, (1).to_bytes(8, sys.byteorder))
            except OSError:
                # The end to read of a pipe, for example. The worker ends all the same.
                pass
        self.stop()

    def stop(self):
        """End ``run`` from any thread or from a signal handler."""
        counter_set(cython.address(self.stopping), 1)
        own_bell_ring(self.wake)

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
            if cython.cast(Vring, self.items[position]).nudged_to_run() or (
                (cython.cast(Vring, self.items[position]).served or cython.cast(Vring, self.items[position]).kick_bell.fd < 0)
                and cython.cast(Vring, self.items[position]).look()
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
        kick.pause = FIRST_RETRY if kick.pause == 0 else min(kick.pause * 2, LONGEST_RETRY)
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
        counter_set(cython.address(cython.cast(Vring, self.items[position]).nudged), 1)
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
                cython.cast(Vring, self.items[position]).served
                and cython.cast(Vring, self.items[position]).arm()
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
                    cython.cast(Vring, self.items[position]).note_poll()
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
            self.pause = SHORTEST_PAUSE
            return
        self.credit -= 1
        if self.credit <= 0:
            self.poll_now = 0
            self.sleeps_left = self.pause
            if self.pause < LONGEST_PAUSE:
                self.pause *= 2

    def run(self, dispatch):
        """Loop until ``stop``: ``dispatch(event_id, epoll_events)`` for each ready vring or listener.

        A true return value ends the loop (the page's contract of handle_event); exceptions out of it are
        the caller's to catch. Returns when stopped.
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
                    calls = cython.cast(Vring, self.items[position]).counts.calls
                    if dispatch(position, EPOLLIN):
                        return
                    if self.placement is not None:
                        self.placement.after_turn(
                            polled,
                            cython.cast(Vring, self.items[position]).counts.calls - calls,
                            cython.cast(Vring, self.items[position]).near >= HALF_NEAR,
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
                        vring: Vring = self.vrings[kicked]
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


@cython.cfunc
@cython.exceptval(-1)
def descriptor(fd) -> cython.int:
    """Its number. A wrong number is left to epoll, which says what is wrong with it."""
    return fd if isinstance(fd, int) else PyObject_AsFileDescriptor(fd)
