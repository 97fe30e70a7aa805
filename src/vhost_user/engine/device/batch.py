"""Several requests at a time: what one Request can, for all of a batch in one call (types and docstrings: batch.pyi)."""

# Every loop looks at the length again for each element: converting an argument, or an error, can run Python code, which may
# change the list. An error of one request stays with it (`problem`): the guest that made it must not spoil the others.

from typing import Optional

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.list import PyList_Append, PyList_GET_ITEM, PyList_GET_SIZE
from cython.cimports.cpython.long import PyLong_AsLongLongAndOverflow
from cython.cimports.cpython.number import PyNumber_Index
from cython.cimports.libc.stdint import INT64_MAX, int64_t, uint64_t
from cython.cimports.vhost_user.engine.device.fast_path import FAR
from cython.cimports.vhost_user.engine.barriers import prefetch_run
from cython.cimports.vhost_user.engine.device.request import Request

from vhost_user.engine.errors import MemoryFault, RequestError

HEADER = cython.declare(cython.int, 0)
FIELD = cython.declare(cython.int, 1)
READ = cython.declare(cython.int, 2)
READ_TO = cython.declare(cython.int, 3)
WRITE = cython.declare(cython.int, 4)
WRITE_FROM = cython.declare(cython.int, 5)
WRITE_LAST = cython.declare(cython.int, 6)
FILL = cython.declare(cython.int, 7)

# What a request can be refused for; anything else is a mistake of the caller, and goes to it.
_REFUSED = (RequestError, MemoryFault, ValueError, OverflowError, MemoryError)


