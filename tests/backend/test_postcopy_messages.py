"""The messages of post-copy: when it is offered, announced, begun and over; C097, C118 to C120."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.children import children
from tests.support.front_end import until
from tests.support.post_copy import CONTENT, Echo, Served, answered, ask
from vhost_user import VhostUserDaemon
from vhost_user.backend import DEFAULT_FEATURES, postcopy
from vhost_user.engine.memory.file_system import type_of
from vhost_user.frontend import Disconnected, RequestRefused, VirtioDriver
from vhost_user.frontend.postcopy import PAGE
from vhost_user.protocol.errors import ProtocolError
from vhost_user.spec.features import ProtocolFeature
from vhost_user.spec.requests import FrontendRequest
from vhost_user.spec.structs import U64


def test_C119_nothing_is_touched_before_the_front_end_is_ready(served: Served) -> None:
    front = served.frontend(Echo())
    front.set_features(front.backend_features & DEFAULT_FEATURES)
    pages, memory = served.pages, VirtioDriver(front, postcopy=served.pages).memory
    try:
        pages.announce(front)
        pages.share(memory.regions, ready=False)
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        front.postcopy_ready(status=5)
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        front.postcopy_ready()  # of nothing: that table is gone
        front.barrier()
        assert served.daemon.memory.memory().regions == ()
        pages.share(memory.regions)
        front.barrier()
        assert len(served.daemon.memory.memory().regions) == 1
        assert pages.asked == []
    finally:
        front.close()
        memory.close()


@pytest.mark.parametrize(
    "request_id", [0, FrontendRequest.SET_MEM_TABLE, FrontendRequest.ADD_MEM_REG, FrontendRequest.REM_MEM_REG]
)
def test_C119_readiness_comes_with_the_number_of_the_last_message(served: Served, request_id: int) -> None:
    driver = served.serve(Echo(), memory_slots=True)
    frontend = driver.frontend
    region = driver.memory.regions[0]
    frontend.rem_mem_reg(region)
    assert frontend.add_mem_reg(region, postcopy=True)
    frontend.raw(request_id, U64(0).pack())
    frontend.barrier()
    served.pages.bases = []
    assert len(served.daemon.memory.memory().regions) == 1


def test_C120_after_the_end_nothing_is_asked_for(served: Served) -> None:
    driver = served.serve(Echo())
    ask(driver, served.pages, indirect=False)
    answered(driver)
    late = driver.memory.allocate(PAGE, PAGE)
    driver.memory.write(late, CONTENT)
    served.pages.withhold(late, PAGE)
    served.pages.end()
    until(lambda: not children(), "the end of the pager")
    assert not served.daemon.memory.memory().sparse
    assert served.daemon.memory.memory().read(late, PAGE) == CONTENT
    asked = len(served.pages.asked)
    assert driver.queues[0].request(CONTENT, PAGE) == CONTENT[::-1]
    assert len(served.pages.asked) == asked


def test_C120_what_waits_when_the_end_comes_goes_on(served: Served) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    # It says that all is there, and does not wake anybody: that is done here.
    with served.pages._lock:
        for page in list(served.pages._withheld):
            served.pages._bring(page)
    driver.frontend.postcopy_end()
    assert answered(driver) == PAGE


def test_C118_orders_that_make_no_sense_are_refused(served: Served) -> None:
    front = served.frontend(Echo())
    with pytest.raises(RequestRefused):
        front.postcopy_end()
    with pytest.raises(RequestRefused):
        front.postcopy_listen()
    os.close(front.postcopy_advise())
    os.close(front.postcopy_advise())  # nothing had come of the first
    assert len(children()) == 1
    front.postcopy_listen()
    with pytest.raises(RequestRefused):
        front.postcopy_listen()
    with pytest.raises(RequestRefused):
        front.postcopy_advise()
    front.postcopy_end()
    with pytest.raises(RequestRefused):
        front.postcopy_end()


def test_C118_announced_and_then_not_needed(served: Served) -> None:
    front = served.frontend(Echo())
    os.close(front.postcopy_advise())
    front.postcopy_end()
    assert not children()


def test_C118_announced_and_over_before_it_began(served: Served) -> None:
    """What QEMU does when a migration that could have become post-copy did not."""
    ours, theirs = socket.socketpair()
    daemon = served.stack.enter_context(VhostUserDaemon("test", Echo()))
    daemon.start_connection(theirs)
    driver = VirtioDriver(ours)
    served.stack.callback(driver.close)
    driver.negotiate()
    os.close(driver.frontend.postcopy_advise())
    driver.make_queues()
    driver.acknowledge()
    driver.share_memory()
    driver.frontend.barrier()
    assert not children()
    state = daemon.session
    assert state is not None
    assert not state.postcopy.active
    driver.frontend.postcopy_end()  # others may say so
    with pytest.raises(RequestRefused):
        driver.frontend.postcopy_end()


def test_C118_memory_that_came_before_cannot_be_watched(served: Served) -> None:
    ours, theirs = socket.socketpair()
    with VhostUserDaemon("test", Echo()) as daemon:
        daemon.start_connection(theirs)
        stack = served.stack
        driver = stack.enter_context(VirtioDriver(ours))
        os.close(driver.frontend.postcopy_advise())
        with pytest.raises(RequestRefused):
            driver.frontend.postcopy_listen()
        assert driver.queues[0].request(b"abc", 3) == b"cba"


def test_C097_C119_memory_that_cannot_be_watched_ends_the_connection_in_words(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front = served.frontend(Echo())
    os.close(front.postcopy_advise())
    front.postcopy_listen()
    # Either of them lies on a disk.
    folder = Path(__file__).parent if type_of_folder(tmp_path) == "tmpfs" else tmp_path
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(1 << 20)

        class Region:
            fd, guest_address, size, user_address, file_offset = file.fileno(), 0, 1 << 20, 1 << 40, 0

        with pytest.raises((Disconnected, ProtocolError)):
            front.set_mem_table([Region()], postcopy=True)
    assert "its reply can not say so" in caplog.text


def type_of_folder(folder: Path) -> str | None:
    with tempfile.TemporaryFile(dir=folder) as file:
        return type_of(file.fileno())


def test_C118_it_is_not_offered_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postcopy, "obstacle", lambda: "userfaultfd: Function not implemented")
    with VhostUserDaemon("test", Echo()) as daemon:
        assert not daemon.offered[1] & ProtocolFeature.PAGEFAULT


def test_C097_C118_without_a_pager_there_is_no_descriptor(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front = served.frontend(Echo())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RequestRefused):
        front.postcopy_advise()
    front.barrier()
    assert "there can be no pager: No such file or directory" in caplog.text


def test_C118_it_is_not_offered_with_an_iommu() -> None:
    with VhostUserDaemon("test", Echo(), iommu=True) as daemon:
        assert not daemon.offered[1] & ProtocolFeature.PAGEFAULT
    with VhostUserDaemon("test", Echo()) as daemon:
        assert daemon.offered[1] & ProtocolFeature.PAGEFAULT
