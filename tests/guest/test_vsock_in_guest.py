"""Sockets between a real guest and the host: Linux's own driver, and socat in the guest."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from tests.support.front_end import until
from tests.support.vsock_streams import echo
from vhost_user.devices import Stream, Vsock
from vhost_user.spec.vsock import VsockType
from vhost_user.testing.booting import BootGuest

pytestmark = pytest.mark.guest

SOCAT = ("socat",)


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def made(packed: bool, vsock: Vsock) -> Vsock:
    vsock.packed = packed
    return vsock


def test_connections_both_ways(virtio_guest: BootGuest, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "v"
    vsock = made(packed, Vsock(cid=42, uds_path=str(path)))
    vsock.answer(7, echo)
    guest = virtio_guest(vsock, programs=SOCAT)
    # A mebibyte each way, by a function.
    guest.run("head -c 1048576 /dev/urandom >/sent")
    guest.run("socat -t 20 - VSOCK-CONNECT:2:7 </sent >/back; cmp /sent /back")
    # Nobody there: connect() fails.
    assert "Connection" in guest.run("socat -u /dev/null VSOCK-CONNECT:2:99 2>&1 || true")
    # By a Unix socket, from the guest.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}_52")
        server.listen()
        server.settimeout(30)
        command = guest.start("echo hello | socat -t 20 - VSOCK-CONNECT:2:52")
        client, _ = server.accept()
        with client:
            client.settimeout(30)
            assert client.makefile("rb").readline() == b"hello\n"
            client.sendall(b"world\n")
        assert command.wait().output == "world\n"
    # And to the guest.
    guest.run("socat VSOCK-LISTEN:22,fork SYSTEM:sha256sum </dev/null >/dev/null 2>&1 & sleep 0.5")
    data = os.urandom(300_000)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"CONNECT 22\n")
        answer = client.makefile("rb")
        assert answer.readline().startswith(b"OK ")
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert answer.readline().split()[0].decode() == hashlib.sha256(data).hexdigest()
    until(lambda: not vsock.connections, "all are over")
    guest.reboot()
    assert guest.run("echo again | socat -t 20 - VSOCK-CONNECT:2:7") == "again\n"


def test_messages_and_many_connections(virtio_guest: BootGuest, packed: bool) -> None:
    vsock = made(packed, Vsock())
    vsock.answer(7, echo)
    vsock.answer(
        8, lambda: Stream(data=lambda stream, data: stream.send(b"%d " % len(data))), kind=VsockType.SEQPACKET
    )
    guest = virtio_guest(vsock, programs=SOCAT)
    # Three bytes at a time, each a message.
    said = guest.run("printf 'onetwosix!' | socat -b 3 -t 20 - VSOCK-CONNECT:2:8,socktype=5")
    assert said.split() == ["3", "3", "3", "1"]
    guest.run(
        # Linux gives a connect() two seconds: a hundred at once are too much for a busy machine.
        "for i in $(seq 1 20); do\n"
        "  for j in 1 2 3; do (echo $i $j | socat -t 20 - VSOCK-CONNECT:2:7 >/answer.$i.$j) & done; wait\n"
        "done\n"
        'for i in $(seq 1 20); do for j in 1 2 3; do [ "$(cat /answer.$i.$j)" = "$i $j" ]; done; done',
        timeout=120,
    )


def test_C054_a_guest_that_sends_while_it_is_paused_again_and_again(
    virtio_guest: BootGuest, packed: bool
) -> None:
    vsock = made(packed, Vsock())
    vsock.answer(7, echo)
    guest = virtio_guest(vsock, programs=SOCAT)
    guest.run("head -c 1048576 /dev/urandom >/sent")
    command = guest.start("socat -t 20 - VSOCK-CONNECT:2:7 </sent >/back; cmp /sent /back")
    for _ in range(5):
        guest.qmp("stop")
        guest.qmp("cont")
    assert command.wait().status == 0


def test_two_guests_talk(virtio_guest: BootGuest) -> None:
    first = virtio_guest(Vsock(cid=10, group="lab"), programs=SOCAT)
    second = virtio_guest(Vsock(cid=11, group="lab"), programs=SOCAT)
    second.run("socat VSOCK-LISTEN:22,fork EXEC:cat </dev/null >/dev/null 2>&1 & sleep 0.5")
    assert first.run("echo hello guest | socat -t 20 - VSOCK-CONNECT:11:22") == "hello guest\n"
