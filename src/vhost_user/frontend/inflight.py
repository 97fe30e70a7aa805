"""The area in which a back-end records what is in flight, as the front-end keeps it (C106, C107)."""

import os
from dataclasses import dataclass


@dataclass(eq=False)
class Inflight:
    """An in-flight area that the back-end made (GET_INFLIGHT_FD).

    ``fd`` is owned; close it when no reconnect will need it.
    """

    fd: int
    size: int
    offset: int
    num_queues: int
    queue_size: int

    def close(self) -> None:
        """Close the descriptor. May be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
