"""The header that requests of a queue begin with: fixed fields, compiled once (types: header.pyi)."""

import struct

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.cpython.tuple import PyTuple_New, PyTuple_SET_ITEM
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

_Struct = struct.Struct
_WIDTHS = {"b": -1, "B": 1, "h": -2, "H": 2, "i": -4, "I": 4, "l": -4, "L": 4, "q": -8, "Q": 8}


@cython.final
@cython.cclass
class Header:
    """Header(format, into=None)\n--\n\n\
    A fixed request header, compiled once.

    ``Header("<IIQ")`` as for the struct module (little-endian integers b B h H i I q Q and pad x), always
    without alignment: ``"HQ"`` has 10 bytes here, in ``struct`` 16. A device's ``header`` must say ``"<HQ"``.

    ``into`` is called with the fields, and what it returns is ``request.header``: a named tuple or a
    dataclass for example. ``Header(VsockHeader)`` takes the format of a class from its ``LAYOUT`` and makes
    an object of it. Raises ValueError for a format, TypeError for a class, that cannot be used.
    """

    def __init__(self, format, into=None):
        if not isinstance(format, str):
            # A class with a layout of its own, as the structs of vhost_user.spec are.
            if not callable(format) or not isinstance(getattr(format, "LAYOUT", None), _Struct):
                raise TypeError(f"header {format!r}: give a format such as '<IIQ', or a class whose LAYOUT is a struct.Struct")
            into = format if into is None else into
            format = format.LAYOUT.format
        if into is not None and not callable(into):
            raise TypeError(f"header {format!r}: into is {into!r}; give a class, or a function of the fields")
        # Requests decode by it without a look at its bounds: it is made once, and only when all of it is right.
        offsets: cython.int[32]
        widths: cython.int[32]
        layout = format[1:] if format[:1] in ("<", "=") else format
        if format[:1] in (">", "!", "@"):
            raise ValueError(f"header {format!r}: virtio headers are little-endian, write '<…'")
        offset = 0
        count = 0
        repeat = ""
        for letter in layout:
            if letter.isdigit():
                repeat += letter
                continue
            times = int(repeat or 1)
            repeat = ""
            if letter == "x":
                offset += times
                continue
            width = _WIDTHS.get(letter)
            if width is None:
                raise ValueError(f"header {format!r}: field type {letter!r} is not an integer (b B h H i I q Q) or pad (x)")
            for _ in range(times):
                if count == 32:
                    raise ValueError(f"header {format!r}: more than 32 fields")
                offsets[count] = min(offset, 256)
                widths[count] = width
                offset += abs(width)
                count += 1
        if not 0 < offset <= 256:
            raise ValueError(f"header {format!r}: {offset} bytes; 1 to 256 are supported")
        with cython.critical_section(self):
            if self.size:
                raise TypeError(f"header {self.format!r} is made already; make another one for {format!r}")
            memcpy(self.offsets, offsets, cython.sizeof(offsets))
            memcpy(self.widths, widths, cython.sizeof(widths))
            self.format = format
            self.into = into
            self.count = count
            self.size = offset

    @cython.cfunc
    @cython.exceptval(check=False)
    def value(self, data: cython.pointer[uint8_t], index: cython.int) -> uint64_t:
        """Field ``index`` of a header that was copied to ``data``; a signed one with its sign in the highest bits."""
        place: cython.pointer[uint8_t] = data + self.offsets[index]
        width: cython.int = self.widths[index]
        u16: uint16_t
        u32: uint32_t
        u64: uint64_t
        # memcpy: fields of a header need not be aligned in the private copy.
        if width == 4 or width == -4:
            memcpy(cython.address(u32), place, 4)
            return u32 if width > 0 else cython.cast(int64_t, cython.cast(cython.int, u32))
        if width == 8 or width == -8:
            memcpy(cython.address(u64), place, 8)
            return u64
        if width == 2 or width == -2:
            memcpy(cython.address(u16), place, 2)
            return u16 if width > 0 else cython.cast(int64_t, cython.cast(cython.short, u16))
        return place[0] if width > 0 else cython.cast(int64_t, cython.cast(cython.schar, place[0]))

    @cython.cfunc
    def number(self, data: cython.pointer[uint8_t], index: cython.int) -> object:
        """The same as Python has it."""
        value: uint64_t = self.value(data, index)
        return value if self.widths[index] > 0 else cython.cast(int64_t, value)

    @cython.cfunc
    def decode(self, data: cython.pointer[uint8_t]) -> object:
        values: tuple = PyTuple_New(self.count)
        index: cython.int
        for index in range(self.count):
            value = self.number(data, index)
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, index, value)
        if self.into is not None:
            return self.into(*values)
        return values

    def __repr__(self):
        return f"Header({self.format!r})" if self.into is None else f"Header({self.format!r}, into={self.into!r})"
