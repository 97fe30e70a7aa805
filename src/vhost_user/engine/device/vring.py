"""A vring of the device side: its state, the source of its requests, and who handles them (types: vring.pyi)."""

import warnings
from typing import Optional

import cython
from cython.cimports.vhost_user.engine.barriers import counter_get, counter_set
from cython.cimports.vhost_user.engine.device import vring_by_hand, vring_control, vring_setup
from cython.cimports.vhost_user.engine.device.fast_path import FastPath
from cython.cimports.vhost_user.engine.device.header import Header
from cython.cimports.vhost_user.engine.device.request import Request
from cython.cimports.vhost_user.engine.device.source import BATCH, Source
from cython.cimports.vhost_user.engine.device.vring_handling import Handling
from cython.cimports.vhost_user.engine.device.vring_recovery import VringRecovery
from cython.cimports.vhost_user.engine.device.vring_state import VringState
from cython.cimports.vhost_user.engine.device.vring_translation import VringTranslation
from cython.cimports.vhost_user.engine.memory.guest_memory import GuestMemory
from cython.cimports.vhost_user.engine.memory.iotlb import Iotlb

MAX_READ = 1 << 32


@cython.final
@cython.no_gc_clear
@cython.cclass
class Vring:
    """Vring(index, max_size, *, on_broken=None)\n--\n\n\
    One virtqueue as the device sees it, split or packed behind one interface.

    Control-plane methods are called by one thread (the session's); data-plane methods from any. A ring
    gives requests when it is ``started``, ``enabled``, not ``suspended`` and not ``broken``, and its memory is
    there; ``runnable`` says so. Every method is safe against the others. ``recovery`` has what a process
    before this one left in flight, ``translation`` what a ring behind an IOMMU needs.
    """

    # Not cleared by the garbage collector: its parts are used without a look whether they are still there.

    def __cinit__(self, index, max_size, *, on_broken=None):
        self.state = VringState(index, max_size, on_broken)
        self.source = Source(self.state)
        self.handling = Handling(self.source)
        self.recovery = VringRecovery(self.state)
        self.translation = VringTranslation(self.state)

    def __init__(self, index, max_size, *, on_broken=None):
        if self.made:
            # Once more would take the requests at hand away from under a worker.
            raise RuntimeError(f"queue {self.state.index}: a vring is made once")
        self.made = True

    # ------------------------------------------------------------------ state

    @property
    def index(self):
        """Global queue index."""
        return self.state.index

    @property
    def max_size(self):
        """The most descriptors that ``set_size`` accepts."""
        return self.state.max_size

    @property
    def size(self):
        """Size of the ring in descriptors: what ``set_size`` said; 0 before, and after ``reset``."""
        return self.state.ring_size

    @property
    def indirect_limit(self):
        """Entries of an indirect table that are followed: 4096 unless set, and always as many as the ring has.

        Drivers make tables longer than the ring, with as many entries as the device's configuration allows;
        a longer one breaks the ring (V005). 1 to 65536; counts from the next chain on.
        """
        return self.state.table_limit

    @indirect_limit.setter
    def indirect_limit(self, value):
        vring_setup.set_indirect_limit(self.state, value)

    @property
    def max_read(self):
        """Bytes that ``Request.read()`` gives without being told a length; 16 MiB unless set."""
        return counter_get(cython.address(self.state.read_limit))

    @max_read.setter
    def max_read(self, value):
        if not 0 <= value <= MAX_READ:
            raise ValueError(f"queue {self.state.index}: a max_read of {value}; 0 to {MAX_READ} bytes are possible")
        counter_set(cython.address(self.state.read_limit), value)

    @property
    def packed(self):
        """Whether the ring is packed; else it is split."""
        return self.state.want_packed

    @property
    def started(self):
        """Whether the ring was started and not stopped since (C050, C053)."""
        return self.state.is_started

    @property
    def enabled(self):
        """Whether the ring is enabled (C061); remembered while it is stopped."""
        return self.state.is_enabled

    @property
    def suspended(self):
        """Whether the ring is held back although it is started and enabled (C132)."""
        return self.state.is_suspended

    @property
    def runnable(self):
        """Whether requests are taken: started, enabled, not suspended, not broken, and its memory is there."""
        return self.state.can_run()

    @property
    def mapped(self):
        """All three areas lie in mapped memory."""
        return self.state.is_attached

    @property
    def broken(self):
        """The RingError that stopped it: the rule the driver broke, or what ``refuse`` was given; None if it is not.

        Cleared by ``reset`` and by a new start.
        """
        with cython.critical_section(self.state):
            return self.state.error

    @property
    def in_flight(self):
        """Requests taken and not yet completed."""
        return self.state.count_in_flight()

    def heads_in_flight(self):
        """Their heads (split) or buffer ids (packed), ascending."""
        return self.state.heads()

    @property
    def has_kick(self):
        """Whether the driver kicks; otherwise the ring is polled (C052)."""
        return self.state.kick_bell.fd >= 0

    @property
    def has_call(self):
        """Whether the driver can be called; otherwise it polls (C052)."""
        return self.state.call_bell.fd >= 0

    @property
    def kick(self):
        """The kick fd, or -1; for the worker's registration."""
        return self.state.kick_bell.fd

    @property
    def call(self):
        """The call fd, or -1. It stays the ring's: whoever hands it on makes a duplicate."""
        return self.state.call_bell.fd

    @property
    def err(self):
        """The err fd, or -1, as ``call``."""
        return self.state.err_bell.fd

    def statistics(self):
        """Counters since creation.

        Requests, batches, calls sent, calls suppressed, kicks, polls that found work …
        And "near": the share of the last few dozen calls, in 256ths, that the driver answered before they
        returned, because it sleeps on our CPU.
        """
        return self.state.statistics()

    # ------------------------------------------------------------------ set-up

    def set_features(self, *, packed, event_idx, in_order, notify_on_empty=False):
        """What was negotiated. ``packed`` cannot change while started.

        INDIRECT_DESC is not among it: indirect tables are served in any case, because drivers exist that use
        them unasked.
        """
        vring_setup.set_features(self.state, packed, event_idx, in_order, notify_on_empty)

    def set_size(self, size):
        """SET_VRING_NUM; raises ValueError with the rule (C070) and, when started, RuntimeError (C072)."""
        vring_setup.set_size(self.state, size)

    def set_base(self, value):
        """SET_VRING_BASE in the negotiated form (C057).

        Of a packed ring the upper half may be absent (zero): the used position is the available one then. Plain 0
        is a new ring if no descriptor was ever used when the ring starts. See the bases of packed rings in
        docs/messages.md.
        """
        vring_setup.set_base(self.state, value)

    def base(self):
        """What GET_VRING_BASE answers."""
        return vring_setup.base(self.state)

    def set_addresses(self, *, descriptor, driver, device, log_address=None):
        """Guest addresses of the three areas.

        They are desc, avail, used for a split ring; ring, driver event, device event for a packed one.
        Raises ValueError on misalignment (C071). While started it moves the ring or toggles logging (C072,
        C086). The split ring's used index is read from the ring at start (C059). ``log_address`` None: ring
        writes are not logged (C079).
        """
        vring_setup.set_addresses(self.state, descriptor, driver, device, log_address)

    def keep_addresses(self):
        """Addresses came that cannot be translated before there is memory (C041): the caller has them.

        Until then ``missing`` does not ask for them; ``set_addresses`` follows.
        """
        self.state.addresses_kept = True

    def set_memory(self, memory: Optional[GuestMemory], iotlb: Optional[Iotlb] = None):
        """New snapshot: ring areas are translated again.

        A ring whose memory went away pauses until it comes back (C041, C044). With ``iotlb``, translations into
        that snapshot, ring addresses and those of buffers are IOVAs (C088).
        """
        vring_setup.set_memory(self.state, memory, iotlb)

    def set_header(self, header: Optional[Header]):
        """The format of the header that requests of this queue begin with; None for none."""
        with cython.critical_section(self.state):
            self.state.layout = header

    def missing(self):
        """What must come before ``start``, in words; empty when nothing does (C073)."""
        return vring_setup.missing(self.state)

    def set_kick(self, fd):
        """Take ownership of the kick fd (None: poll, C052).

        A kick pending on the old one is not lost (C066). ValueError for what is neither an eventfd nor the
        right end of a pipe nor one end of a Unix socket pair (C067): it stays the caller's, and the old one
        in use.
        """
        if vring_control.replace_bell(self.state, cython.address(self.state.kick_bell), fd, True):
            # What was pending there counts for the new one (C066): the ring is looked at anyway.
            counter_set(cython.address(self.state.nudged), 1)

    def set_call(self, fd):
        """Take ownership of the call fd; a new one is signalled once (C065). ValueError as for ``set_kick``."""
        vring_control.replace_bell(self.state, cython.address(self.state.call_bell), fd, False)

    def set_err(self, fd):
        """Take ownership of the err fd, which is signalled when the ring breaks. ValueError as for ``set_kick``."""
        vring_control.replace_bell(self.state, cython.address(self.state.err_bell), fd, False)

    # ------------------------------------------------------------------ start and stop

    def start(self):
        """C050; raises RuntimeError naming what is missing: size, addresses or memory (C073)."""
        vring_control.start(self.state)

    def set_enabled(self, enabled):
        """SET_VRING_ENABLE: let the ring run or hold it (C061 to C064)."""
        vring_control.set_enabled(self.state, enabled)

    def set_suspended(self, suspended):
        """Hold the ring back although it is started and enabled, or let it go on (C132)."""
        vring_control.set_suspended(self.state, suspended)

    def stop(self):
        """Take no more requests; in-flight ones may still complete (C053)."""
        vring_control.stop(self.state)

    def refuse(self, error):
        """Take no more requests until the next start, for a reason that is not the driver's: ``broken`` is ``error``.

        The err descriptor is signalled. What waits in the ring stays the driver's; what is in flight may still
        complete. Does nothing to a ring that is not started or broken already. Whoever calls this says why in a log.
        """
        vring_control.refuse(self.state, error)

    def drain(self, timeout):
        """Wait up to ``timeout`` seconds, GIL released, until no request is in flight (C054).

        True when none is.
        """
        return vring_control.drain(self.state, timeout)

    def abandon(self):
        """Forget the in-flight requests: completing them later does nothing (C055, end of session)."""
        vring_control.abandon(self.state)

    def give_back(self):
        """Give the requests in flight of a stopped ring back to the driver; nobody is going to answer them.

        Those taken last count as never taken: ``base`` steps back, and the next start finds them again. One that is
        older than a request which was completed cannot be untaken: it is used with length 0. Gives the numbers of the
        two. The requests can no longer be used. Raises RuntimeError while the ring is started.
        """
        return vring_control.give_back(self.state)

    def reset(self):
        """Back to the state of creation.

        Abandon, close all fds, drop memory, addresses, base, flags (C134).
        """
        vring_control.reset(self.state)

    # ------------------------------------------------------------------ by hand

    def pop(self):
        """The next request, None when there is none or the ring does not run.

        Raises RingError once when the ring is found broken. Finding the ring empty asks the driver for a
        kick, unless ``disable_notification`` was called or ``process`` serves the ring.
        """
        return vring_by_hand.pop(self.handling, self)

    def add_used(self, request, written=-1):
        """Put back without notifying; ``signal_used_queue`` follows. ``request.complete()`` does both.

        ``request`` may also be the head of one that ``pop`` gave out and that still exists; ``written`` is
        then 0 unless given. Raises RequestError if it is complete already, ValueError for a stranger.
        """
        vring_by_hand.add_used(self.state, request, written)

    def put_back(self, request: Request):
        """Undo ``pop``: the next one gives the same chain again.

        Only the request taken last can be put back, then the one before it, and so on; RequestError
        otherwise. ``process`` would take it again at once: this is for rings emptied by hand.
        """
        vring_by_hand.put_back(self.state, request)

    def go_to_previous_position(self, request: Request):
        """``put_back`` by the name that the crate has for it."""
        vring_by_hand.put_back(self.state, request)

    def needs_notification(self):
        """Whether ``signal_used_queue`` would notify; the answer stands until it is called."""
        return vring_by_hand.needs_notification(self.state)

    def signal_used_queue(self):
        """Notify the driver if it asked for it (V016, V017, V033); True if the call fd was written."""
        return vring_by_hand.signal_used_queue(self.state)

    def enable_notification(self):
        """Ask the driver for kicks; True if buffers arrived meanwhile: look again (V018)."""
        self.state.quiet = False
        return self.state.arm()

    def disable_notification(self):
        """Ask the driver for no kicks; a hint, which it may disregard (V018)."""
        vring_by_hand.disable_notification(self.state)

    # ------------------------------------------------------------------ to a handler

    def set_outcome(self, callback):
        """What becomes of the results of handlers: ``callback(request or batch, result)`` unless it is None.

        What ``callback`` raises counts as raised by the handler. Without one results go nowhere.
        """
        # See VringState.snapshot.
        with cython.critical_section(self.state):
            old = self.state.on_outcome
            self.state.on_outcome = callback
        del old

    def process(self, handler, on_error=None, budget=1024, fast_path: FastPath = None, *, accelerator: FastPath = None):
        """Take requests until the ring is empty, and call ``handler`` with each.

        After ``budget`` requests it returns, and the worker comes back (H82). Those that were neither held nor
        completed are completed; finished ones are given back, and the driver notified if it waits for that, after
        every few and at the end. An exception out of ``handler`` goes to ``on_error``, which may complete the request
        (else it is completed with what was written). ``fast_path`` is offered every request first (see ``FastPath``).
        Returns the number taken. A ring served by ``process`` is armed by its worker just before sleeping.
        """
        return self.handling.run(self, handler, on_error, budget, 0, fast_path if accelerator is None else _renamed(accelerator))

    def process_batch(self, handler, on_error=None, budget=1024, fast_path: FastPath = None, *, size=64, accelerator: FastPath = None):
        """As ``process``, with ``handler`` called once for each batch of at most ``size`` requests (1 to 64).

        What a call of the batch could not do with a request (``Request.error``) goes to ``on_error`` when
        ``handler`` has returned. Raises ValueError for another size.
        """
        if not 1 <= size <= BATCH:
            raise ValueError(f"queue {self.state.index}: batches of {size} requests; 1 to {BATCH} are possible")
        return self.handling.run(self, handler, on_error, budget, size, fast_path if accelerator is None else _renamed(accelerator))

    def __repr__(self):
        state = "broken" if self.state.error is not None else "started" if self.state.is_started else "stopped"
        return f"<Vring {self.state.index} {state}{' enabled' if self.state.is_enabled else ''} size {self.state.ring_size} in flight {self.in_flight}>"


@cython.cfunc
def _renamed(fast_path: FastPath) -> FastPath:
    warnings.warn("the argument accelerator is now called fast_path", DeprecationWarning, stacklevel=1)
    return fast_path


VringMutex = Vring
VringRwLock = Vring
