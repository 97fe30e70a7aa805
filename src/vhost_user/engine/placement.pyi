"""Where a worker runs when rings share CPUs: where the driver is that it calls."""

from typing import final

@final
class Placement:
    """Watches one worker's turns, and moves its thread to the next CPU when the drivers it calls sleep elsewhere.

    A driver that sleeps on the worker's own CPU is called for the price of a system call: it runs, brings its
    next requests and sleeps again before the call returns. One that sleeps on another CPU costs an interrupt
    between CPUs for each call. The scheduler leaves either arrangement as it is. For workers that have to
    share their CPUs with the drivers anyway; elsewhere a CPU of one's own is worth more.
    """

    def __init__(self) -> None: ...
    @property
    def moves(self) -> int:
        """How often the thread was moved."""
