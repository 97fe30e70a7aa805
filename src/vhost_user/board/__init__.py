"""Boards: several devices of one program, and a page in the browser that shows and moves them.

``vhost-user board FILE.py`` serves the devices of a file; what the page shows is said with these names.
Nothing here needs the web library before a page is served (:mod:`vhost_user.board.server`).
"""

from vhost_user.board.board import Board, BoardError, Panel, board_of
from vhost_user.board.control import Control, Slider, Text
from vhost_user.board.hands import Keys, Pad
from vhost_user.board.lines import Button, Led, Pin, Switch
from vhost_user.board.registers import Memory, Registers
from vhost_user.board.terminal import Terminal, TerminalView

__all__ = [
    "Board",
    "BoardError",
    "Button",
    "Control",
    "Keys",
    "Led",
    "Memory",
    "Pad",
    "Panel",
    "Pin",
    "Registers",
    "Slider",
    "Switch",
    "Terminal",
    "TerminalView",
    "Text",
    "board_of",
]
