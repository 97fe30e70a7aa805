"""A program is replaced by another process while a driver uses it, or something kills either of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.front_end import until
from tests.support.upgraded_program import CODE, UpgradedProgram
from vhost_user.frontend import BlockDriver
from vhost_user.program.upgrade.steps import PREDECESSOR, SUCCESSOR

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[UpgradedProgram]:
    with UpgradedProgram(tmp_path) as made:
        yield made


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_the_code_changes_and_the_driver_goes_on(tmp_path: Path, packed: bool) -> None:
    with UpgradedProgram(tmp_path, packed=packed) as program:
        program.connect()
        assert program.request() == 1
        for version in range(2, 5):
            program.write(version)
            program.upgrade()
            assert [program.request() for _ in range(5)] == [version] * 5
        until(lambda: len(program.pids()) == 2)  # the first, which waits, and the last
        program.driver.close()
        assert program.end() == 0
        assert program.pids() == []
        assert not program.socket.exists()


def test_requests_that_are_under_way_all_the_time_are_carried_out_once(program: UpgradedProgram) -> None:
    program.connect()
    stop = threading.Event()
    served: list[int] = []

    def load() -> None:
        while not stop.is_set():
            served.append(program.request())

    thread = threading.Thread(target=load)
    thread.start()
    for version in range(2, 6):
        program.write(version)
        program.upgrade()
        until(lambda version=version: served and served[-1] == version)  # type: ignore[misc]
    stop.set()
    thread.join()
    assert served == sorted(served)
    assert set(served) == {1, 2, 3, 4, 5}


def test_nothing_is_left_behind(program: UpgradedProgram) -> None:
    program.connect()
    program.request()

    def holdings() -> tuple[int, int, int]:
        place = Path(f"/proc/{program.serving()}")
        mapped = sum("vhost-user-guest" in line for line in (place / "maps").read_text().splitlines())
        return len(list((place / "fd").iterdir())), len(list((place / "task").iterdir())), mapped

    program.upgrade()
    program.request()
    first = holdings()
    for _ in range(3):
        program.upgrade()
        program.request()
    until(lambda: holdings() == first, f"{first} again, it is {holdings()}")
    waits = Path(f"/proc/{program.process.pid}/fd")
    links = [str(fd.readlink()) for fd in waits.iterdir()]
    assert not [link for link in links if "memfd" in link or "eventfd" in link or "socket" in link]


@pytest.mark.parametrize("step", SUCCESSOR[:3])
def test_a_successor_that_is_killed_before_it_was_told_changes_nothing(
    program: UpgradedProgram, step: str
) -> None:
    program.connect()
    program.request()
    program.kill_at(step)
    program.wait_for("no upgrade, everything goes on as it was")
    assert program.request() == 1
    assert program.serving() == program.process.pid
    program.upgrade()
    assert program.request() == 1


@pytest.mark.parametrize("step", SUCCESSOR[3:])
def test_after_a_successor_that_was_told_the_front_end_connects_again(
    program: UpgradedProgram, step: str
) -> None:
    program.connect()
    program.request()
    program.kill_at(step)
    program.wait_for("no upgrade, everything goes on as it was")
    program.driver.reconnect()
    assert program.request() == 1


@pytest.mark.parametrize("step", PREDECESSOR)
def test_a_predecessor_that_is_killed_loses_nothing(program: UpgradedProgram, step: str) -> None:
    program.connect()
    program.request()
    program.write(2)
    program.kill_at(step)
    if step in ("given", "committed"):  # the successor has everything, and goes on unseen
        assert program.request() == 2
        return
    program.process.wait()
    until(lambda: not program.pids())
    program.start()  # as a supervisor does
    program.driver.reconnect()
    program.expected = 0
    assert program.request() == 2


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("this is not Python", "it ended with status 1"),
        (
            CODE + "\n    def features(self):\n        return super().features() & ~(1 << 29)\n",
            "does not offer",
        ),
        (CODE.replace("int(state)", "1 // 0"), "load_state did not take it: ZeroDivisionError"),
        (CODE.replace('type="rng"', 'type="rng", state_name="Coin"'), "saved by another device"),
        (CODE + "\n    queue_size = 8\n", "outside of 1"),
        (CODE + "\n    def setup(self):\n        raise OSError('no dice')\n", "it ended with status 1"),
        (CODE.replace("count = 0", "count = 0\n    import os; os._exit(7)"), "it ended with status 7"),
    ],
    ids=["syntax", "features", "state", "name", "size", "setup", "exit"],
)
def test_a_successor_that_cannot_go_on_says_why_and_changes_nothing(
    program: UpgradedProgram, code: str, words: str
) -> None:
    program.connect()
    program.request()
    program.write(2, code)
    program.ask()
    program.wait_for("no upgrade, everything goes on as it was")
    assert words in program.said
    assert program.request() == 1
    program.write(3)
    program.upgrade()
    assert program.request() == 3


def test_without_a_front_end_the_device_and_its_socket_go_along(program: UpgradedProgram) -> None:
    program.connect()
    program.request()
    program.driver.close()
    program.write(2)
    program.upgrade()
    program.connect()
    assert program.request() == 2


def test_the_next_front_end_is_served_by_the_successor(program: UpgradedProgram) -> None:
    program.connect()
    program.request()
    program.write(2)
    program.upgrade()
    program.driver.close()
    program.connect()
    assert program.request() == 2


def test_reload_upgrades_whenever_the_file_changes(tmp_path: Path) -> None:
    with UpgradedProgram(tmp_path, "--reload") as program:
        program.connect()
        assert program.request() == 1
        for version in (2, 3):
            before = program.said.count("goes on in place of")
            program.write(version)
            program.wait_for("goes on in place of", before + 1)
            assert program.request() == version
        program.write(4, "not Python")
        program.wait_for("dice.py has changed: no upgrade")
        assert program.request() == 3


def command(path: Path, **what: object) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        sock.sendall(json.dumps(what).encode() + b"\n")
        with sock.makefile() as file:
            answer = json.loads(file.readline())
    assert isinstance(answer, dict)
    return answer


def test_the_control_socket_upgrades_and_passes_over(tmp_path: Path) -> None:
    control = tmp_path / "c"
    with UpgradedProgram(tmp_path, f"--control={control}") as program:
        program.connect()
        for version in (2, 3):
            program.write(version)
            answer = command(control, command="upgrade")
            assert answer["ok"], answer
            told = answer["result"]
            assert isinstance(told, dict)
            until(lambda told=told: command(control, command="status")["result"]["pid"] == told["pid"])  # type: ignore[index, misc]
            assert program.request() == version
        program.write(4, "not Python")
        answer = command(control, command="upgrade")
        assert not answer["ok"]
        assert "everything goes on as it was" in str(answer["error"])
        wrong = command(control, command="upgrade", arguments={"command": ["/nowhere/python"]})
        assert "cannot be started" in str(wrong["error"])
        assert program.request() == 3
        program.driver.close()
        assert program.end() == 0
        assert not control.exists()


def test_a_manager_is_told_of_the_main_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with UpgradedProgram(tmp_path) as program:
            program.connect()
            program.upgrade()
            assert program.process.wait(30) == 0  # nobody waits for it
            told: list[str] = []
            while f"MAINPID={program.serving()}" not in "\n".join(told):
                told.append(manager.recv(4096).decode())
            assert program.request() == 1
            assert "STOPPING" not in "\n".join(told)


def test_a_signal_to_the_first_process_ends_the_last(program: UpgradedProgram) -> None:
    program.upgrade()
    program.upgrade()
    until(lambda: len(program.pids()) == 2)
    last = program.serving()
    os.kill(program.process.pid, signal.SIGINT)
    assert program.process.wait(30) == 0
    assert last not in program.pids()


def test_a_disk_keeps_its_lock_its_cache_mode_and_its_data(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with UpgradedDisk(tmp_path, image) as program:
        disk = BlockDriver(str(program.socket), num_queues=1, queue_size=64, timeout=60)
        with disk:
            for number in range(4):
                disk.write(number * 8, bytes([number + 1]) * 4096)
                os.truncate(image, (2 + number) << 20)
                program.upgrade()
                assert disk.read(number * 8, 8) == bytes([number + 1]) * 4096
                sectors = ((2 + number) << 11).to_bytes(8, "little")
                until(lambda sectors=sectors: disk.read_config(0, 8) == sectors)  # type: ignore[misc]
    assert image.read_bytes()[: 4 * 4096] == b"".join(bytes([number]) * 4096 for number in (1, 2, 3, 4))


class UpgradedDisk(UpgradedProgram):
    """The program ``vhost-user-blk`` with an image."""

    def __init__(self, folder: Path, image: Path) -> None:
        super().__init__(folder, f"--blk-file={image}")

    @property
    def device(self) -> str:
        return "blk"
