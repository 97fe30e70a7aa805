"""The guest itself: what it promises to the tests that stand on it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import programs
from vhost_user.testing.guest import (
    Guest,
    GuestCommandError,
    GuestError,
    GuestTimeoutError,
    GuestUnavailableError,
    VhostUserBlk,
)

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with Guest() as guest:
        yield guest


def test_run_returns_output_whatever_the_bytes(guest: Guest) -> None:
    assert guest.run("echo out; echo err >&2") == "out\nerr\n"
    assert guest.run("printf 'no newline, @end 1 0'") == "no newline, @end 1 0"
    assert guest.run("printf '@ready\\n@end 3 0\\n'; printf '\\xc3\\xa4\\001'") == "@ready\n@end 3 0\nä\x01"
    assert guest.run(":") == ""


def test_kernel_messages_do_not_mix_with_output(guest: Guest) -> None:
    output = guest.run("for n in $(seq 50); do echo $n; echo kernel says $n >/dev/kmsg; done")
    assert output == "".join(f"{n}\n" for n in range(1, 51))
    assert "kernel says 50" in guest.console


def test_long_commands_and_long_outputs_arrive_whole(guest: Guest) -> None:
    text = "".join(f"{number}," for number in range(3000))
    assert guest.run(f"echo {text}") == text + "\n"
    assert guest.run("head -c 100000 /dev/zero | tr '\\0' x") == "x" * 100000


def test_what_ends_in_the_background_loses_no_command(guest: Guest) -> None:
    """Process 1 inherits it, and the signal of its end must not meet the shell that reads commands."""
    guest.run(
        "(while :; do (sleep 0.002 &); sleep 0.001; done) </dev/null >/dev/null 2>&1 & echo $! >/run/noise"
    )
    for _ in range(20):
        assert guest.run(f"echo hello # {'x' * 1000}") == "hello\n"
    guest.run("kill $(cat /run/noise)")


def test_a_failing_command_is_an_error_with_status_and_output(guest: Guest) -> None:
    with pytest.raises(
        GuestCommandError, match=r"status 7: echo so; exit 7\nso\n--- end of the guest's console"
    ):
        guest.run("echo so; exit 7")
    with pytest.raises(GuestCommandError) as caught:
        guest.run("false\necho not reached")
    assert (caught.value.status, caught.value.output) == (1, "")


def test_a_command_that_takes_too_long_can_be_waited_for_again(guest: Guest) -> None:
    job = guest.start("mkfifo /fifo; (sleep 1; echo late >/fifo) & cat /fifo")
    with pytest.raises(GuestTimeoutError, match=r"waited 0.1 s .*\nguest command: mkfifo"):
        job.wait(0.1)
    with pytest.raises(GuestError, match="has not ended"):
        guest.run("echo impatient")
    assert job.wait().output == "late\n"
    assert guest.run("echo next") == "next\n"


def test_qmp_answers_and_refuses(guest: Guest) -> None:
    assert guest.qmp("query-status")["running"] is True
    assert guest.qmp("human-monitor-command", command_line="info version").startswith("7.")
    with pytest.raises(GuestError, match="no-such-command"):
        guest.qmp("no-such-command")


def test_shutdown_ends_qemu_and_removes_its_folder() -> None:
    with Guest() as guest:
        pid, folder = guest.pid, guest._folder
        assert folder is not None
        assert folder.exists()
        guest.shutdown()
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


def test_an_exception_in_the_test_leaves_no_qemu_behind() -> None:
    pid = 0

    def failing() -> None:
        nonlocal pid
        with Guest() as guest:
            pid = guest.pid
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_test_run_leaves_no_qemu_behind(tmp_path: Path) -> None:
    program = (
        "from vhost_user.testing.guest import Guest\n"
        f"with Guest(folder={str(tmp_path)!r}) as guest: print(guest.pid, flush=True); input()"
    )
    with programs() as running:
        run = running.python("-c", program, stdin=subprocess.PIPE)
        assert run.stdout is not None
        pidfd = os.pidfd_open(int(run.stdout.readline()))
        run.kill()
        # A pidfd becomes readable when its process ends.
        assert select.select([pidfd], [], [], 10) == ([pidfd], [], [])
        os.close(pidfd)


def test_the_death_of_qemu_is_noticed_at_once() -> None:
    with Guest() as guest:
        killer = threading.Timer(0.2, os.kill, (guest.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(GuestError, match=r"QEMU ended with status -9"):
            guest.run("sleep 60")
        killer.join()


def test_a_panic_of_the_kernel_is_noticed_at_once() -> None:
    with Guest() as guest, pytest.raises(GuestError, match=r"(?s)kernel panicked.*sysrq triggered crash"):
        guest.run("echo c >/proc/sysrq-trigger")


def test_a_backend_that_is_not_there_is_an_error_in_the_words_of_qemu(tmp_path: Path) -> None:
    guest = Guest(devices=[VhostUserBlk(tmp_path / "nobody.sock")])
    with pytest.raises(GuestError, match=r"(?s)QEMU ended with status 1.*Failed to connect.*nobody\.sock"):
        guest.boot()


def test_missing_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestUnavailableError, match="apt-get install qemu-system-x86"):
        Guest().boot()


def test_missing_kernel_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VHOST_USER_CACHE", str(tmp_path))
    with pytest.raises(GuestUnavailableError, match=r"python3 -m vhost_user\.testing\.guest_kernel"):
        Guest().boot()


def test_missing_program_and_missing_module_are_named() -> None:
    with pytest.raises(GuestUnavailableError, match="no-such-program is missing"):
        Guest(programs=["no-such-program"]).boot()
    with pytest.raises(GuestUnavailableError, match="no module no_such_module"):
        Guest(modules=["no-such-module"]).boot()
