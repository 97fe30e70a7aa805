"""Several requests at a time: what one Request can, for all of a batch in one call."""

from collections.abc import Iterable
from typing import Any, final

from _typeshed import ReadableBuffer, WriteableBuffer

from vhost_user.engine.request import Request

@final
class Batch(list[Request]):
    """The requests that are handed to ``handle_batch`` together.

    A list with the operations of Request in the plural: each call does for every request what the method of
    that name does for one, without going through Python in between. A request it cannot serve (a header too
    short, a buffer that is not mapped, a range outside of the disk: the driver's doing, as a rule) does not
    spoil the others. It gets an ``error``, leaves the list, later calls pass it by, and when
    ``handle_batch`` has returned, the framework treats it as if ``handle`` had raised that error for it.

    Arguments that differ from request to request are given as one for each, in the list's order; None leaves
    that request alone. Answers come in the order of the list as it is after the call. ``Batch(requests)``
    makes another one of some of them.
    """

    def headers(self) -> list[Any]:
        """``header`` of each."""
    def field(self, index: int, /) -> list[int]:
        """Field ``index`` of each header, counted from 0 without the padding.

        Raises IndexError if there is no such field.
        """
    def by_field(self, index: int, /) -> dict[int, Batch]:
        """The requests in groups, by that field of the header: the way to tell reads from writes."""
    def read(self) -> list[bytes]:
        """What is left of each readable part."""
    def read_to(
        self,
        target: WriteableBuffer,
        offsets: Iterable[int | None] | None = None,
        /,
        *,
        at_field: int = -1,
        unit: int = 1,
    ) -> None:
        """Copy what is left of each readable part into ``target``, at its offset.

        The offsets are those given, or stand in field ``at_field`` of the headers. They count in units of
        ``unit`` bytes (512: sectors). What would pass the end of ``target`` is an error of that request.
        """
    def write(self, data: Iterable[ReadableBuffer | None], /) -> None:
        """Append to each writable part its piece of data."""
    def write_from(
        self,
        source: ReadableBuffer,
        offsets: Iterable[int | None] | None = None,
        /,
        *,
        at_field: int = -1,
        unit: int = 1,
        keep: int = 0,
    ) -> None:
        """Fill each writable part from ``source`` at its offset, up to the last ``keep`` bytes.

        Offsets as for ``read_to``. What would pass the end of ``source`` is an error of that request.
        """
    def fill(self, byte: int, /, *, keep: int = 0) -> None:
        """Fill each writable part with the same byte, up to the last ``keep`` ones."""
    def write_last(self, data: ReadableBuffer, /) -> None:
        """Write ``data`` to the end of each writable part: a status that all of them share."""
