"""The pytest plugin as its users meet it: files of tests in a folder of their own, and what pytest says."""

import sys
from pathlib import Path

import pytest

# Loaded here, so that the runs inside of this process find compiled modules loaded and leave them so.
import vhost_user.conformance.checks
import vhost_user.testing.booting
import vhost_user.testing.conformance_items
import vhost_user.testing.virtio
from tests.support.programs import run_python
from vhost_user import Device, Request, VhostUserDaemon
from vhost_user.protocol.listener import Listener

pytest_plugins = ["pytester"]

DICE = """
import random
from vhost_user import Device, Request

class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes(random.choices(range(1, 7), k=request.writable)))
"""


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(dice=DICE, test_it=test)
    pytester.syspathinsert()
    # Hypothesis is loaded anew by each run, which takes a second.
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options)


def test_the_example_of_the_readme_passes(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from dice import Dice

        def test_dice(virtio):
            rng = virtio.attach(Dice())
            assert set(rng.queue(0).request(writable=100)) <= set(range(1, 7))
        """,
    )
    result.assert_outcomes(passed=1)


def test_a_device_can_be_driven_in_every_way(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from dice import Dice
        from vhost_user.bench.devices import Memory
        from vhost_user.frontend import VirtioDriver

        @pytest.mark.parametrize("packed", [False, True])
        def test_disk(virtio, packed):
            disk = virtio.attach(Memory(1 << 20, 2), packed=packed)
            assert len(disk.driver.queues) == 2
            assert disk.driver.packed is packed
            disk.block().write(3, b"x" * 512)
            assert disk.block() is disk.driver
            assert disk.block().read(3, 1) == b"x" * 512
            assert disk.read_config(0, 8) == (2048).to_bytes(8, "little")
            assert disk.drive(VirtioDriver, num_queues=1).queues[0].index == 0

        def test_connect(virtio):
            dice = virtio.attach(Dice())
            dice.disconnect()
            other = virtio.connect(dice.socket)
            assert len(other.rng().read(10)) == 10
            assert len(other.request(writable=5)) == 5

        def test_frontend(virtio):
            dice = virtio.attach(Dice())
            assert dice.frontend.get_features() & 1 << 32
            assert dice.frontend is dice.frontend
            assert len(dice.queue().request(writable=7)) == 7
            assert dice.frontend is dice.driver.frontend

        def test_two_at_a_time(virtio):
            one, two = virtio.attach(Dice()), virtio.attach(Dice())
            assert one.socket != two.socket
            assert one.request(writable=1) and two.request(writable=1)

        def test_bare_front_end(virtio):
            dice = virtio.attach(Dice())
            assert virtio.frontend(dice.socket).get_features()
        """,
    )
    result.assert_outcomes(passed=6)


def test_the_driver_takes_queues_and_their_size_from_the_device(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import pytest
        from vhost_user import Device
        from vhost_user.frontend import NetDriver, VirtioDriver

        class Net(Device, type="net", queues=2, queue_size=128):
            def handle(self, request):
                request.read()

        @pytest.mark.parametrize("queues, pairs", [(2, 1), (3, 1), (4, 2)])
        def test_pairs(virtio, queues, pairs):
            nic = virtio.attach(type("Some", (Net,), {}, queues=queues)()).drive(NetDriver)
            assert (len(nic.queues), nic.pairs, nic.queue_size) == (queues, pairs, 128)
            nic.send(b"frame")

        def test_sizes(virtio):
            assert virtio.attach(Net()).driver.queue_size == 128
            assert virtio.attach(Net(), queue_size=16).driver.queue_size == 16
            assert virtio.attach(type("Large", (Net,), {}, queue_size=1024)()).driver.queue_size == 256

        def test_too_few(virtio):
            with pytest.raises(ValueError, match="2 pairs are 4 queues"):
                virtio.attach(Net()).drive(NetDriver, pairs=2)
        """,
    )
    result.assert_outcomes(passed=5)


def test_a_program_is_started_and_ended(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        f"""
        import sys
        import pytest

        COMMAND = [{sys.executable!r}, "-m", "vhost_user.cli", "serve", "rng", "--socket-path={{socket}}"]

        def test_program(virtio):
            device = virtio.start(COMMAND)
            assert len(device.rng().read(3)) == 3
            assert device.process.pid

        def test_no_placeholder(virtio):
            with pytest.raises(ValueError, match="{{socket}}"):
                virtio.start(["true"])

        def test_bad_end(virtio):
            script = "trap 'kill $!; echo bad day; exit 3' TERM; "
            virtio.start(["sh", "-c", script + " ".join(COMMAND) + " & wait"])
        """,
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*ended with status 3*", "*bad day*"])


def test_a_failure_shows_messages_and_rings(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from dice import Dice

        def test_dice(virtio):
            rng = virtio.attach(Dice())
            assert rng.queue(0).request(writable=4) == b"never"
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- vhost-user virtio-0-Dice -*",
            "features *VERSION_1*",
            "*queue 0*",
            "last messages:",
            "*SET_VRING_KICK*",
        ]
    )


def test_a_failure_before_the_driver_is_up_shows_the_messages(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from dice import Dice

        def test_dice(virtio):
            one, two = virtio.attach(Dice()), virtio.attach(Dice())
            assert two.frontend.get_features() == 0
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- vhost-user virtio-0-Dice -*",
            "not connected",
            "*- vhost-user virtio-1-Dice -*",
            "*GET_FEATURES*",
        ]
    )


def test_an_error_of_the_device_fails_the_test_unless_it_was_looked_at(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from vhost_user import Device

        class Broken(Device, type="rng"):
            def handle(self, request):
                raise ZeroDivisionError("no dice")

        def test_unexpected(virtio):
            virtio.attach(Broken()).request(writable=4)

        def test_expected(virtio):
            assert virtio.attach(Broken()).request(writable=4) == b""
            assert "no dice" in virtio.errors[0]
            virtio.errors.clear()
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test_unexpected*", "*a device logged an error: *no dice*"])


LEAKS = {
    "descriptor": ("kept.append(os.eventfd(0))", "file descriptor * was left open: anon_inode:[[]eventfd]"),
    "mapping": ("kept.append(map_memory())", "memory was left mapped: /memfd:left*"),
    "thread": ("kept.append(start_thread())", "thread 'virtio-0-Dice-own' still runs"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_what_is_left_behind_fails_the_test(pytester: pytest.Pytester, kind: str) -> None:
    line, words = LEAKS[kind]
    result = run(
        pytester,
        f"""
        import mmap, os, threading
        import pytest
        from dice import Dice

        kept = []
        end = threading.Event()

        def map_memory():
            fd = os.memfd_create("left")
            os.truncate(fd, 4096)
            memory = mmap.mmap(fd, 4096)
            os.close(fd)
            return memory

        def start_thread():
            thread = threading.Thread(target=end.wait, name="virtio-0-Dice-own")
            thread.start()
            return thread

        @pytest.fixture(scope="module", autouse=True)
        def cleanup():
            yield
            end.set()
            for each in kept:
                if isinstance(each, int):
                    os.close(each)
                elif isinstance(each, threading.Thread):
                    each.join()
                else:
                    each.close()

        def test_leak(virtio):
            virtio.attach(Dice()).request(writable=4)
            {line}

        def test_allowed(virtio):
            virtio.check_leaks = False
            {line}

        def test_other(virtio):
            virtio.attach(Dice()).request(writable=4)
        """,
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines([f"*{words}*"])


def test_a_failed_test_is_not_blamed_for_leaks_too(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import os
        import pytest
        from dice import Dice

        kept = []

        @pytest.fixture(scope="module", autouse=True)
        def cleanup():
            yield
            os.close(kept[0])

        def test_fails(virtio):
            kept.append(os.eventfd(0))
            assert virtio.attach(Dice()).request(writable=4) == b"never"
        """,
    )
    result.assert_outcomes(failed=1)


