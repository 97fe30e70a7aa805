"""Sizes and offsets of the devices' own structures, and of the rings."""

import pytest

from vhost_user.spec import (
    balloon,
    blk,
    can,
    console,
    fs,
    gpio,
    i2c,
    net,
    ring,
    rng,
    rtc,
    scmi,
    sound,
    spi,
    vsock,
)
from vhost_user.spec import input as input_device
from vhost_user.spec.record import Record

SIZES: dict[type[Record], int] = {
    balloon.BalloonConfig: 16,
    balloon.BalloonStatistic: 10,
    blk.BlkConfig: 96,
    can.CanConfig: 2,
    can.CanHeader: 16,
    can.CanControl: 2,
    console.ConsoleConfig: 12,
    console.ConsoleControl: 8,
    console.ConsoleResize: 4,
    net.NetConfig: 28,
    net.NetHeader: 12,
    fs.FsConfig: 44,
    fs.FuseInHeader: 40,
    fs.FuseOutHeader: 16,
    vsock.VsockConfig: 8,
    vsock.VsockHeader: 44,
    input_device.InputConfig: 136,
    input_device.InputDeviceIds: 8,
    input_device.InputAbsInfo: 20,
    input_device.InputEvent: 8,
    gpio.GpioConfig: 8,
    gpio.GpioRequest: 8,
    gpio.GpioResponse: 2,
    gpio.GpioIrqRequest: 2,
    i2c.I2cHeader: 8,
    rtc.RtcHead: 8,
    rtc.RtcStatusHead: 8,
    rtc.RtcClockRequest: 8,
    rtc.RtcCounterRequest: 8,
    rtc.RtcSetAlarm: 16,
    rtc.RtcEnableAlarm: 8,
    rtc.RtcConfiguration: 8,
    rtc.RtcCapability: 8,
    rtc.RtcCrossCapability: 8,
    rtc.RtcReading: 8,
    rtc.RtcAlarm: 16,
    sound.SoundConfig: 16,
    sound.SoundHeader: 4,
    sound.SoundEvent: 8,
    sound.SoundQuery: 16,
    sound.JackInfo: 24,
    sound.JackRemap: 16,
    sound.PcmHeader: 8,
    sound.PcmInfo: 32,
    sound.PcmSetParams: 24,
    sound.PcmTransfer: 4,
    sound.PcmStatus: 8,
    sound.ChannelMapInfo: 24,
    scmi.SensorDescriptor: 28,
    scmi.SensorRange: 20,
    scmi.SensorReading: 16,
    spi.SpiConfig: 32,
    spi.SpiHeader: 32,
}


@pytest.mark.parametrize(("kind", "size"), SIZES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_device_structures_have_the_sizes_of_virtio_1_4(kind: type[Record], size: int) -> None:
    assert size == kind.SIZE
    assert kind.LAYOUT.format.startswith("<")
    assert kind.unpack(bytes(size)).pack() == bytes(size)


@pytest.mark.parametrize(
    ("field", "offset", "size"),
    [
        ("capacity", 0, 8),
        ("size_max", 8, 4),
        ("seg_max", 12, 4),
        ("blk_size", 20, 4),
        ("physical_block_exp", 24, 1),
        ("opt_io_size", 28, 4),
        ("writeback", 32, 1),
        ("num_queues", 34, 2),
        ("max_discard_sectors", 36, 4),
        ("discard_sector_alignment", 44, 4),
        ("max_write_zeroes_seg", 52, 4),
        ("write_zeroes_may_unmap", 56, 1),
        ("max_secure_erase_sectors", 60, 4),
        ("zone_sectors", 72, 4),
        ("write_granularity", 88, 4),
        ("zoned_model", 92, 1),
    ],
)
def test_blk_config_fields_stand_where_the_specification_says(field: str, offset: int, size: int) -> None:
    empty = {"blk_size": 0, "num_queues": 0, "capacity": 0}
    ones = blk.BlkConfig(**{**empty, field: (1 << 8 * size) - 1})
    data = bytearray(ones.pack())
    assert data[offset : offset + size] == b"\xff" * size
    data[offset : offset + size] = bytes(size)
    assert not any(data)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (scmi.ScmiHeader(0, 0x10), 0x4000),
        (scmi.ScmiHeader(0xFF, 0xFF, 3, 0x3FF), 0x0FFF_FFFF),
        (scmi.ScmiHeader(6, 0x15, scmi.ScmiType.DELAYED_RESPONSE, 1), 0x6 | 2 << 8 | 0x15 << 10 | 1 << 18),
    ],
)
def test_scmi_headers_have_their_fields_where_scmi_says(header: scmi.ScmiHeader, word: int) -> None:
    assert header.pack() == word.to_bytes(4, "little")
    assert scmi.ScmiHeader.unpack(header.pack()) == header


