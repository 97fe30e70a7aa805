"""The parts of a request and files, and views of them (request.pyi; V011, V014)."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest

from tests.engine.pair import WRITE, D, MakePair, Pair, used_length, written
from vhost_user.engine.errors import MemoryFault, RequestError
from vhost_user.engine.memory.mapping import live_mappings


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    return make_pair(16)


# ---------------------------------------------------------------------- files
def test_write_from_file_and_read_to_file(pair: Pair, file: int) -> None:
    first, second = pair.buffer(10), pair.buffer(300)
    pair.queue.add([pair.buffer(b"to the file"), pair.buffer(b", more")], [first, second])
    pair.queue.publish()
    request = pair.take()
    assert request.write_from_file(file, 5, 20) == 20
    assert written(pair, *first) + written(pair, second[0], 11) == bytes(range(5, 25)) + b"\xee"
    assert request.write_from_file(file, 4000) == 96
    assert request.written == 116
    assert request.read_to_file(file, 8192, 3) == 3
    assert request.read_to_file(file, 8195) == 14
    assert os.pread(file, 100, 8192) == b"to the file, more"


def test_files_at_their_own_position(pair: Pair) -> None:
    reading, writing = os.pipe()
    request = pair.serve([b"abc", b"def"], [4, 4])
    assert request.read_to_file(writing, -1) == 6
    assert request.write_from_file(reading, -1) == 6
    assert request.written == 6
    os.close(writing)
    assert request.write_from_file(reading, -1) == 0
    os.close(reading)


def test_files_of_many_segments(make_pair: MakePair) -> None:
    pair = make_pair(256)
    request = pair.serve([], [1] * 200)
    with tempfile.TemporaryFile() as stream:
        stream.write(bytes(range(200)))
        stream.flush()
        assert request.write_from_file(stream.fileno(), 0) == 200
    request.complete()
    assert used_length(pair) == 200


def test_file_errors_are_the_systems(pair: Pair, file: int, tmp_path: Path) -> None:
    request = pair.serve([b"x"], [4])
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        request.write_from_file(-1, 0)
    path = tmp_path / "readable"
    path.write_bytes(b"x")
    with path.open("rb") as stream, pytest.raises(OSError, match="Bad file descriptor"):
        request.read_to_file(stream.fileno(), 0)
    with pytest.raises(RequestError, match="V014"):
        request.write_from_file(file, 0, 5)
    with pytest.raises(RequestError, match="V014"):
        request.read_to_file(file, 0, 2)
    assert (request.written, request.readable) == (0, 1)


def test_V011_files_and_unmapped_memory(pair: Pair, file: int) -> None:
    pair.offer(D(*pair.buffer(b"ok")), D(0xDEAD0000, 8), D(0xBEEF0000, 8, WRITE))
    request = pair.take()
    with pytest.raises(MemoryFault):
        request.write_from_file(file, 0)
    assert request.read_to_file(file, 0, 2) == 2
    with pytest.raises(MemoryFault):
        request.read_to_file(file, 0)


# ---------------------------------------------------------------------- views
def test_views_of_what_is_left(pair: Pair) -> None:
    request = pair.serve([b"abc", b"def"], [3, 3])
    request.read(1)
    assert [bytes(view) for view in request.readable_views()] == [b"bc", b"def"]
    assert all(view.readonly for view in request.readable_views())
    request.write(b"1234")
    (view,) = request.writable_views()
    view[:] = b"56"
    assert request.written == 4
    request.advance_writable(2)
    assert (request.written, request.writable_views()) == (6, [])


def test_views_keep_the_memory_mapped(pair: Pair) -> None:
    mappings = live_mappings()
    request = pair.serve([b"keep me"], [4])
    (view,) = request.readable_views()
    request.complete()
    pair.vring.reset()
    pair.guest.close()
    assert live_mappings() == mappings
    assert bytes(view) == b"keep me"
    del view, request
    gc.collect()
    assert live_mappings() == mappings - 1
