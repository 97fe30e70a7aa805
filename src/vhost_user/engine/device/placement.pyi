"""Where a worker runs when rings share CPUs: where the driver is that it calls."""

from typing import final

@final
class Placement:
    def __init__(self) -> None: ...
    @property
    def moves(self) -> int: ...
