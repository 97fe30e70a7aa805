"""The hostile inputs that once broke a back-end or a device, by name.

H01 to H100 as in docs/rules.md; others have the rule that they are about.
"""

from __future__ import annotations

from vhost_user.fuzzing import (
    front_end_cases,
    inflight_cases,
    iommu_cases,
    message_cases,
    postcopy_cases,
    ring_cases,
    state_cases,
)
from vhost_user.fuzzing.case import CASES, Case

MODULES = (
    front_end_cases,
    inflight_cases,
    iommu_cases,
    message_cases,
    postcopy_cases,
    ring_cases,
    state_cases,
)
"""Importing them has registered their cases."""


def all_cases() -> tuple[Case, ...]:
    """Every case there is."""
    return tuple(CASES)
