"""The header that requests of a queue begin with."""

from collections.abc import Callable
from typing import Any, final

@final
class Header:
    def __init__(self, format: str | type[Any], into: Callable[..., Any] | None = None) -> None: ...  # noqa: A002  # as in the struct module
    @property
    def size(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def into(self) -> Callable[..., Any] | None: ...
