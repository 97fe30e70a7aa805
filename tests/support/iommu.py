"""A driver behind an IOMMU."""

from __future__ import annotations

from collections.abc import Callable

from vhost_user.frontend import VirtioDriver

DriveIommu = Callable[..., VirtioDriver]


def ask(driver: VirtioDriver, text: bytes = b"abc") -> bytes:
    return driver.queues[0].request(text, len(text))
