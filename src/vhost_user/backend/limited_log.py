"""A log that a hostile guest or front-end cannot fill; the protocol layer needs it, too, and has it."""

from vhost_user.protocol.limited_log import LimitedLog

__all__ = ["LimitedLog"]
