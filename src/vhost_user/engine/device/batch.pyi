"""Several requests at a time: what one Request can, for all of a batch in one call."""

from collections.abc import Iterable
from typing import Any, final

from _typeshed import ReadableBuffer, WriteableBuffer

from vhost_user.engine.device.request import Request

@final
class Batch(list[Request]):
    def headers(self) -> list[Any]: ...
    def field(self, index: int, /) -> list[int]: ...
    def by_field(self, index: int, /) -> dict[int, Batch]: ...
    def read(self) -> list[bytes]: ...
    def read_to(
        self,
        target: WriteableBuffer,
        offsets: Iterable[int | None] | None = None,
        /,
        *,
        at_field: int = -1,
        unit: int = 1,
    ) -> None: ...
    def write(self, data: Iterable[ReadableBuffer | None], /) -> None: ...
    def write_from(
        self,
        source: ReadableBuffer,
        offsets: Iterable[int | None] | None = None,
        /,
        *,
        at_field: int = -1,
        unit: int = 1,
        keep: int = 0,
    ) -> None: ...
    def fill(self, byte: int, /, *, keep: int = 0) -> None: ...
    def write_last(self, data: ReadableBuffer, /) -> None: ...
