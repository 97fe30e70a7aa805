"""A keyboard on which somebody types without end, whatever becomes of it."""

from __future__ import annotations

import threading
import time

from vhost_user.devices import Input, Keyboard


class Typist(Input):
    """Types from its first day to its last."""

    def __init__(self) -> None:
        keyboard = Keyboard()
        super().__init__(keyboard)
        self._typing = threading.Thread(target=self._type, args=(keyboard,), daemon=True)
        self._typing.start()

    def _type(self, keyboard: Keyboard) -> None:
        while True:
            keyboard.tap("a", "b")
            time.sleep(0.0005)  # the other device of the process shares the interpreter
