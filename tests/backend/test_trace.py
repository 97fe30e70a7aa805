"""Every message of both channels is traced, on the back-end's side and on the front-end's."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.backend.test_back_channel import FarEnd, Sharing, channel_of
from tests.support.front_end import until
from vhost_user import Listener, VhostUserDaemon
from vhost_user.frontend import VirtioDriver
from vhost_user.protocol.framing import Message, encode
from vhost_user.protocol.trace import TraceEvent, json_trace
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest as Ask

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.backend.conftest import Stage

IDENTIFIER = uuid.UUID(int=7)


class Exporter(Sharing):
    extra_protocol_features = ProtocolFeature.SHARED_OBJECT


def names(events: list[TraceEvent], channel: str) -> list[str]:
    """What passed on one channel: the message, and whether it is a reply."""
    return [
        f"{event.name}{' reply' if event.is_reply else ''}" for event in events if event.channel == channel
    ]


def test_C098_the_log_shows_the_messages_of_the_back_channel(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "vhost_user")
    device = Sharing()
    _, front = stage.serve(device)
    front.bring_up()
    far = FarEnd(front)
    device.config_changed()
    far.answer(far.next())
    far.close()
    assert "back channel: back-end → front-end CONFIG_CHANGE_MSG: sent" in caplog.messages


def test_both_roles_trace_the_same_messages_of_both_channels(tmp_path: Path) -> None:
    ours: list[TraceEvent] = []
    theirs: list[TraceEvent] = []
    device = Exporter()
    path = tmp_path / "s"
    began = time.time()
    with ExitStack() as stack:
        daemon = stack.enter_context(VhostUserDaemon("traced", device, tracer=ours.append))
        listener = stack.enter_context(Listener.bind(path))
        daemon.start(listener)
        for _ in range(2):
            with VirtioDriver(path, tracer=theirs.append) as driver:
                driver.bring_up()
                channel_of(device).shared_object_add(IDENTIFIER)
                driver.queues[0].request(b"abc", 3)
            until(lambda: not daemon.connected)
        daemon.stop()
        daemon.wait()
    assert names(ours, "main") == names(theirs, "main")
    assert names(ours, "back") == ["SHARED_OBJECT_ADD", "SHARED_OBJECT_ADD reply"] * 2
    assert names(theirs, "back") == names(ours, "back")
    for events in (ours, theirs):
        numbers = {(event.connection, event.channel) for event in events}
        first = min(number for number, _ in numbers)
        assert numbers == {(number, channel) for number in (first, first + 1) for channel in ("main", "back")}
        assert all(began <= event.time <= time.time() for event in events)
    ring = [event for event in ours if event.name == "SET_VRING_CALL" and not event.is_reply]
    assert {each.kind for event in ring for each in event.descriptors} == {"eventfd"}
    sent = [event for event in theirs if event.name == "SET_VRING_CALL" and not event.is_reply]
    assert [event.descriptors[0].identity for event in ring] == [
        event.descriptors[0].identity for event in sent
    ], "the same open file on both sides"


def test_a_refused_message_keeps_its_descriptors_in_the_trace(stage: Stage) -> None:
    events: list[TraceEvent] = []
    daemon = stage.daemon(Sharing(), tracer=events.append)
    front = stage.connect(daemon)
    front.negotiate()
    fd = os.eventfd(0)
    try:
        front.connection.send(Message(encode(Ask.SET_OWNER, 1), (fd,)))
    finally:
        os.close(fd)
    front.call(Ask.GET_FEATURES)
    (event,) = [each for each in events if each.name == "SET_OWNER" and "refused" in each.outcome]
    assert [each.kind for each in event.descriptors] == ["eventfd"]


def test_a_session_in_a_file_of_json_lines(stage: Stage, tmp_path: Path) -> None:
    device = Sharing()
    with json_trace(tmp_path / "trace") as tracer:
        daemon = stage.daemon(device, tracer=tracer)
        front = stage.connect(daemon)
        front.bring_up()
        far = FarEnd(front)
        device.config_changed()
        far.answer(far.next())
        far.close()
        front.close()
        daemon.close()
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert {(line["connection"], line["channel"]) for line in lines} == {(1, "main"), (1, "back")}
    (table,) = [line for line in lines if line["message"] == "SET_MEM_TABLE" and not line["reply"]]
    assert [fd["kind"] for fd in table["fds"]] == ["memfd"]
    assert lines[0]["text"].startswith("GET_FEATURES")
