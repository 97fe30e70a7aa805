"""What tests do with a driver in this process again and again."""

from __future__ import annotations

from vhost_user.frontend import VirtioDriver


def resume(driver: VirtioDriver, queue: int) -> None:
    """Start a queue again that was stopped."""
    driver.start_queue(queue)
    driver.frontend.set_vring_enable(queue, True)
