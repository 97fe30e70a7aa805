"""The signal that tells of guest memory that went away."""

import signal


def let_memory_faults_through() -> None:
    """Unblock SIGBUS in the calling thread: with the signal blocked the fault kills the process (C039, H85).

    A program may block all signals to take them with ``sigwait``, and its threads inherit that. Called in
    each thread of the framework that touches guest memory; a device that does so in a thread of its own calls
    ``signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGBUS})`` there.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGBUS})
