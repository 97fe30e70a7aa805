"""Sizes, layouts and padding of header and payloads against the table of the specification."""

import struct
import uuid

import pytest

from vhost_user.spec import inflight
from vhost_user.spec.record import Record
from vhost_user.spec.structs import (
    MAX_PAYLOAD_SIZE,
    U64,
    Config,
    CryptoSession,
    Empty,
    Header,
    Inflight,
    Iotlb,
    Log,
    Memory,
    MemoryRegion,
    MemorySlot,
    Payload,
    SharedUuid,
    ShmemConfig,
    ShmemMap,
    TransferReply,
    TransferState,
    VringAddress,
    VringArea,
    VringFd,
    VringState,
    XenMemory,
    XenMemoryRegion,
    XenMemorySlot,
)

FULL = ((1 << 64) - 1,) * 4
REGION = MemoryRegion(0x1000, 0x2000, 0x7F0000000000, 0x4000)
XEN_REGION = XenMemoryRegion(0x1000, 0x2000, 0x7F0000000000, 0x4000, 0x100, 7)

SIZES: dict[type[Record], int] = {
    Header: 12,
    Empty: 0,
    U64: 8,
    VringState: 8,
    VringFd: 8,
    VringAddress: 40,
    MemoryRegion: 32,
    XenMemoryRegion: 40,
    Memory: 8,
    MemorySlot: 40,
    XenMemorySlot: 48,
    Log: 16,
    Iotlb: 32,
    Config: 12,
    VringArea: 24,
    Inflight: 24,
    SharedUuid: 16,
    TransferState: 8,
    TransferReply: 8,
    ShmemMap: 40,
    ShmemConfig: 2056,
    CryptoSession: 16,
}

SAMPLES: list[Record] = [
    Header(1, 0x9, 8),
    Empty(),
    U64(1 << 63),
    VringState(3, 0xFFFFFFFF),
    VringFd.of(255, no_fd=True),
    VringAddress(1, 1, 2, 3, 4, 5),
    REGION,
    XEN_REGION,
    Memory((REGION, MemoryRegion(0, 1, 2))),
    XenMemory((XEN_REGION,)),
    Memory(()),
    MemorySlot(REGION),
    XenMemorySlot(XEN_REGION),
    Log(1, 2),
    Iotlb(1, 2, 3, 3, 4),
    Config(4, b"abc", 1),
    VringArea(0x101, 2, 3),
    Inflight(1, 2, 3, 4),
    SharedUuid.of(uuid.UUID(int=5)),
    TransferState(1, 0),
    TransferReply(0x101),
    ShmemMap(1, 2, 3, 4, 1),
    ShmemConfig.of({0: 4096, 255: 8192}),
    CryptoSession(1, b"body", -1),
]


