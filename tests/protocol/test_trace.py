"""Every message as one readable line."""

import contextlib
import io
import json
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vhost_user.protocol.errors import ProtocolError, RequestRefused
from vhost_user.protocol.sessions import FrontendSession
from vhost_user.protocol.trace import (
    Descriptor,
    JsonTrace,
    TraceEvent,
    TraceLog,
    describe,
    json_trace,
    log_tracer,
    of_connection,
)
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import BACKEND_REQUESTS, FRONTEND_REQUESTS, BackendRequest, FrontendRequest
from vhost_user.spec.structs import U64, Config, Header, ShmemMap, VringFd, VringState, XenMemorySlot

Backend = Any
F = FrontendRequest


@pytest.mark.parametrize(
    ("header", "payload", "fds", "line"),
    [
        (Header(F.SET_VRING_KICK, 9, 8), VringFd.of(3).pack(), 1, "SET_VRING_KICK need_reply index=3 fds=1"),
        (Header(F.SET_VRING_NUM, 1, 8), VringState(0, 256).pack(), 0, "SET_VRING_NUM index=0 num=256"),
        (Header(F.SET_VRING_NUM, 5, 8), U64(1).pack(), 0, "SET_VRING_NUM reply value=1"),
        (
            Header(F.GET_FEATURES, 5, 8),
            U64(1 << 32 | 1 << 30 | 1 << 5).pack(),
            0,
            "GET_FEATURES reply value=0x140000020 (PROTOCOL_FEATURES VERSION_1 0x20)",
        ),
        (Header(F.SET_PROTOCOL_FEATURES, 1, 8), U64(0).pack(), 0, "SET_PROTOCOL_FEATURES value=0x0 (none)"),
        (Header(F.SET_FEATURES, 5, 8), U64(0).pack(), 0, "SET_FEATURES reply value=0"),
        (Header(F.GET_CONFIG, 5, 0), b"", 0, "GET_CONFIG reply"),
        (
            Header(F.GET_CONFIG, 1, 15),
            Config(1, b"abc").pack(),
            0,
            "GET_CONFIG offset=1 data=3 bytes 61 62 63 flags=0",
        ),
        (
            Header(F.GET_CONFIG, 1, 13),
            Config(1, b"abc").pack()[:13],
            0,
            "GET_CONFIG 13 bytes that do not fit",
        ),
        (Header(F.GET_QUEUE_NUM, 0xF00, 3), b"abc", 0, "GET_QUEUE_NUM flags=0xf00 3 bytes that do not fit"),
        (Header(4711, 0, 40), bytes(40), 2, "request 4711 flags=0x0 40 bytes that do not fit"),
    ],
)
def test_messages_in_words(header: Header, payload: bytes, fds: int, line: str) -> None:
    assert describe(FRONTEND_REQUESTS, header, payload, fds).startswith(line)


def test_a_message_of_the_back_channel() -> None:
    payload = ShmemMap(1, 0, 0x100000, 4096, 1)
    event = TraceEvent(BACKEND_REQUESTS, Header(BackendRequest.SHMEM_MAP, 1, 40), payload.pack(), 1, "x")
    assert str(event) == (
        "back channel: back-end → front-end SHMEM_MAP shmid=1 fd_offset=0 shm_offset=0x100000 length=4096 "
        "flags=1 fds=1: x"
    )
    assert event.name == "SHMEM_MAP"


def test_a_reply_goes_the_other_way() -> None:
    event = TraceEvent(FRONTEND_REQUESTS, Header(F.GET_STATUS, 5, 8), U64(7).pack(), 0, "sent")
    assert str(event) == (
        "back-end → front-end GET_STATUS reply value=0x7 (ACKNOWLEDGE DRIVER DRIVER_OK): sent"
    )


def test_variants_are_decoded() -> None:
    data = bytes(XenMemorySlot.SIZE)
    assert "domid=0" in describe(FRONTEND_REQUESTS, Header(F.ADD_MEM_REG, 1, 48), data)
    assert "regions=()" in describe(FRONTEND_REQUESTS, Header(F.SET_MEM_TABLE, 5, 8), bytes(8))


def test_a_session_tells_what_it_made_of_each_message(negotiated: Backend) -> None:
    negotiated.accept(F.SET_OWNER)
    negotiated.receive(F.SET_VRING_NUM, VringState(3, 0), [], 9)
    negotiated.session.refuse(negotiated.receive(F.SET_OWNER, b"", [], 9), RequestRefused("no"))
    with pytest.raises(ProtocolError):
        negotiated.receive(4711)
    assert negotiated.trace.lines() == [
        "front-end → back-end SET_OWNER: accepted",
        (
            "front-end → back-end SET_VRING_NUM need_reply index=3 num=0: "
            "SET_VRING_NUM (queue 3) refused: the ring size is 0, it must be 1 to 32768 [C070]"
        ),
        "back-end → front-end SET_VRING_NUM reply value=1: sent",
        "front-end → back-end SET_OWNER need_reply: accepted",
        "back-end → front-end SET_OWNER reply value=1: sent",
        "front-end → back-end request 4711: closed: there is no such request [C020]",
    ]


