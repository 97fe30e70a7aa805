"""``serve`` as a program: the back-end program conventions, C140 to C146."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.devices import Dice
from tests.support.programs import programs
from vhost_user import Listener
from vhost_user.device_types import qemu_version
from vhost_user.device_types.qemu import NoQemuDeviceError
from vhost_user.program.descriptor_limit import allow_descriptors
from vhost_user.program.guest_lines import qemu_lines
from vhost_user.program.serving import serve
from vhost_user.protocol.listener import connect

if TYPE_CHECKING:
    from tests.backend.conftest import Stage
    from tests.support.front_end import FrontEnd

PROGRAM = """
from vhost_user import Device, Request, serve

class Dice(Device, type="rng", capability_features=["fair"]):
    def handle(self, request: Request) -> None:
        request.write(bytes([6]) * request.writable)

serve(Dice())
"""

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts the program of a first device with these arguments."""
    program = tmp_path / "dice.py"
    program.write_text(PROGRAM)
    with programs() as running:
        yield partial(running.python, program)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    status = process.wait(timeout=20)
    assert process.stdout is not None
    assert process.stderr is not None
    return status, process.stdout.read(), process.stderr.read()


def works(front: FrontEnd) -> bool:
    front.bring_up()
    return front.request(writable=4) == bytes([6]) * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_C142_a_signal_ends_it_cleanly_while_a_front_end_is_connected(
    stage: Stage, run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "s"
    process = run(f"--socket-path={path}")
    assert first_line(process) == f"listening on {path}"
    front = stage.front_end(connect(path))
    assert works(front)
    process.send_signal(number)
    status, out, err = ends(process)
    assert (status, err) == (0, "")
    assert "memory-backend-memfd" in out
    assert f"path={path}" in out
    assert "vhost-user-rng-pci" in out
    assert not path.exists()


def test_C140_fd_may_be_a_listening_socket(stage: Stage, run: Run, tmp_path: Path) -> None:
    with Listener.bind(tmp_path / "s") as listener:
        process = run(f"--fd={listener.fileno()}", pass_fds=[listener.fileno()])
        assert "listening" in first_line(process)
        front = stage.front_end(connect(tmp_path / "s"))
        assert works(front)
        front.close()
        process.terminate()
        assert ends(process)[0] == 0


def test_C140_fd_may_be_a_connected_socket_and_its_end_is_the_programs(stage: Stage, run: Run) -> None:
    ours, theirs = socket.socketpair()
    process = run(f"--fd={theirs.fileno()}", pass_fds=[theirs.fileno()])
    theirs.close()
    front = stage.front_end(ours)
    assert works(front)
    front.close()
    status, _, err = ends(process)
    assert (status, err) == (0, "")


def test_C136_it_may_connect(stage: Stage, run: Run, tmp_path: Path) -> None:
    with Listener.bind(tmp_path / "vmm") as listener:
        process = run(f"--connect={tmp_path}/vmm")
        connection = listener.accept(timeout=20)
        assert connection is not None
        front = stage.front_end(connection)
        assert works(front)
        front.close()
        assert ends(process)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "give exactly one of --socket-path"),
        (["--socket-path=/x", "--fd=3"], 2, "--socket-path and --fd exclude each other"),
        (["--socket-path=/nowhere/at/all/s"], 1, "create it first"),
        (["--socket-path={tmp}/file"], 1, "is not a socket"),
        (["--socket-path={tmp}/live"], 1, "in use by a live process"),
        (["--fd=77"], 1, "file descriptor 77"),
        (["--fd=0"], 1, "file descriptor 0"),
        (["--connect={tmp}/nobody"], 1, "can not connect"),
        (["--socket-path=/x", "--reconnect"], 2, "--reconnect goes with --connect"),
        (["--socket-path=/x", "--socket-mode=9"], 2, "octal"),
        (["--socket-path=/x", "--qemu-version=new"], 2, "'new' is not a version of QEMU"),
    ],
)
def test_C143_bad_input_is_named_and_ends_it(
    run: Run, tmp_path: Path, arguments: list[str], status: int, text: str
) -> None:
    (tmp_path / "file").write_text("precious")
    with Listener.bind(tmp_path / "live"):
        got, out, err = ends(run(*[argument.format(tmp=tmp_path) for argument in arguments]))
    assert (got, out) == (status, "")
    assert text in err
    assert "Traceback" not in err
    assert (tmp_path / "file").read_text() == "precious"


