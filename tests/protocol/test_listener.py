"""Listening, connecting and descriptors handed over: C136, C137, C140, C146."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhost_user.protocol.errors import PeerTimeout, SocketError
from vhost_user.protocol.listener import Listener, connect, from_fd
from vhost_user.protocol.transport import Connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to listen."""
    return tmp_path / "device.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[Listener]:
    """Somebody who listens there."""
    with Listener.bind(path) as made:
        yield made


def test_C136_connect_and_accept(listener: Listener, path: Path) -> None:
    with connect(path) as ours:
        theirs = listener.accept()
        assert theirs is not None
        with theirs:
            assert ours.fileno() != theirs.fileno()
    assert listener.path == path
    assert listener.fileno() >= 0


def test_C137_the_next_front_end_waits_its_turn(listener: Listener, path: Path) -> None:
    with connect(path), connect(path):
        first = listener.accept()
        assert first is not None
        first.close()
        second = listener.accept()
        assert second is not None
        second.close()


def test_accept_ends_with_stop_or_time(listener: Listener) -> None:
    stop = os.eventfd(1)
    assert listener.accept(stop=stop) is None
    assert os.eventfd_read(stop) == 1
    os.close(stop)
    with pytest.raises(PeerTimeout):
        listener.accept(timeout=0.01)


def test_C146_the_socket_is_removed_at_the_end(path: Path) -> None:
    listener = Listener.bind(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    listener.close()
    listener.close()
    assert not path.exists()


def test_C146_a_socket_that_is_not_ours_any_more_stays(path: Path) -> None:
    listener = Listener.bind(path)
    path.rename(path.with_name("kept"))
    with Listener.bind(path):
        listener.close()
        assert path.exists()
    path.with_name("kept").unlink()


def test_C146_a_socket_that_somebody_removed_is_no_error(path: Path) -> None:
    with Listener.bind(path):
        path.unlink()


def test_C146_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Listener.bind(path), connect(path):
        pass


def test_C146_a_live_back_end_keeps_its_socket(listener: Listener, path: Path) -> None:
    inode = path.stat().st_ino
    with pytest.raises(SocketError, match=r"in use by a live process: stop it or choose another path"):
        Listener.bind(path)
    assert path.stat().st_ino == inode
    assert listener.fileno() >= 0


def test_C146_a_busy_back_end_is_alive(path: Path) -> None:
    with Listener.bind(path, backlog=0), connect(path), pytest.raises(SocketError, match="in use"):
        Listener.bind(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_C146_what_is_no_socket_stays(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to("elsewhere")
    with pytest.raises(SocketError, match=r"exists and is not a socket: remove it or choose another path"):
        Listener.bind(path)
    assert path.lstat()


def test_C146_a_datagram_socket_is_not_taken_for_a_stale_one(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(SocketError, match="can not tell"):
            Listener.bind(path)
    assert path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
def test_C146_permissions(path: Path, mode: int) -> None:
    with Listener.bind(path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_C146_permissions_follow_the_umask_otherwise(path: Path) -> None:
    before = os.umask(0o027)
    try:
        with Listener.bind(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
    finally:
        os.umask(before)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    for action in (Listener.bind, connect):
        with pytest.raises(
            SocketError, match=r"directory .*gone of socket path .* does not exist: create it"
        ):
            action(tmp_path / "gone" / "device.sock")


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    for action in (Listener.bind, connect):
        with pytest.raises(SocketError, match="longer than 107 bytes"):
            action(tmp_path / ("x" * 108))


def test_the_longest_path_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (106 - len(str(tmp_path))))
    assert len(str(path)) == 107
    with Listener.bind(path), connect(path):
        pass


def test_connecting_to_nobody(path: Path) -> None:
    with pytest.raises(SocketError, match="No such file"):
        connect(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(SocketError, match="nobody listens there"):
        connect(path)


def test_a_directory_that_can_not_be_written_is_named() -> None:
    with pytest.raises(SocketError, match=r"can not listen at /proc/device\.sock"):
        Listener.bind("/proc/device.sock")


def test_C140_a_listening_descriptor(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    made = from_fd(sock.detach())
    assert isinstance(made, Listener)
    with made, connect(path):
        accepted = made.accept()
        assert accepted is not None
        accepted.close()
    assert path.exists(), "the socket belongs to whoever bound it"


def test_C140_a_connected_descriptor() -> None:
    ours, theirs = socket.socketpair()
    os.set_inheritable(ours.fileno(), True)
    with theirs:
        made = from_fd(ours.detach())
        assert isinstance(made, Connection)
        assert not os.get_inheritable(made.fileno())
        made.close()


def test_C140_descriptors_of_no_use(path: Path) -> None:
    file = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(SocketError, match=f"file descriptor {file} can not be used"):
        from_fd(file)
    os.close(file)
    with pytest.raises(SocketError, match="can not be used"):
        from_fd(file)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        pytest.raises(SocketError, match="not a Unix stream"),
    ):
        from_fd(sock.fileno())
    sock = socket.socket(socket.AF_UNIX)
    with pytest.raises(SocketError, match="neither listens nor is connected"):
        from_fd(sock.detach())
    assert not path.exists()


class Fickle(socket.socket):
    """A listening socket at which the first front-end gives up between poll and accept."""

    failures = 1

    def accept(self) -> tuple[socket.socket, str]:
        if self.failures:
            self.failures -= 1
            raise ConnectionAbortedError
        return super().accept()


def test_a_front_end_that_gives_up_is_not_accepted(path: Path) -> None:
    sock = Fickle(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    with Listener(sock) as listener, connect(path):
        accepted = listener.accept()
        assert accepted is not None
        accepted.close()
