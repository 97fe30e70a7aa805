"""What tests of the back-end have, for programs around it."""

from tests.backend.conftest import _nothing_leaks, stage

__all__ = ["_nothing_leaks", "stage"]