def test_C146_a_stale_socket_is_replaced(stage: Stage, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    process = run(f"--socket-path={path}", "--once", "--socket-mode=600")
    assert first_line(process) == f"listening on {path}"
    assert path.stat().st_mode & 0o777 == 0o600
    front = stage.front_end(connect(path))
    assert works(front)
    front.close()
    assert ends(process)[0] == 0


def test_C141_print_capabilities_ignores_everything_else(capsys: pytest.CaptureFixture[str]) -> None:
    serve(Dice(), ["--fd=nonsense", "--unknown", "--print-capabilities"])
    assert json.loads(capsys.readouterr().out) == {"type": "rng", "features": []}

    class Disk(Dice, type="blk", capability_features=("read-only", "blk-file")):
        pass

    serve(Disk(), ["--print-capabilities"])
    assert json.loads(capsys.readouterr().out) == {"type": "block", "features": ["read-only", "blk-file"]}


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serve(Dice(), ["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--socket-path=/tmp/device.sock" in out
    assert "QEMU" in out


def test_a_device_that_makes_no_sense_is_named() -> None:
    class Wrong(Dice):
        workers = ([0], [0])

    with pytest.raises(SystemExit, match="queue 0 has more than one worker"):
        serve(Wrong(), ["--socket-path=/x"])


def lines(device_type: str, version: tuple[int, int], queues: int = 1, **more: Any) -> list[str]:
    device = type("Some", (Dice,), {}, type=device_type, queues=queues)()
    return qemu_lines(device, "/tmp/a,b.sock", version=version, **more)


def test_qemu_lines_fit_the_device_type() -> None:
    def last(device_type: str, queues: int = 1) -> str:
        return lines(device_type, (11, 1), queues)[-1]

    assert last("blk", 4) == "-device vhost-user-blk-pci,chardev=vhost0,num-queues=4"
    assert "vectors=0" in last("net", 2)
    assert last("can", 3).startswith(
        "-device vhost-user-test-device-pci,chardev=vhost0,virtio-id=36,num_vqs=3"
    )
    assert "queue-size=1024" in last("fs", 2)
    assert "num-request-queues=4" in last("fs", 5)
    assert "num_queues=2" in last("scsi", 4), "QEMU adds the control and the event queue"
    shown = lines("rng", (7, 2))
    assert "share=on" in shown[0]
    assert "path=/tmp/a,,b.sock" in shown[1]


def test_a_device_of_small_rings_is_given_no_larger_ones() -> None:
    small = type("Some", (Dice,), {}, type="blk", queues=1, queue_size=64)()
    assert "queue-size=64" in qemu_lines(small, "/tmp/s", version=(7, 2))[-1]


@pytest.mark.parametrize(
    ("device_type", "version", "expected"),
    [
        ("blk", (7, 2), ",reconnect=1"),
        ("blk", (9, 1), ",reconnect=1"),
        ("blk", (9, 2), ",reconnect-ms=1000"),
        ("blk", (11, 1), ",reconnect-ms=1000"),
        ("net", (7, 2), ",reconnect=1"),
        ("net", (11, 1), ",reconnect-ms=1000"),
        ("gpio", (7, 2), ",reconnect=1"),
        ("gpio", (10, 0), ""),
        ("scsi", (7, 2), ""),
        ("scsi", (10, 0), ",reconnect-ms=1000"),
        *(
            (device_type, version, "")
            for version in ((7, 2), (10, 0), (11, 1))
            for device_type in ("rng", "i2c", "vsock", "fs", "input", "gpu")
        ),
        ("can", (11, 1), ""),
        ("sound", (10, 0), ""),
    ],
)
def test_C136_only_devices_that_can_wait_for_their_connection_are_told_to_reconnect(
    device_type: str, version: tuple[int, int], expected: str
) -> None:
    assert lines(device_type, version)[1] == f"-chardev socket,id=vhost0,path=/tmp/a,,b.sock{expected}"
    listens = lines(device_type, version, client=True)[1]
    assert listens.endswith(",server=on,wait=off" if expected else ",server=on")


@pytest.mark.parametrize(
    ("device_type", "version", "text"),
    [
        ("can", (7, 2), "QEMU 7.2 has no device for type 'can': the generic device .* came with 10.2"),
        ("can", (10, 1), "QEMU 10.1 has no device"),
        ("sound", (7, 2), "its device vhost-user-snd-pci came with 9.0, the generic device"),
        (
            "something of ours",
            (11, 1),
            "number of type 'something of ours' is not known .*virtio-id=VIRTIO_ID",
        ),
    ],
)
def test_no_line_that_can_not_start_is_made(device_type: str, version: tuple[int, int], text: str) -> None:
    with pytest.raises(NoQemuDeviceError, match=text):
        lines(device_type, version)


def test_a_type_whose_own_device_is_too_new_gets_the_generic_one() -> None:
    assert "vhost-user-test-device-pci,chardev=vhost0,virtio-id=45" in lines("spi", (10, 2))[-1]
    assert "vhost-user-spi-pci" in lines("spi", (11, 1))[-1]


@pytest.mark.parametrize(("config", "size"), [(None, 0), (bytes(2), 256)])
def test_the_generic_device_is_told_whether_there_is_a_configuration_space(
    config: bytes | None, size: int
) -> None:
    device = type("Some", (Dice,), {"config": config}, type="scmi")()
    line = qemu_lines(device, "/tmp/s", version=(11, 1))[-1]
    assert line.endswith(f",config_size={size}")  # QEMU ends if it is told of one that is not offered


def test_where_there_is_no_line_the_program_serves_and_says_why(
    stage: Stage, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "dice.py").write_text(PROGRAM.replace('"rng"', '"can"'))
    process = run(f"--socket-path={tmp_path}/s", "--qemu-version=7.2")
    assert first_line(process) == f"listening on {tmp_path}/s"
    assert first_line(process).startswith("for the guest there is no QEMU line: QEMU 7.2 has no device")
    front = stage.front_end(connect(tmp_path / "s"))
    assert works(front)
    front.close()
    process.terminate()
    assert ends(process) == (0, "", "")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'QEMU emulator version 8.1.5 (Some 1:8.1.5)'", (8, 1)),
        ("echo nothing of the kind", None),
        ("exit 3", None),
        ("sleep 600", None),
        ("sleep 600 & sleep 600", None),
    ],
)
def test_the_installed_qemu_is_asked_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: tuple[int, int] | None
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(qemu_version, "PATIENCE", 0.3)
    installed = qemu_version.installed_version.__wrapped__  # what is behind its cache
    assert installed() == expected


def test_without_qemu_the_lines_are_for_a_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(qemu_version, "installed_version", qemu_version.installed_version.__wrapped__)
    assert qemu_version.default_version() == qemu_version.CURRENT


@pytest.mark.parametrize(
    ("queues", "limits", "after", "told"),
    [
        pytest.param(1, (1024, 4096), (1024, 4096), False, id="enough"),
        pytest.param(256, (1024, 4096), (4096, 4096), False, id="raised"),
        pytest.param(256, (512, 1024), (1024, 1024), True, id="raised, and too low"),
        pytest.param(
            256, (resource.RLIM_INFINITY,) * 2, (resource.RLIM_INFINITY,) * 2, False, id="unlimited"
        ),
        pytest.param(
            256, (8, resource.RLIM_INFINITY), (resource.RLIM_INFINITY,) * 2, False, id="no hard one"
        ),
    ],
)
def test_the_limit_of_open_files_is_raised_when_queues_need_it(  # noqa: PLR0917  # a table
    queues: int,
    limits: tuple[int, int],
    after: tuple[int, int],
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = [limits]
    monkeypatch.setattr("vhost_user.program.descriptor_limit.resource.getrlimit", lambda _which: state[-1])
    monkeypatch.setattr(
        "vhost_user.program.descriptor_limit.resource.setrlimit", lambda _which, pair: state.append(pair)
    )
    allow_descriptors(queues)
    assert state[-1] == after
    assert ("raise the hard limit" in caplog.text) is told


def test_the_limit_of_open_files_is_raised_in_a_program_of_many_queues(tmp_path: Path) -> None:
    program = tmp_path / "dice.py"
    program.write_text(PROGRAM.replace('type="rng"', 'type="rng", queues=256'))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limited = ["sh", "-c", 'ulimit -Sn 200; exec "$@"', "sh"]
    with programs() as running:
        process = running.start([*limited, sys.executable, program, f"--socket-path={tmp_path / 's'}"])
        assert first_line(process).startswith("listening")
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        process.terminate()


def test_a_listener_that_is_shut_down_ends_the_program_with_a_bad_status(run: Run) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind("")
        sock.listen()
        process = run(f"--fd={sock.fileno()}", pass_fds=[sock.fileno()])
        assert first_line(process).startswith("listening on file descriptor")
        sock.shutdown(socket.SHUT_RDWR)
        status, _, err = ends(process)
    assert status == 1
    assert "no connection" in err
