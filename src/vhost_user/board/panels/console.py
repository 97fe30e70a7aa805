"""A console: a terminal for each port that has nobody at its other end."""

from __future__ import annotations

from vhost_user.backend.device import Device
from vhost_user.board.control import Control, Text
from vhost_user.board.terminal import Terminal, TerminalView
from vhost_user.devices.console import Console
from vhost_user.devices.console_ends import End
from vhost_user.devices.console_port import Port


def controls(device: Device) -> list[Control]:
    """Of a console of ours, which is not served yet."""
    ports = device.ports if isinstance(device, Console) else {}
    return [_control(port) for port in ports.values()]


def _control(port: Port) -> Control:
    if type(port.end) is End and port.task is None:
        port.end = Terminal()
    if isinstance(port.end, Terminal):
        return TerminalView(port.end, port)
    words = f"at the other end: {port.end!r}"
    return Text(port.name or f"port {port.number}", lambda: words)
