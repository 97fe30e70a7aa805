"""``vhost-user bench``: what it prints, writes, refuses, and the exit status."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhost_user import Request, VhostUserDaemon
from vhost_user.bench.devices import Memory
from vhost_user.cli import main
from vhost_user.protocol.listener import Listener


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    with (
        Listener.bind(tmp_path / "s") as listener,
        VhostUserDaemon("bench-test", Memory(1 << 20, 2)) as daemon,
    ):
        daemon.start(listener)
        yield str(tmp_path / "s")


def test_a_load_in_words(disk: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--requests",
        "300",
        "--rw",
        "mixed=60",
        "--queues",
        "2",
        "--depth",
        "8",
        "--pid",
        str(os.getpid()),
    ]
    assert main(["bench", disk, *options]) == 0
    out = capsys.readouterr().out
    assert "4 KiB random mixed=60, depth 8, 2 queues, split ring" in out
    assert "requests   600 in" in out
    assert "p99.9" in out
    assert "s in the back-end" in out


def test_json_to_standard_output_is_nothing_but_json(disk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", disk, "--requests", "10", "--ring", "packed", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["requests"] == 10
    assert content["load"]["ring"] == "packed"
    assert content["interrupted"] is False


def test_json_and_a_picture_to_files(disk: str, tmp_path: Path) -> None:
    json_file, picture = tmp_path / "r.json", tmp_path / "r.svg"
    assert main(["bench", disk, "--requests", "50", "--json", str(json_file), "--plot", str(picture)]) == 0
    assert json.loads(json_file.read_text())["requests"] == 50
    assert "svg" in picture.read_text()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started with SIGINT ignored, as in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_prints_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = threading.Event()

    class Told(Memory):
        def handle(self, request: Request) -> None:
            super().handle(request)
            begun.set()

    main_thread = threading.get_ident()

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(main_thread, signal.SIGINT)

    with Listener.bind(tmp_path / "s") as listener, VhostUserDaemon("bench-test", Told(1 << 20)) as daemon:
        daemon.start(listener)
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert main(["bench", str(tmp_path / "s"), "--seconds", "60", "--json"]) == 0
        thread.join()
    content = json.loads(capsys.readouterr().out)
    assert content["interrupted"] is True
    assert 0 < content["seconds"] < 30
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_device_that_fails_makes_the_command_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Memory):
        def handle(self, request: Request) -> None:
            request.skip_writable(request.writable - 1)
            request.write(b"\x02")

    with Listener.bind(tmp_path / "s") as listener, VhostUserDaemon("bench-test", Broken(1 << 20)) as daemon:
        daemon.start(listener)
        assert main(["bench", str(tmp_path / "s"), "--requests", "5"]) == 1
    assert "5 requests were answered with an error status" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "600"], "sectors of 512"),
        (["--queues", "3"], "C031"),
        (["--pid", "4999999"], "no process 4999999"),
        (["--span", "512"], "do not fit"),
    ],
)
def test_what_does_not_fit_is_one_line(
    disk: str, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", disk, "--requests", "5", *options]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "missing"), "--requests", "5"]) == 1
    error = capsys.readouterr().err
    assert error.count(str(tmp_path / "missing")) == 1


@pytest.mark.parametrize(
    "options", [["--rw", "both"], ["--depth", "0"], ["--seconds", "-1"], ["--size", "x"], ["--ring", "round"]]
)
def test_wrong_arguments(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "socket", *options])
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err
