"""How post-copy ends when pages never come: the front-end, the pager or the back-end goes; C121, C134."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.children import children
from tests.support.front_end import until
from tests.support.post_copy import CONTENT, Echo, Served, answered, ask, started_without_pages
from vhost_user import VhostUserDaemon
from vhost_user.backend.handover import UpgradeError, bring_to_rest
from vhost_user.engine.errors import MemoryFault
from vhost_user.frontend.postcopy import PAGE


def pager_of(daemon: VhostUserDaemon) -> int:
    found = [pid for pid in children() if b"pager_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1, daemon
    return found[0]


def test_C134_a_front_end_that_never_serves_holds_up_no_end(served: Served) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    driver.frontend.get_features()
    driver.frontend.close()
    until(lambda: served.daemon.session is None, "the end of the session")


def test_C134_nor_does_it_hold_up_stop(served: Served) -> None:
    started_without_pages(served, Echo())
    until(lambda: served.pages.asked, "the question for the ring")
    served.daemon.close()
    assert served.daemon.session_end_reason == "the back-end was stopped"


def test_C121_when_the_pager_is_killed_the_session_ends_and_says_so(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    driver = served.serve(Echo())
    served.pages.silent = True
    ask(driver, served.pages, indirect=False)
    until(lambda: served.pages.asked, "the question")
    os.kill(pager_of(served.daemon), signal.SIGKILL)
    until(lambda: served.daemon.session is None, "the end of the session")
    assert "the pager has ended" in caplog.text


def test_C121_a_page_that_is_taken_away_again_ends_the_session_and_is_not_made(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    driver = served.serve(Echo())
    source, _ = ask(driver, served.pages, indirect=False)
    answered(driver)
    served.pages.withhold(source, PAGE)
    view = served.daemon.memory.memory().view(source, PAGE)
    try:
        assert bytes(view) == bytes(PAGE)  # not the guest's: see the next line
    finally:
        view.release()
    region = driver.memory.regions[0]
    assert os.lseek(region.fd, source - region.guest_address, os.SEEK_DATA) != source - region.guest_address
    served.daemon.check_memory()
    until(lambda: served.daemon.session is None, "the end of the session")
    assert "took its memory away" in caplog.text


def test_C121_such_an_access_ends_with_the_session(served: Served) -> None:
    driver = served.serve(Echo())
    memory = served.daemon.memory.memory()
    place = driver.memory.allocate(PAGE, PAGE)
    driver.memory.write(place, CONTENT)
    served.pages.silent = True
    served.pages.withhold(place, PAGE)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(memory.read, place, PAGE)
        until(lambda: place in served.pages.asked, "the question")
        driver.frontend.close()
        with pytest.raises(MemoryFault, match="did not come"):
            reading.result(10)
    del reading, memory


def test_no_upgrade_while_pages_are_on_their_way(served: Served) -> None:
    driver = served.serve(Echo())
    state = served.daemon.session
    assert state is not None
    with pytest.raises(UpgradeError, match="post-copy"):
        bring_to_rest(state, 1.0)
    served.pages.end()
    driver.frontend.barrier()
    for ring in bring_to_rest(state, 1.0):
        ring.hold(False)
