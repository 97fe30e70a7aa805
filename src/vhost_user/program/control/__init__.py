"""The control socket of a served device: commands as lines of JSON (docs/control-socket.md)."""

from vhost_user.program.control.commands import Command, CommandFailed, Commands

__all__ = ["Command", "CommandFailed", "Commands"]