@cython.final
@cython.cclass
class Batch(list):
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

    def headers(self):
        """``header`` of each."""
        return self.each(HEADER, None, cython.NULL, 0, 1, 0, 0)

    def field(self, index: cython.int, /):
        """Field ``index`` of each header, counted from 0 without the padding.

        Raises IndexError if there is no such field.
        """
        return self.each(FIELD, None, cython.NULL, 0, 1, 0, index)

    def by_field(self, index: cython.int, /):
        """The requests in groups, by that field of the header: the way to tell reads from writes."""
        groups: dict = {}
        group: Batch = None
        values: list = self.each(FIELD, None, cython.NULL, 0, 1, 0, index)
        position: cython.int = 0
        last = None
        with cython.critical_section(self):
            while position < PyList_GET_SIZE(values) and position < PyList_GET_SIZE(self):
                value = values[position]
                # Neighbours are mostly of one kind, and small numbers one object.
                if value is not last:
                    group = groups.get(value)
                    if group is None:
                        group = Batch()
                        groups[value] = group
                    last = value
                PyList_Append(group, cython.cast(object, PyList_GET_ITEM(self, position)))
                position += 1
        return groups

    def read(self):
        """What is left of each readable part."""
        return self.each(READ, None, cython.NULL, 0, 1, 0, 0)

    def read_to(self, target, offsets=None, /, *, at_field: cython.int = -1, unit: int64_t = 1):
        """Copy what is left of each readable part into ``target``, at its offset.

        The offsets are those given, or stand in field ``at_field`` of the headers. They count in units of
        ``unit`` bytes (512: sectors). What would pass the end of ``target`` is an error of that request.
        """
        view: cython.Py_buffer
        places: list = self.places(offsets, at_field)
        if unit < 1:
            raise ValueError(f"a unit of {unit} bytes")
        PyObject_GetBuffer(target, cython.address(view), PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            self.each(READ_TO, places, cython.cast(cython.p_char, view.buf), view.len, unit, 0, at_field)
        finally:
            PyBuffer_Release(cython.address(view))

    def write(self, data, /):
        """Append to each writable part its piece of data."""
        self.each(WRITE, self.parallel(data, "pieces of data"), cython.NULL, 0, 1, 0, 0)

    def write_from(self, source, offsets=None, /, *, at_field: cython.int = -1, unit: int64_t = 1, keep: int64_t = 0):
        """Fill each writable part from ``source`` at its offset, up to the last ``keep`` bytes.

        Offsets as for ``read_to``. What would pass the end of ``source`` is an error of that request.
        """
        view: cython.Py_buffer
        places: list = self.places(offsets, at_field)
        if unit < 1 or keep < 0:
            raise ValueError(f"a unit of {unit} bytes, {keep} bytes to keep")
        PyObject_GetBuffer(source, cython.address(view), PyBUF_SIMPLE)
        try:
            self.each(WRITE_FROM, places, cython.cast(cython.p_char, view.buf), view.len, unit, keep, at_field)
        finally:
            PyBuffer_Release(cython.address(view))

    def write_last(self, data, /):
        """Write ``data`` to the end of each writable part: a status that all of them share."""
        view: cython.Py_buffer
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            self.each(WRITE_LAST, None, cython.cast(cython.p_char, view.buf), view.len, 1, 0, 0)
        finally:
            PyBuffer_Release(cython.address(view))

    def fill(self, byte: cython.int, /, *, keep: int64_t = 0):
        """Fill each writable part with the same byte, up to the last ``keep`` ones."""
        if not 0 <= byte <= 255 or keep < 0:
            raise ValueError(f"byte {byte}, {keep} bytes to keep")
        self.each(FILL, None, cython.NULL, 0, 1, keep, byte)

    @cython.cfunc
    def places(self, offsets, at_field: cython.int) -> Optional[list]:
        if (offsets is None) == (at_field < 0):
            raise TypeError("either offsets, one for each request, or at_field, the field of the header that has them")
        return self.parallel(offsets, "offsets") if at_field < 0 else None

    @cython.cfunc
    def parallel(self, arguments, what: str) -> list:
        """A list of our own of ``arguments``, one for each request."""
        found: list = list(arguments)
        if len(found) != len(self):
            raise ValueError(f"{len(found)} {what} for {len(self)} requests")
        return found

    @cython.cfunc
    def each(
        self,
        operation: cython.int,
        arguments: Optional[list],
        data: cython.p_char,
        size: cython.Py_ssize_t,
        unit: uint64_t,
        keep: uint64_t,
        number: cython.int,
    ):
        """One operation for all; ``number`` is a field or a byte. Those that cannot be served get a problem and leave the batch; the answers of the others, if any."""
        answers: list = [None] * PyList_GET_SIZE(self) if operation <= READ else []
        answered: cython.Py_ssize_t = 0
        request: Request
        index: cython.int = 0
        refused: cython.bint = False
        argument = None
        place: int64_t
        offset: uint64_t
        length: uint64_t
        # Without the GIL: another thread cannot take a request out of the list while it is looked at.
        with cython.critical_section(self):
            while True:
                try:
                    while index < PyList_GET_SIZE(self):
                        item = cython.cast(object, PyList_GET_ITEM(self, index))
                        if arguments is not None:
                            if index >= PyList_GET_SIZE(arguments):
                                break
                            argument = cython.cast(object, PyList_GET_ITEM(arguments, index))
                        if type(item) is not Request:
                            return self.stranger(item)
                        request = cython.cast(Request, item)
                        index += 1
                        if request.problem is not None:
                            refused = True
                            continue
                        if operation <= READ:
                            answer = (
                                request.field(number)
                                if operation == FIELD
                                else request.decoded()
                                if operation == HEADER
                                else request.rest()
                            )
                            if answered < PyList_GET_SIZE(answers):
                                answers[answered] = answer
                                answered += 1
                        elif operation == WRITE_LAST:
                            request.put_last(data, size)
                        elif operation == FILL:
                            request.put(cython.NULL, request.room(keep), number)
                        elif argument is None and arguments is not None:
                            continue
                        elif operation == WRITE:
                            request.append(argument)
                        else:
                            # A number that is not a place in the buffer is bad input: it may come from the guest. One below
                            # 0 is more than any buffer has, once it has no sign.
                            if arguments is None:
                                request.check_field(number)
                                offset = request.layout.value(request.head_bytes, number)
                            else:
                                place = argument if type(argument) is int else PyNumber_Index(argument)
                                offset = place
                            length = request.room(keep) if operation == WRITE_FROM else request.left()
                            if offset > INT64_MAX // unit or offset * unit > cython.cast(uint64_t, size) or length > size - offset * unit:
                                raise ValueError(f"{length} bytes at {offset} times {unit} are outside of a buffer of {size} bytes")
                            if operation == WRITE_FROM:
                                if size > FAR and index < PyList_GET_SIZE(self):
                                    self.expect(index, arguments, number, data, size, unit)
                                request.put(data + offset * unit, length, -1)
                            else:
                                request.take(data + offset * unit, length)
                    break
                except _REFUSED as error:
                    request.spoil(error)
                    refused = True
        if refused:
            self.sift()
        if answered < PyList_GET_SIZE(answers):
            del answers[answered:]
        return answers

    @cython.cfunc
    def stranger(self, item):
        """What is in the list is not a request."""
        raise TypeError(f"a batch holds requests, not {type(item).__name__}")

    @cython.cfunc
    def expect(self, index: cython.int, arguments: Optional[list], field: cython.int, data: cython.p_char, size: uint64_t, unit: uint64_t):
        """The next place to copy from: its lines may come while the request before is copied. Longer runs the processor sees itself."""
        overflow: cython.int = 0
        place: uint64_t
        if arguments is not None:
            # The list may have grown meanwhile, past the arguments.
            if index >= PyList_GET_SIZE(arguments):
                return
            argument = cython.cast(object, PyList_GET_ITEM(arguments, index))
            if type(argument) is not int:
                return
            place = PyLong_AsLongLongAndOverflow(argument, cython.address(overflow))
        else:
            item = cython.cast(object, PyList_GET_ITEM(self, index))
            if type(item) is not Request or not cython.cast(Request, item).copied:
                return
            place = cython.cast(Request, item).layout.value(cython.cast(Request, item).head_bytes, field)
        if overflow or place >= size // unit:
            return
        prefetch_run(data + place * unit, size - place * unit)

    @cython.cfunc
    def sift(self):
        """Leave out the requests that have a problem. The next call refuses what is not a request."""
        self[:] = [each for each in self if type(each) is not Request or cython.cast(Request, each).problem is None]
