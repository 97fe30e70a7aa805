"""Batch: the operations of a request for many at once."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.engine.batches import DISK, HUGE, IN, OTHER, OUT, header, lengths, offer, read_back, serve
from tests.engine.pair import MakePair, Pair
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.header import Header
from vhost_user.engine.memory.dirty_log import Bitmap


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    pair = make_pair(64)
    pair.vring.set_header(Header("<IIQ"))
    return pair


def test_a_batch_is_the_list_of_its_requests(pair: Pair) -> None:
    tokens = [pair.add([b"%d" % number]) for number in range(5)]
    seen: list[bytes] = []

    def handler(requests: Batch) -> None:
        assert isinstance(requests, list)
        assert len(requests) == 5
        seen.extend(request.read() for request in requests)

    assert serve(pair, handler) == []
    assert seen == [b"0", b"1", b"2", b"3", b"4"]
    assert [token for token, _ in pair.queue.poll_many()] == tokens


def test_headers_fields_and_groups(pair: Pair) -> None:
    kinds = [IN, OUT, IN, OTHER, OUT]
    for number, kind in enumerate(kinds):
        pair.add([header(kind, number)])

    def handler(requests: Batch) -> None:
        assert requests.headers() == [(kind, 0, number) for number, kind in enumerate(kinds)]
        assert requests.field(2) == [0, 1, 2, 3, 4]
        groups = requests.by_field(0)
        sectors = {kind: group.field(2) for kind, group in groups.items()}
        assert sectors == {IN: [0, 2], OUT: [1, 4], OTHER: [3]}
        assert all(type(group) is Batch for group in groups.values())
        assert groups[IN][1] is requests[2]
        with pytest.raises(IndexError, match="no field 3"):
            requests.field(3)
        with pytest.raises(IndexError):
            requests.field(-1)

    assert serve(pair, handler) == []


@pytest.mark.parametrize("layout", ["<bBhHiIqQ", "<xBxxI", "<qH"])
def test_fields_decode_as_the_header_does(make_pair: MakePair, layout: str) -> None:
    pair = make_pair()
    declared = Header(layout)
    pair.vring.set_header(declared)
    pair.add([os.urandom(declared.size - 1) + b"\xff"])

    def handler(requests: Batch) -> None:
        count = len(requests[0].header)
        assert [requests.field(index) for index in range(count)] == [[value] for value in requests[0].header]

    assert serve(pair, handler) == []


def test_V051_kind_and_place_come_from_the_same_copy(pair: Pair) -> None:
    first = pair.buffer(header(IN, 1))
    pair.queue.add([first], [pair.buffer(512)])
    pair.queue.publish()

    def handler(requests: Batch) -> None:
        assert list(requests.by_field(0)) == [IN]
        pair.memory.write(first[0], header(OUT, 99))
        assert requests.field(2) == [1]
        assert requests.headers() == [(IN, 0, 1)]

    assert serve(pair, handler) == []


def test_write_from_fills_up_to_what_is_kept(pair: Pair) -> None:
    made = [offer(pair, header(IN, sector), 513) for sector in (3, 0, 2)]

    def handler(requests: Batch) -> None:
        requests.write_from(DISK, requests.field(2), unit=512, keep=1)
        requests.write_last(b"\0")

    assert serve(pair, handler) == []
    assert lengths(pair) == [513] * 3
    for (_, answer), sector in zip(made, (3, 0, 2), strict=True):
        assert read_back(pair, answer) == DISK[sector * 512 : sector * 512 + 512] + b"\0"


def test_read_to_takes_what_is_left(pair: Pair) -> None:
    disk = bytearray(2048)
    for sector in (1, 3):
        pair.add([header(OUT, sector) + bytes([sector]) * 512], [1])

    def handler(requests: Batch) -> None:
        requests.read_to(disk, requests.field(2), unit=512)
        requests.write_last(b"\0")

    assert serve(pair, handler) == []
    assert disk == bytes(512) + b"\1" * 512 + bytes(512) + b"\3" * 512
    assert lengths(pair) == [1, 1]


def test_read_write_and_fill(pair: Pair) -> None:
    made = [offer(pair, b"piece %d" % number, 8) for number in range(3)]

    def handler(requests: Batch) -> None:
        assert requests.read() == [b"piece 0", b"piece 1", b"piece 2"]
        requests.write([b"ab", None, bytearray(b"cd")])
        requests.fill(0x2A, keep=3)

    assert serve(pair, handler) == []
    assert lengths(pair) == [5, 5, 5]
    assert [read_back(pair, answer)[:5] for _, answer in made] == [b"ab***", b"*****", b"cd***"]


def test_a_field_of_the_header_says_where(make_pair: MakePair) -> None:
    """Of any width; a signed one may be below 0, which is nowhere."""
    for letter in "bBhHiIqQ":
        pair = make_pair()
        layout = Header(f"<B{letter}")
        pair.vring.set_header(layout)
        made = [offer(pair, b"\x07" + (3).to_bytes(layout.size - 1, "little") + b"data", 4)]
        made.append(offer(pair, b"\xff" * layout.size, 4))
        disk = bytearray(16)

        def handler(requests: Batch, disk: bytearray = disk) -> None:
            whole = Batch(requests)
            requests.read_to(disk, at_field=1, unit=2)
            whole.write_from(DISK, at_field=1, unit=2)

        assert len(serve(pair, handler)) == 1
        assert disk == bytes(6) + b"data" + bytes(6)
        assert read_back(pair, made[0][1]) == DISK[6:10]

    pair.add([bytes(16)])
    wrong: list[str] = []

    def either(requests: Batch) -> None:
        for arguments in ({}, {"at_field": 0, "offsets": [0]}):
            with pytest.raises(TypeError):
                requests.write_from(DISK, **arguments)  # type: ignore[arg-type]
        with pytest.raises(IndexError):
            requests.write_from(DISK, at_field=9)
        wrong.append("seen")

    serve(pair, either)
    assert wrong == ["seen"]


def test_None_leaves_a_request_alone(pair: Pair) -> None:
    made = [offer(pair, header(IN, 0), 4) for _ in range(3)]
    serve(pair, lambda requests: requests.write_from(DISK, [8, None, 16]))
    assert lengths(pair) == [4, 0, 4]
    assert read_back(pair, made[2][1]) == DISK[16:20]


def test_C084_what_a_batch_writes_is_logged(new_pair: MakePair) -> None:
    bitmap = Bitmap()
    file = os.memfd_create("log")
    os.ftruncate(file, 1 << 17)
    bitmap.map(file, 1 << 17)
    bitmap.enabled = True
    os.close(file)
    pair = new_pair(False, 16, bitmap=bitmap)
    answer = pair.buffer(3 * 4096)
    pair.queue.add([], [answer])
    pair.queue.publish()
    serve(pair, lambda requests: requests.write_from(bytes(3 * 4096), [0]))
    assert all(bitmap.is_dirty(answer[0] + offset) for offset in (0, 4096, 8192))
    assert not bitmap.is_dirty(answer[0] + 4 * 4096)
    bitmap.unmap()


def test_a_list_that_changes_under_way_does_no_harm(pair: Pair) -> None:
    for _ in range(6):
        pair.add([b"x"], [4])

    class Place:
        """An offset whose conversion empties the lists."""

        def __index__(self) -> int:
            places.clear()
            batches[0].clear()
            return 0

    places: list[Any] = [0, Place(), 0, 0, 0, 0]
    batches: list[Batch] = []

    def handler(requests: Batch) -> None:
        batches.append(requests)
        requests.write_from(DISK, places)
        assert requests == []

    assert serve(pair, handler) == []
    assert lengths(pair) == [4, 4, 0, 0, 0, 0]


def test_a_list_that_grows_under_way_does_no_harm(pair: Pair) -> None:
    for _ in range(3):
        pair.add([b"x"], [4])
    disk = bytes(9 << 20)

    class Place:
        """An offset whose conversion adds to the list, once what is a request and once what is none."""

        def __index__(self) -> int:
            batches[0].append(batches[0][0])
            batches[0].insert(0, junk)
            return 10 << 20  # refused, so that the list is sifted

    junk: Any = "no request"
    places: list[Any] = [0, 0, Place()]
    batches: list[Batch] = []

    def handler(requests: Batch) -> None:
        batches.append(requests)
        requests.write_from(disk, places)
        assert any(each is junk for each in requests)
        with pytest.raises(TypeError, match="holds requests, not str"):
            requests.fill(0)

    assert len(serve(pair, handler)) == 1
    assert lengths(pair) == [4, 4, 0]


@pytest.mark.parametrize("size", [1, 3, 16, 64])
def test_the_size_of_batches_is_bounded(pair: Pair, size: int) -> None:
    for _ in range(40):
        pair.add([b"x"])
    sizes: list[int] = []
    serve(pair, lambda requests: sizes.append(len(requests)), size=size)
    assert sum(sizes) == 40
    assert max(sizes) == min(size, 40)


@pytest.mark.parametrize("size", [0, -1, 65])
def test_a_size_that_is_impossible(pair: Pair, size: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        pair.vring.process_batch(lambda _requests: None, size=size)


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_V016_V017_a_driver_that_sleeps_is_called_while_the_rest_is_worked_on(
    make_pair: MakePair, together: bool, event_idx: bool
) -> None:
    pair = make_pair(64, event_idx=event_idx)
    pair.queue.enable_notifications()
    for _ in range(32):
        pair.add([b"x"])
    called: list[int] = []

    def each(_request: object) -> None:
        called.append(pair.queue.call_count())

    if together:
        pair.vring.process_batch(each, size=16)
        assert called == [0, 1]
    else:
        pair.vring.process(each)
        # After eight at the latest; a handler that takes long is not waited for that long.
        assert called[0] == 0
        assert 1 in called[:9]
    calls = sum(called) + pair.queue.call_count()
    # With EVENT_IDX it is told once, as long as it has not looked.
    assert calls == 1 if event_idx else calls >= 2


def test_buffers_larger_than_the_caches(pair: Pair) -> None:
    disk = bytearray(9 << 20)
    disk[-4096:] = b"z" * 4096
    made = [offer(pair, header(IN, sector), 4096) for sector in (0, (9 << 11) - 8, HUGE >> 1, 8)]

    def handler(requests: Batch) -> None:
        requests.write_from(disk, requests.field(2), unit=512)

    assert len(serve(pair, handler)) == 1
    assert read_back(pair, made[1][1]) == b"z" * 4096
    assert read_back(pair, made[3][1]) == bytes(4096)
