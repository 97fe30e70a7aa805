"""What a worker waits for: the kicks of its vrings, listeners, the exit event, and being woken (types: poll_set.pyi)."""

# A ring changed by the control plane is nudged: flag first, then the wake fd.

import os
import select
import sys

import cython
from cython.cimports.cpython.object import PyObject_AsFileDescriptor
from cython.cimports.libc.errno import EEXIST, errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.unistd import close
from cython.cimports.vhost_user.engine.barriers import (
    counter_get,
    counter_set,
    lock,
    lock_destroy,
    lock_init,
    own_bell_ring,
    unlock,
)
from cython.cimports.vhost_user.engine.device.poll_set import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLIN,
    EXIT,
    LISTENER,
    WAKE,
    Kick,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    eventfd,
)
from cython.cimports.vhost_user.engine.device.vring import Vring
from cython.cimports.vhost_user.engine.doorbell import take_bell

MAX_ID = 1 << 32
MAX_REGISTRATION = cython.declare(uint64_t, 0x7FFFFFF0)


@cython.cclass
class PollSet:
    """PollSet(vrings, *, first_listener_id)\n--\n\n\
    Kicks of ``vrings``, listeners, the exit event. Of its events only ``Worker.run`` takes notice."""

    def __cinit__(self, vrings, *, first_listener_id, **_):
        self.epoll = -1
        self.wake = -1
        self.exit_fd = -1
        lock_init(cython.address(self.mutex))

    def __init__(self, vrings, *, first_listener_id):
        event: epoll_event
        vring: Vring
        self.vrings = tuple(vrings)
        self.count = len(self.vrings)
        if first_listener_id < self.count:
            raise ValueError(f"listener ids from {first_listener_id} on would collide with those of {self.count} queues")
        self.first_listener_id = first_listener_id
        self.listeners = {}
        self.items = cython.cast(cython.pointer[cython.p_void], calloc(self.count + 1, cython.sizeof(cython.p_void)))
        self.kicks = cython.cast(cython.pointer[Kick], calloc(self.count + 1, cython.sizeof(Kick)))
        if self.items == cython.NULL or self.kicks == cython.NULL:
            raise MemoryError
        for position in range(self.count):
            vring = self.vrings[position]
            if vring.state.position >= 0:
                raise ValueError(f"queue {vring.state.index} has a worker already")
            self.items[position] = cython.cast(cython.p_void, vring.state)
            self.kicks[position].fd = -1
        for position in range(self.count):
            vring = self.vrings[position]
            vring.state.position = position
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
            vring.state.position = -1
        if self.epoll >= 0:
            close(self.epoll)
            self.epoll = -1
        # Its owner may close it now, and the number may become another file's.
        self.exit_fd = -1

    def fileno(self):
        """The descriptor of the poll set."""
        return self.epoll

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
        if vring.state.position < 0 or vring.state.position >= self.count or self.vrings[vring.state.position] is not vring:
            raise ValueError(f"queue {vring.state.index} does not belong to this worker")
        wanted: cython.int = vring.state.kick_bell.fd if vring.state.can_run() else -1
        if self.kicks[vring.state.position].fd != wanted:
            self.remove(vring)
            if wanted >= 0:
                # Each kick is one event, whether the descriptor can be emptied or not: a peer that leaves it readable
                # burns no CPU (C068, H88). What was pending before counts as seen: the ring is looked at below.
                take_bell(wanted, vring.state.kick_bell.kind)
                registration: uint64_t = self.register()
                self.kicks[vring.state.position].fd = wanted
                counter_set(cython.address(self.kicks[vring.state.position].registration), registration)
                try:
                    self.control(EPOLL_CTL_ADD, wanted, EPOLLIN | EPOLLET, registration << 32 | cython.cast(uint64_t, vring.state.position))
                except OSError:
                    self.kicks[vring.state.position].fd = -1
                    raise
        kickless = 0
        for other in self.vrings:
            if other.runnable and not other.has_kick:
                kickless += 1
        counter_set(cython.address(self.kickless), kickless)
        if vring.state.can_run():
            # Buffers may wait there since before the ring ran (C051).
            counter_set(cython.address(vring.state.nudged), 1)
        own_bell_ring(self.wake)

    def remove(self, vring: Vring):
        """Unregister its kick fd: before the fd is closed or replaced, always (C066)."""
        fd: cython.int = self.kicks[vring.state.position].fd
        if fd >= 0:
            lock(cython.address(self.mutex))
            # Events of this registration may be on their way to the worker: they are not the next one's.
            counter_set(cython.address(self.kicks[vring.state.position].registration), 0)
            # An eventfd that came over a socket stays in the set after close: its other holders keep it open (C066).
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, cython.NULL)
            self.kicks[vring.state.position].fd = -1
            unlock(cython.address(self.mutex))

    @cython.cfunc
    def register(self) -> uint64_t:
        """A number for each registration, 1 to 2^31 and again."""
        lock(cython.address(self.mutex))
        self.registrations = 1 if self.registrations >= MAX_REGISTRATION else self.registrations + 1
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
        if not self.first_listener_id <= data < MAX_ID:
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


@cython.cfunc
@cython.exceptval(-1)
def descriptor(fd) -> cython.int:
    """Its number. A wrong number is left to epoll, which says what is wrong with it."""
    return fd if isinstance(fd, int) else PyObject_AsFileDescriptor(fd)
