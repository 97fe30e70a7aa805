"""What can be wrong with a device type, its description or the options given for it."""

from __future__ import annotations


class OptionError(ValueError):
    """The options of a device do not fit together, or one of them makes no sense."""


class UnknownDeviceTypeError(LookupError):
    """There is no device type of this name; the text lists those that there are."""


class BrokenDeviceTypeError(ImportError):
    """A description cannot be used; the text names where it comes from and what is wrong with it."""
