"""``Viewer``: what one page has been told of a board, and what it holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from vhost_user.board.board import Board
from vhost_user.board.control import Json
from vhost_user.protocol.limited_log import LimitedLog

_report = LimitedLog(logging.getLogger(__name__))


class Viewer:
    """Somebody who looks at a board: a page, or a program.

    ``news`` compares what is with what was told. Nothing is queued for a viewer that is slow: however much
    happens, there is one piece of news for each control.
    """

    def __init__(self, board: Board) -> None:
        self._controls = dict(board.controls())
        self._told: dict[str, Any] = {}
        self._moved: set[str] = set()

    def news(self) -> dict[str, Json]:
        """What changed since the last call, by the names of the controls; all of it the first time."""
        found = {}
        for name, control in self._controls.items():
            news = _asked(name, control.news, self._told.get(name))
            if news is not None:
                found[name], self._told[name] = news
        return found

    def values(self) -> dict[str, Json]:
        """What each control shows now, whatever was told before."""
        values = {
            name: _asked(name, lambda control: [control.value()], control)
            for name, control in self._controls.items()
        }
        return {name: value[0] for name, value in values.items() if value is not None}

    def act(self, text: str | bytes) -> str | None:
        """Carry out what a page sent: ``{"control": NAME, "value": VALUE}``. Gives why not, or None."""
        try:
            wish = json.loads(text)
        except (ValueError, RecursionError):
            return "what came is not JSON"
        match wish:
            case {"control": str() as name, "value": value} if name in self._controls:
                pass
            case {"control": name}:
                return f"the board has no control {name!r}, or no value came for it"
            case _:
                return 'send {"control": NAME, "value": VALUE}'
        self._moved.add(name)
        try:
            self._controls[name].act(value, self)
        except ValueError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  # code of the board's author
            _report.log(logging.ERROR, "%s cannot be moved: %s", name, error, exception=error)
            return f"{name}: {type(error).__name__}: {error}"
        return None

    def close(self) -> None:
        """The page is closed: buttons that it held are let go."""
        for name in self._moved:
            try:
                self._controls[name].left(self)
            except Exception as error:  # noqa: BLE001  # as above
                _report.log(logging.ERROR, "%s is not let go: %s", name, error, exception=error)
        self._moved.clear()


def _asked(name: str, ask: Callable[[Any], Any], argument: Any) -> Any:
    """What a control answers: its value first, which must be one that a page can read. None when it fails."""
    try:
        answer = ask(argument)
        if answer is not None:
            json.dumps(answer[0], allow_nan=False)
    except Exception as error:  # noqa: BLE001  # code of the board's author: the other controls go on
        _report.log(logging.ERROR, "%s cannot be shown: %s", name, error, exception=error)
        return None
    return answer
