"""The worker: waits for kicks and listeners without the GIL, enters Python once an event."""

from collections.abc import Callable, Sequence
from typing import final

from vhost_user.engine.device.placement import Placement
from vhost_user.engine.device.poll_set import PollSet
from vhost_user.engine.device.vring import Vring

@final
class Worker(PollSet):
    def __init__(
        self,
        vrings: Sequence[Vring],
        *,
        first_listener_id: int,
        poll_microseconds: int = 0,
        crowded: bool = False,
    ) -> None: ...
    @property
    def placement(self) -> Placement | None: ...
    def run(self, dispatch: Callable[[int, int], object]) -> None: ...
    def look_again(self, position: int) -> None: ...
    def statistics(self) -> dict[str, int]: ...