def test_a_front_end_traces_both_ways() -> None:
    log = TraceLog()
    session = FrontendSession(tracer=log)
    for value in (0, 1):
        session.send(F.GET_FEATURES)
        session.receive(Header(F.GET_FEATURES, 5, 8).pack())
        session.receive(U64(value).pack())
    session.negotiation.acked_protocol_features = int(ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG)
    session.send(F.GET_CONFIG, Config(0, b"1"))
    with pytest.raises(RequestRefused, match=r"the back-end says that it failed \(no answer in the reply\)"):
        session.receive(Header(F.GET_CONFIG, 5, 0).pack())
    session.send(F.SET_OWNER)
    session.receive(Header(F.SET_OWNER, 5, 8).pack())
    with pytest.raises(RequestRefused, match=r"the back-end says that it failed \(value=2\)"):
        session.receive(U64(2).pack())
    assert log.lines()[1] == "back-end → front-end GET_FEATURES reply value=0x0 (none): received"
    assert log.lines()[-1] == "back-end → front-end SET_OWNER reply value=2: received: failed"


def test_C097_a_reply_that_can_not_be_sent_is_in_the_trace(negotiated: Backend) -> None:
    request = negotiated.receive(F.GET_VRING_BASE, VringState(1))
    with pytest.raises(ProtocolError):
        negotiated.session.refuse(request, RequestRefused("no"))
    assert negotiated.trace.lines()[-1].endswith(
        "GET_VRING_BASE reply: not sent: no error code, closed [C097]"
    )


def test_the_log_keeps_the_last_messages() -> None:
    log = TraceLog(2)
    for number in (1, 2, 3):
        log(TraceEvent(FRONTEND_REQUESTS, Header(number, 1, 0), b"", 0, "sent"))
    assert [event.name for event in log.events] == ["SET_FEATURES", "SET_OWNER"]
    assert str(log) == "front-end → back-end SET_FEATURES: sent\nfront-end → back-end SET_OWNER: sent"
    log.clear()
    assert log.lines() == []


def test_log_tracer_writes_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    event = TraceEvent(FRONTEND_REQUESTS, Header(1, 1, 0), b"", 0, "sent")
    log_tracer(event)
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "vhost_user"):
        log_tracer(event)
    assert caplog.messages == ["front-end → back-end GET_FEATURES: sent"]


def test_an_unknown_message_has_its_number_for_a_name() -> None:
    assert TraceEvent(FRONTEND_REQUESTS, Header(0, 1, 0), b"", 0, "").name == "request 0"


def test_a_descriptor_is_known_again_by_its_open_file() -> None:
    with ExitStack() as stack:
        first, second = os.eventfd(0), os.eventfd(0)
        memory = os.memfd_create("memory")
        again = os.dup(first)
        for fd in (first, second, memory, again):
            stack.callback(os.close, fd)
        assert (Descriptor.of(first).kind, Descriptor.of(memory).kind) == ("eventfd", "memfd")
        assert Descriptor.of(first).identity == Descriptor.of(again).identity
        assert Descriptor.of(first).identity != Descriptor.of(second).identity
        assert str(Descriptor.of(memory)).startswith("memfd ")
        read, write = os.pipe()
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        assert Descriptor.of(read).kind == "pipe"
    assert Descriptor.of(first) == Descriptor(first, "closed", "")


def test_without_a_tracer_nobody_looks_at_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Descriptor, "of", lambda number: pytest.fail(f"asked for {number}"))
    FrontendSession().send(F.SET_OWNER)


def test_an_event_is_a_line_of_json() -> None:
    file = io.StringIO()
    event = TraceEvent(
        BACKEND_REQUESTS,
        Header(BackendRequest.CONFIG_CHANGE_MSG, 9, 0),
        b"\1",
        1,
        "sent",
        (Descriptor(7, "memfd", "1:2"),),
        connection=3,
        time=12.5,
    )
    JsonTrace(file)(event)
    (line,) = file.getvalue().splitlines()
    assert json.loads(line) == {
        "time": 12.5,
        "connection": 3,
        "channel": "back",
        "direction": "to_frontend",
        "message": "CONFIG_CHANGE_MSG",
        "request": BackendRequest.CONFIG_CHANGE_MSG,
        "flags": 9,
        "reply": False,
        "payload": "01",
        "fds": [{"number": 7, "kind": "memfd", "identity": "1:2"}],
        "outcome": "sent",
        "text": "CONFIG_CHANGE_MSG need_reply 1 bytes that do not fit the message: 01 fds=1",
    }


def test_a_trace_that_cannot_be_written_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    event = TraceEvent(FRONTEND_REQUESTS, Header(1, 1, 0), b"", 0, "sent")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        trace = JsonTrace(full)
        trace(event)
        trace(event)
        assert len(caplog.messages) == 1
        assert "cannot be written any more: " in caplog.text
        with contextlib.suppress(OSError):
            full.close()


def test_no_path_is_no_trace_and_one_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with json_trace(None) as tracer:
        assert tracer is None
    assert of_connection(1) is None
    with pytest.raises(FileNotFoundError), json_trace(tmp_path / "missing" / "trace"):
        pass
