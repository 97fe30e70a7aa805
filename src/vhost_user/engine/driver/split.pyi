"""The driver's side of a split ring (virtio 1.4 section 2.7)."""

from typing import final

from vhost_user.engine.driver.split_areas import SplitAreas

@final
class SplitDriverQueue(SplitAreas):
    @property
    def used_position(self) -> int: ...
