"""Headers that become objects: structs of the specification, named tuples, dataclasses."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pytest

from vhost_user import Batch, BufferQueue, Device, Header, Queue, Request
from vhost_user.spec.blk import REQUEST_FORMAT
from vhost_user.spec.gpio import GpioRequest
from vhost_user.spec.record import Record
from vhost_user.spec.vsock import VsockHeader

if TYPE_CHECKING:
    from tests.backend.conftest import Stage

PACKET = VsockHeader(3, 2, 1024, 80, 5, 1, 1, 0, 4096, 17)


class Sockets(Device, type="vsock"):
    header = VsockHeader

    def handle(self, request: Request) -> None:
        header: VsockHeader = request.header
        assert header == PACKET
        assert request.header is header  # made once
        request.write(request.read(header.len) + header.src_port.to_bytes(2, "little"))


def test_a_struct_of_the_specification_for_a_device(stage: Stage) -> None:
    _, front = stage.serve(Sockets())
    front.bring_up()
    assert front.request(readable=PACKET.pack() + b"hello", writable=7) == b"hello\0\4"


class Lines(Device, type="gpio"):
    requests = Queue(0, header=GpioRequest)
    events = BufferQueue(1, header="<H")

    @requests.handler
    def answer(self, request: Request) -> None:
        request.write(bytes((request.header.gpio, request.header.type)))


def test_a_struct_of_the_specification_for_a_queue(stage: Stage) -> None:
    _, front = stage.serve(Lines())
    front.bring_up()
    assert front.request(readable=GpioRequest(2, 7, 1).pack(), writable=2) == b"\7\2"


class Point(NamedTuple):
    x: int
    y: int


class Batches(Device, type="console"):
    header = Header("<Hxb", into=Point)

    def handle_batch(self, requests: Batch) -> None:
        requests.write([str(point).encode() for point in requests.headers()])
        assert requests.field(1) == [point.y for point in requests.headers()]


def test_any_callable_makes_what_it_likes_of_the_fields(stage: Stage) -> None:
    _, front = stage.serve(Batches())
    front.bring_up()
    assert front.request(readable=b"\1\2\0\xff", writable=20) == b"Point(x=513, y=-1)"


@dataclass(frozen=True, slots=True)
class Picky(Record):
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<B")
    kind: int

    def __post_init__(self) -> None:
        if self.kind > 3:
            raise ValueError(f"kind {self.kind} is not known")


def test_a_header_that_the_class_refuses_fails_that_request_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    class Kinds(Device, type="console", header=Picky):
        def handle(self, request: Request) -> None:
            request.write(bytes((request.header.kind,)))

    _, front = stage.serve(Kinds())
    front.bring_up()
    assert front.request(readable=b"\x09", writable=1) == b""
    assert "kind 9 is not known" in caplog.text
    assert front.request(readable=b"\x02", writable=1) == b"\2"


def test_the_format_of_a_class_is_that_of_its_layout() -> None:
    made = Header(VsockHeader)
    assert (made.size, made.format, made.into) == (VsockHeader.SIZE, "<QQIIIHHIII", VsockHeader)
    assert Header(REQUEST_FORMAT).into is None
    assert "VsockHeader" in repr(made)


@pytest.mark.parametrize("wrong", [int, struct.Struct("<B"), 5, None])
def test_what_has_no_layout_is_refused_in_words(wrong: type) -> None:
    with pytest.raises(TypeError, match=r"give a format such as '<IIQ', or a class whose LAYOUT"):
        Header(wrong)
    with pytest.raises(TypeError, match="into is 7"):
        Header("<B", into=7)  # type: ignore[arg-type]  # that is the mistake


def test_a_declaration_that_makes_no_sense_is_refused_where_it_is_said() -> None:
    with pytest.raises(TypeError, match="class Wrong: header"):

        class Wrong(Device, type="console", header=int): ...

    with pytest.raises(TypeError, match="give a format"):
        Queue(0, header=int)
