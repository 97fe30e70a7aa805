"""Memory that a hostile front-end or guest shares in ways nobody meant: H61, H86, H93, H94, V050."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.devices import Echo
from vhost_user import Device, Request, RequestRefused
from vhost_user.engine.device import packed, ring, split, vring
from vhost_user.engine.driver import split as driver_split
from vhost_user.engine.memory.mapping import live_mappings
from vhost_user.spec.requests import FrontendRequest as Ask
from vhost_user.spec.structs import Memory, MemoryRegion, VringState

if TYPE_CHECKING:
    from tests.backend.conftest import Stage


class Scribbler(Device):
    """Fills everything it may write to."""

    def handle(self, request: Request) -> None:
        request.fill(0xFF)


def test_H86_a_file_of_size_0_is_refused_and_the_connection_lives(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.negotiate()
    empty = os.memfd_create("empty")
    with pytest.raises(RequestRefused):
        front.call(Ask.SET_MEM_TABLE, Memory((MemoryRegion(0, 4096, 0, 0),)), [empty])
    os.close(empty)
    assert front.call(Ask.GET_QUEUE_NUM).value == 1


@pytest.mark.parametrize("area", ["descriptor_address", "driver_address", "device_address"])
def test_H93_a_ring_given_as_a_buffer_of_itself_harms_that_ring_at_most(stage: Stage, area: str) -> None:
    daemon, front = stage.serve(Scribbler())
    other_daemon, other = stage.serve(Echo())
    front.bring_up()
    other.bring_up()
    hostile = front.rings[0]
    hostile.add([], [(getattr(hostile, area), 64)])
    hostile.publish()
    hostile.kick(force=True)
    # The device wrote over its own ring. Whatever it finds there, messages are answered and others served.
    assert front.call(Ask.GET_QUEUE_NUM).value == 1
    front.call(Ask.GET_VRING_BASE, VringState(0, 0))
    assert other.request(readable=b"abc", writable=3) == b"cba"
    assert daemon.connected
    assert other_daemon.connected


def test_H94_a_table_that_comes_between_kick_and_processing(stage: Stage) -> None:
    _, front = stage.serve(Echo())
    front.bring_up()
    mapped = live_mappings()
    for number in range(50):
        text = b"%04d" % number
        token, address = front.post(readable=text, writable=4)
        front.share_memory()
        back, length = front.collect()
        assert (back, length) == (token, 4)
        assert front.memory.read(address, 4) == text[::-1]
    # The ring went along with the table: nobody holds on to an earlier one.
    assert live_mappings() == mapped


def test_H61_one_queue_may_be_set_up_again_while_the_others_run(stage: Stage) -> None:
    class Two(Echo, queues=2):
        pass

    _, front = stage.serve(Two())
    front.bring_up(queues=2)
    for _ in range(10):
        assert front.request(1, readable=b"ab", writable=2) == b"ba"
        front.stop_ring(0)
        front.rings.pop(0).close()
        front.start_ring(0)
        assert front.request(0, readable=b"ab", writable=2) == b"ba"


def test_V050_rings_are_compiled() -> None:
    """Fields of a ring are read and written whole, with fences: there is no other implementation of one."""
    for module in (ring, split, packed, vring, driver_split):
        assert (module.__file__ or "").endswith(".so")