@pytest.mark.parametrize(("kind", "size"), SIZES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_C001_sizes_are_those_of_the_specification(kind: type[Record], size: int) -> None:
    assert size == kind.SIZE


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_what_is_packed_unpacks_to_the_same(value: Record) -> None:
    data = value.pack()
    again = type(value).unpack(data)
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("change", [-1, 1])
def test_C008_another_size_is_refused(value: Record, change: int) -> None:
    data = (value.pack() + b"\0")[: len(value.pack()) + change]
    if isinstance(value, CryptoSession) or (change < 0 and isinstance(value, Empty)):
        return  # any size fits the one, no size is below that of the other
    if isinstance(value, Payload) and not isinstance(value, Config):
        assert not value.fits(len(data))
    with pytest.raises(ValueError, match=r"bytes|follow"):
        type(value).unpack(data)


def test_C001_header_has_no_padding_and_is_native_endian() -> None:
    assert Header(1, 2, 3).pack() == struct.pack("@I", 1) + struct.pack("@I", 2) + struct.pack("@I", 3)


def test_vring_address_order_is_descriptor_used_available() -> None:
    data = VringAddress(7, 1, descriptor=0x10, used=0x20, available=0x30, log=0x40).pack()
    assert struct.unpack("=IIQQQQ", data) == (7, 1, 0x10, 0x20, 0x30, 0x40)


@pytest.mark.parametrize(
    ("payload", "ranges"),
    [
        (Memory((MemoryRegion(*FULL),)), [(4, 8)]),
        (MemorySlot(MemoryRegion(*FULL)), [(0, 8)]),
        (XenMemorySlot(XenMemoryRegion(*FULL, *(0xFFFFFFFF, 0xFFFFFFFF))), [(0, 8)]),
        (Iotlb((1 << 64) - 1, (1 << 64) - 1, (1 << 64) - 1, 255, 255), [(26, 32)]),
        (Inflight((1 << 64) - 1, (1 << 64) - 1, 0xFFFF, 0xFFFF), [(20, 24)]),
        (ShmemMap(255, *FULL), [(1, 8)]),
        (ShmemConfig(0xFFFFFFFF, ((1 << 64) - 1,) * 256), [(4, 8)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_H81_padding_is_zero_and_the_rest_is_not(payload: Payload, ranges: list[tuple[int, int]]) -> None:
    data = bytearray(payload.pack())
    for start, end in ranges:
        assert data[start:end] == bytes(end - start)
        data[start:end] = b"\xff" * (end - start)
    if isinstance(payload, Memory):
        data[0:4] = b"\xff" * 4
    assert data == b"\xff" * len(data)


@pytest.mark.parametrize("kind", [Memory, XenMemory])
@pytest.mark.parametrize("claimed", [2, 3, 9, 0xFFFFFFFF])
def test_H30_nregions_may_not_pass_the_size(kind: type[Memory], claimed: int) -> None:
    data = struct.pack("=I4x", claimed) + bytes(kind.REGION.SIZE)
    with pytest.raises(ValueError, match="nregions"):
        kind.unpack(data)


@pytest.mark.parametrize("kind", [Memory, XenMemory])
@pytest.mark.parametrize("claimed", [0, 1])
def test_C008_room_for_a_region_that_does_not_count_is_no_fault(kind: type[Memory], claimed: int) -> None:
    # User-mode Linux sends a structure of two regions whether it has two or one.
    first, second = bytes(kind.REGION.SIZE), b"\xff" * kind.REGION.SIZE
    memory = kind.unpack(struct.pack("=I4x", claimed) + first + second)
    assert memory.regions == (kind.REGION.unpack(first),) * claimed


@pytest.mark.parametrize("claimed", [0, 3, 5, 0xFFFFFFFF])
def test_C128_config_size_must_agree_with_its_data(claimed: int) -> None:
    with pytest.raises(ValueError, match="size field"):
        Config.unpack(struct.pack("=III", 0, claimed, 0) + b"abcd")


def test_C007_config_and_crypto_session_end_at_the_limit() -> None:
    for kind in (Config, CryptoSession):
        assert kind.fits(MAX_PAYLOAD_SIZE)
        assert not kind.fits(MAX_PAYLOAD_SIZE + 1)
        assert not kind.fits(kind.SIZE - 1)


def test_C021_uuid_starts_big_endian() -> None:
    text = "00112233-4455-6677-8899-aabbccddeeff"
    payload = SharedUuid.of(uuid.UUID(text))
    assert payload.pack() == bytes.fromhex(text.replace("-", ""))
    assert str(SharedUuid.unpack(payload.pack()).uuid) == text
    assert text in payload.describe()


def test_vring_fd_takes_index_and_bit_8_apart() -> None:
    assert (VringFd(0x1FF).index, VringFd(0x1FF).no_fd) == (255, True)
    assert (VringFd.of(3).value, VringFd.of(3).no_fd, VringFd.of(3).queue) == (3, False, 3)
    assert (VringArea(0x102).index, VringArea(0x102).no_fd, VringArea(0x102).queue) == (2, True, 2)


def test_H05_the_queue_of_a_payload_is_not_cut() -> None:
    assert VringState(0x10001, 0).queue == 0x10001
    assert VringAddress(0x10001, 0, 0, 0, 0).queue == 0x10001
    assert U64(3).queue is None


@pytest.mark.parametrize(
    "value",
    [
        U64(-1),
        U64(1 << 64),
        VringState(1 << 32),
        Config(-1, b""),
        CryptoSession(-1, b""),
        ShmemConfig(0, (1,)),
        SharedUuid(3),  # type: ignore[arg-type]  # that is the mistake
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_that_does_not_fit_is_a_value_error_naming_the_struct(value: Payload) -> None:
    with pytest.raises(ValueError, match=type(value).__name__):
        value.pack()


def test_sizes_in_words() -> None:
    assert [kind.size_text() for kind in (U64, Memory, XenMemory, Config, CryptoSession)] == [
        "8",
        "8+n*32",
        "8+n*40",
        "12+n",
        "16+n",
    ]


def test_descriptions_are_short_and_hide_keys() -> None:
    assert Config(0, bytes(range(20))).describe().startswith("offset=0 data=20 bytes 00 01")
    assert "secret" not in CryptoSession(1, b"secret").describe()
    assert VringFd(0x300 | 1 << 8).describe() == "index=0 no-fd reserved=0x1"
    assert ShmemConfig.of({2: 0x1000}).describe() == "nregions=1 sizes={2: 0x1000}"
    assert Log(0x100000).describe() == "mmap_size=0x100000 mmap_offset=0"


def test_transfer_reply_bits() -> None:
    assert (TransferReply(0).failed, TransferReply(0).no_fd) == (False, False)
    assert (TransferReply(0x101).failed, TransferReply(0x101).no_fd) == (True, True)
    assert (TransferReply().failed, TransferReply().no_fd) == (False, True)


def test_C106_inflight_layouts_have_the_sizes_of_the_c_structs() -> None:
    assert inflight.SPLIT_HEADER.size == inflight.SPLIT_HEADER_SIZE == 16
    assert inflight.SPLIT_DESCRIPTOR.size == inflight.SPLIT_DESCRIPTOR_SIZE == 16
    assert inflight.PACKED_HEADER.size == inflight.PACKED_HEADER_SIZE == 32
    assert inflight.PACKED_DESCRIPTOR.size == inflight.PACKED_DESCRIPTOR_SIZE == 32


@pytest.mark.parametrize(
    ("queue_size", "split", "packed"), [(1, 64, 64), (3, 64, 128), (4, 128, 192), (128, 2112, 4160)]
)
def test_C106_inflight_regions_are_aligned_to_64(queue_size: int, split: int, packed: int) -> None:
    assert inflight.region_size(queue_size, packed=False) == split
    assert inflight.region_size(queue_size, packed=True) == packed


def test_C008_H06_a_crypto_session_has_room_for_its_ids() -> None:
    with pytest.raises(ValueError, match=r"16\+n bytes, not 15"):
        CryptoSession.unpack(bytes(15))
    with pytest.raises(ValueError, match=r"12\+n bytes, not 11"):
        Config.unpack(bytes(11))
    assert CryptoSession.unpack(bytes(16)) == CryptoSession(0, b"", 0)
