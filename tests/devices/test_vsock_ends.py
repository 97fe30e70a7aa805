"""Where connections of the socket device lead: Unix sockets, another guest, the sockets of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.vsock_streams import talk
from vhost_user.devices import Vsock
from vhost_user.frontend import DeviceError, PeerTimeout, VsockDriver
from vhost_user.testing.virtio import Virtio


@pytest.fixture
def drive(virtio: Virtio, packed: bool) -> Callable[..., VsockDriver]:
    def up(vsock: Vsock) -> VsockDriver:
        return virtio.attach(vsock, packed=packed, num_queues=2).drive(VsockDriver)

    return up


def pumping(driver: VsockDriver, ended: threading.Event) -> threading.Thread:
    """Let a driver take packets beside the test, and send back what comes to port 22."""

    def run() -> None:
        driver.listen(22)
        while not ended.is_set():
            try:
                driver.pump(0.05)
            except PeerTimeout:
                continue
            for stream in list(driver.streams.values()):
                if stream.local_port == 22 and stream.buffer:
                    stream.send(stream.receive())
                if stream.local_port == 22 and not stream.peer_sends:
                    stream.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_unix_sockets_by_the_convention_of_firecracker(
    drive: Callable[..., VsockDriver], tmp_path: Path
) -> None:
    path = tmp_path / "v"
    driver = drive(Vsock(uds_path=str(path)))
    with pytest.raises(DeviceError, match="refused"):
        driver.connect(52)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}_52")
        server.listen()
        server.settimeout(10)
        with driver.connect(52) as stream:
            client, _ = server.accept()
            with client:
                client.settimeout(10)
                stream.send(b"from the guest")
                assert client.recv(100) == b"from the guest"
                client.sendall(b"from the host")
                client.shutdown(socket.SHUT_WR)
                assert stream.receive() == b"from the host"
                assert stream.receive() == b""
    ended = threading.Event()
    thread = pumping(driver, ended)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"CONNECT 22\nhel")
            answer = client.makefile("rb")
            assert answer.readline().startswith(b"OK ")
            client.sendall(b"lo")
            assert answer.read(5) == b"hello"
        for line in (b"CONNECT 99\n", b"HELLO\n", b"CONNECT x\n", b"C" * 100):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                client.sendall(line)
                with contextlib.suppress(ConnectionResetError):  # what was not read is thrown away
                    assert client.recv(100) == b""
    finally:
        ended.set()
        thread.join()


def test_two_guests_of_a_group_talk(virtio: Virtio, packed: bool) -> None:
    first, second = Vsock(cid=10, group="lab"), Vsock(cid=11, group="lab")
    with pytest.raises(ValueError, match="context id 11 in group 'lab' already"):
        Vsock(cid=11, group="lab")
    drivers = [
        virtio.attach(each, packed=packed, num_queues=2).drive(VsockDriver) for each in (first, second)
    ]
    ended = threading.Event()
    thread = pumping(drivers[1], ended)
    try:
        with drivers[0].connect(22, cid=11) as stream:
            data = os.urandom(100_000)
            assert talk(stream, data) == data
        with pytest.raises(DeviceError, match="refused"):
            drivers[0].connect(23, cid=11)
        with pytest.raises(DeviceError, match="refused"):
            drivers[0].connect(22, cid=12)
    finally:
        ended.set()
        thread.join()


def test_the_sockets_of_this_machine(drive: Callable[..., VsockDriver]) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as server:
        try:
            server.bind((1, socket.VMADDR_PORT_ANY))
        except OSError as error:
            pytest.skip(f"this kernel has no AF_VSOCK loopback: {error}")
        server.listen()
        server.settimeout(10)
        driver = drive(Vsock(forward_cid=1))
        with driver.connect(server.getsockname()[1]) as stream:
            client, _ = server.accept()
            with client:
                stream.send(b"hello")
                assert client.recv(10) == b"hello"