def test_scmi_exponents_have_five_bits() -> None:
    assert [scmi.from_five_bits(scmi.five_bits(each)) for each in range(-16, 16)] == list(range(-16, 16))
    assert scmi.from_five_bits(0xFFFF_FFFF) == -1
    for exponent in (-17, 16):
        with pytest.raises(ValueError, match="from -16 to 15"):
            scmi.five_bits(exponent)


@pytest.mark.parametrize(("port", "queues"), [(0, (0, 1)), (1, (4, 5)), (2, (6, 7))])
def test_console_ports_have_their_queues(port: int, queues: tuple[int, int]) -> None:
    assert console.port_queues(port) == queues


@pytest.mark.parametrize(
    ("features", "queues"),
    [
        (0, {}),
        (1 << 1, {2: 2}),
        (1 << 5, {2: 4}),
        (1 << 3 | 1 << 5, {2: 3, 3: 4}),
        (1 << 1 | 1 << 5 | 1 << 4, {2: 2, 3: 4}),
        (0x3F, {2: 2, 3: 3, 4: 4}),
    ],
)
def test_queues_of_the_balloon_that_are_counted(features: int, queues: dict[int, int]) -> None:
    assert balloon.queues_without_gaps(features) == queues


def test_page_numbers_of_the_balloon_are_32_bits() -> None:
    data = balloon.pack_page_numbers([0, 1, 0xFFFFFFFF])
    assert data == bytes(4) + b"\1\0\0\0\xff\xff\xff\xff"
    assert balloon.unpack_page_numbers(data + b"\1\2\3") == (0, 1, 0xFFFFFFFF)


def test_rng_has_one_queue() -> None:
    assert rng.NUM_QUEUES == 1


@pytest.mark.parametrize("queue_size", [1, 256, 32768])
def test_V001_ring_sizes(queue_size: int) -> None:
    assert ring.descriptor_table_size(queue_size) == 16 * queue_size
    assert ring.available_ring_size(queue_size) == 6 + 2 * queue_size
    assert ring.used_ring_size(queue_size) == 6 + 8 * queue_size


def test_ring_elements_have_their_sizes() -> None:
    assert ring.DESCRIPTOR.size == ring.DESCRIPTOR_SIZE == 16
    assert ring.PACKED_DESCRIPTOR.size == ring.PACKED_DESCRIPTOR_SIZE == 16
    assert ring.USED_ELEMENT.size == ring.USED_ELEMENT_SIZE == 8
    assert ring.EVENT_SUPPRESSION.size == ring.EVENT_SUPPRESSION_SIZE == 4


@pytest.mark.parametrize("available_wrap", [False, True])
@pytest.mark.parametrize("used_wrap", [False, True])
@pytest.mark.parametrize(("available", "used"), [(0, 0), (32767, 1), (5, 32767)])
def test_C057_packed_base_keeps_both_indices_and_wraps(
    available: int, used: int, *, available_wrap: bool, used_wrap: bool
) -> None:
    num = ring.pack_base(available, available_wrap=available_wrap, used=used, used_wrap=used_wrap)
    assert ring.unpack_base(num) == (available, available_wrap, used, used_wrap)
    assert num == available | available_wrap << 15 | used << 16 | used_wrap << 31