BACKEND_TEST = """
    def test_backend(virtio_backend):
        assert len(virtio_backend.rng().read(8)) == 8
"""


def test_without_a_back_end_under_test_its_tests_are_skipped(pytester: pytest.Pytester) -> None:
    result = run(pytester, BACKEND_TEST, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*give --vhost-user-socket=PATH*"])


def test_a_back_end_under_test_is_named_by_its_command(pytester: pytest.Pytester) -> None:
    command = f"{sys.executable} -m vhost_user.cli serve rng --seed=7 --socket-path={{socket}}"
    result = run(pytester, BACKEND_TEST, "--vhost-user-command", command, "test_it.py")
    result.assert_outcomes(passed=1)


class Fair(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes(request.writable))


def test_a_back_end_under_test_is_named_by_its_socket_and_checked(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    socket = tmp_path / "s"
    with Listener.bind(socket) as listener, VhostUserDaemon("plugin-test", Fair()) as daemon:
        daemon.start(listener)
        result = run(
            pytester, BACKEND_TEST, f"--vhost-user-socket={socket}", "-k", "backend or C050 or C056", "-v"
        )
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= 3
    assert "failed" not in outcomes
    assert outcomes["deselected"] > 50
    result.stdout.fnmatch_lines(["test_it.py::test_backend PASSED*", "vhost-user::C050* PASSED*"])


def test_a_deviation_is_a_failure_that_names_the_rule(pytester: pytest.Pytester, tmp_path: Path) -> None:
    class Liar(Fair):
        def get_config(self, offset: int, size: int) -> bytes:
            del offset, size
            raise ValueError("no")

        def reset_device(self) -> None:
            raise RuntimeError("will not")

    socket = tmp_path / "s"
    with Listener.bind(socket) as listener, VhostUserDaemon("plugin-test", Liar()) as daemon:
        daemon.start(listener)
        result = run(pytester, "", f"--vhost-user-socket={socket}", "-k", "C128 or C075")
    assert result.parseoutcomes().get("failed", 0) >= 1
    result.stdout.fnmatch_lines(["*rule:  *", "*found: *", "*last messages:*"])


def test_a_back_end_that_is_gone_fails_one_check_and_skips_the_others(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhost_user.testing.conformance_items, "PATIENCE", 0.0)
    result = run(pytester, "", "--vhost-user-socket=nowhere", "-k", "C05", "-rs")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert outcomes["skipped"] > 3
    result.stdout.fnmatch_lines(["nobody listens at nowhere*", "SKIPPED*not run: nobody listens at nowhere*"])


def test_a_socket_and_a_command_are_one_too_many(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", "--vhost-user-socket=s", "--vhost-user-command=x {socket}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*name two back-ends; choose one*"])


def test_a_command_without_a_place_for_the_socket_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, "", "--vhost-user-command=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--vhost-user-command:*{socket}*"])


def test_the_plugin_loads_nothing_before_a_fixture_is_used() -> None:
    code = "import sys, vhost_user.testing.plugin; print(sorted(m for m in sys.modules if 'vhost_user' in m))"
    said = run_python("-c", code, check=True)
    assert said.stdout.strip() == "['vhost_user', 'vhost_user.testing', 'vhost_user.testing.plugin']"


def test_the_package_loads_names_when_they_are_used() -> None:
    code = "import vhost_user as v; print(v.Device.__name__, 'serve' in dir(v)); v.nothing"
    said = run_python("-c", code)
    assert said.stdout.strip() == "Device True"
    assert "module 'vhost_user' has no attribute 'nothing'" in said.stderr
