"""The pytest plugin: fixtures that drive a virtio device without a virtual machine, or in a real guest.

pytest loads it in every run in an environment that has the package, so it imports nothing of the package
until a test asks for a fixture.

    def test_dice(virtio):
        rng = virtio.attach(Dice())                  # or virtio.connect("/run/some.sock")
        assert set(rng.queue(0).request(writable=100)) <= set(range(1, 7))
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vhost_user.testing.booting import BootGuest
    from vhost_user.testing.virtio import Virtio, VirtioDevice

_FIXTURE: pytest.StashKey[Virtio] = pytest.StashKey()
_FAILED: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--vhost-user-socket`` and ``--vhost-user-command`` name a back-end under test."""
    group = parser.getgroup("vhost-user", "vhost-user back-end under test")
    group.addoption(
        "--vhost-user-socket",
        metavar="PATH",
        help="run the conformance checks on the back-end that listens here, and give it to `virtio_backend`",
    )
    group.addoption(
        "--vhost-user-command",
        metavar="COMMAND",
        help="start this back-end for each test that uses `virtio_backend`; {socket} stands for its socket",
    )
    group.addoption(
        "--vhost-user-device",
        metavar="TYPE",
        help="the type of that back-end, for the conformance checks (default: guessed and tried)",
    )


@pytest.fixture
def virtio(request: pytest.FixtureRequest) -> Generator[Virtio]:
    """Devices under test: ``attach`` one in this process, ``connect`` to a socket, ``start`` a program.

    Afterwards everything is closed, and the test fails if a device logged an error (``virtio.errors``) or
    if file descriptors, mappings or threads were left behind (``virtio.check_leaks``).
    """
    from vhost_user.testing.virtio import Virtio  # noqa: PLC0415  # see the docstring of the module

    fixture = Virtio()
    request.node.stash[_FIXTURE] = fixture
    try:
        yield fixture
    finally:
        failed = request.node.stash.get(_FAILED, False)
        problems = fixture.close(failed=failed)
        del request.node.stash[_FIXTURE]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def virtio_backend(request: pytest.FixtureRequest, virtio: Virtio) -> VirtioDevice:
    """The back-end that the command line names; without one the test is skipped."""
    socket = request.config.getoption("--vhost-user-socket")
    command = request.config.getoption("--vhost-user-command")
    if command is not None:
        import shlex  # noqa: PLC0415  # see the docstring of the module

        return virtio.start(shlex.split(command))
    if socket is None:
        pytest.skip("no back-end under test: give --vhost-user-socket=PATH or --vhost-user-command=COMMAND")
    return virtio.connect(socket)


@pytest.fixture
def virtio_guest(virtio: Virtio, tmp_path: Path) -> Generator[BootGuest]:
    """Call it with devices to boot a Linux guest under QEMU that has them: ``virtio_guest(Dice())``.

    Takes devices of this process, back-ends given by ``virtio``, and what ``vhost_user.testing.guest`` offers
    for others. The guest ends with the test.
    """
    from vhost_user.testing.booting import BootGuest  # noqa: PLC0415  # see the docstring of the module

    boot = BootGuest(virtio, tmp_path)
    try:
        yield boot
    finally:
        boot.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the devices were told and how their rings look to the report of a test that failed."""
    del call
    report = yield
    if report.failed and report.when == "call":
        item.stash[_FAILED] = True
        fixture = item.stash.get(_FIXTURE, None)
        if fixture is not None:
            report.sections += fixture.describe()
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """With a back-end under test and no file named, the conformance checks are tests like any other."""
    socket, command = config.getoption("--vhost-user-socket"), config.getoption("--vhost-user-command")
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    if named or (socket is None and command is None):
        return
    from vhost_user.testing.conformance_items import add_checks  # noqa: PLC0415  # only for these options

    add_checks(session, items, socket, command, config.getoption("--vhost-user-device") or "auto")
