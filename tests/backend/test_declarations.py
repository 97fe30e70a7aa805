"""What a device declares is looked at where it is said: the text names class, attribute and fix."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import pytest

from vhost_user import Device, Header, Request, VhostUserBackendMut, VhostUserDaemon
from vhost_user.program.guest_lines import qemu_lines
from vhost_user.spec.blk import BlkConfig
from vhost_user.spec.features import DeviceId

WRONG = [
    ("queues", "2", TypeError, "queues is '2': give a whole number, queues=2, without quotes"),
    ("queues", 0, ValueError, "queues is 0: a device has 1 to 256 queues"),
    ("queues", True, TypeError, "queues is True"),
    ("queue_size", 100, ValueError, "queue_size is 100: it must be a power of two"),
    ("queue_size", "256", TypeError, "queue_size=256, without quotes"),
    ("device_features", 1 << 64, ValueError, "device_features"),
    ("device_features", None, TypeError, "device_features is None"),
    ("extra_protocol_features", -1, ValueError, "extra_protocol_features"),
    ("workers", 0, ValueError, "workers is 0: at least one"),
    ("workers", "2", TypeError, "workers=2, without quotes"),
    ("workers", ["all"], TypeError, "an element of workers is 'all'"),
    ("packed", "no", TypeError, "packed is 'no': it is True or False"),
    ("in_order", 3, TypeError, "in_order is 3"),
    ("batch_size", 65, ValueError, "batch_size 65 is outside of 1 … 64"),
    ("header", 16, TypeError, "header is 16: give a format"),
    ("header", "<HZ", ValueError, "header '<HZ'"),
    ("header", "HQ", ValueError, "has 10 bytes here.*but 16 in the struct module.*write '<HQ' for 10"),
    ("header", "BH", ValueError, "has 3 bytes here"),
    ("config", {"columns": 80}, TypeError, r"config is {'columns': 80}: give the bytes.*struct\.pack"),
    ("config", 7, TypeError, "config is 7: give the bytes"),
    ("config", "text", TypeError, "config is 'text'"),
    ("config", [1, 2], TypeError, "config is"),
    ("config", BlkConfig, TypeError, r"config is the class BlkConfig: give an object of it, BlkConfig\("),
    ("config_writable", range(2), TypeError, r"config_writable is range.*\(range\(0, 2\),\)"),
    ("config_writable", [3], TypeError, "config_writable is .*give ranges"),
    ("capability_features", "read-only", TypeError, r"\['read-only'\]"),
    ("capability_features", [1], TypeError, "give a list of words"),
]


class Fine(Device, type="rng"):
    def handle(self, request: Request) -> None: ...


@pytest.mark.parametrize(("name", "value", "kind", "words"), WRONG)
def test_what_makes_no_sense_is_refused_in_the_class_statement_and_in_its_body(
    name: str, value: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=f"class Wrong: .*{words}"):
        type("Wrong", (Fine,), {}, **{name: value})
    with pytest.raises(kind, match=f"class Wrong: .*{words}"):
        type("Wrong", (Fine,), {name: value})


@pytest.mark.parametrize(("name", "value", "kind", "words"), WRONG)
def test_what_is_set_on_the_device_is_refused_when_its_daemon_is_made(
    name: str, value: Any, kind: type[Exception], words: str
) -> None:
    device = Fine()
    setattr(device, name, value)
    with pytest.raises(kind, match=f"class Fine: .*{words}"):
        VhostUserDaemon("test", device).close()


def test_C128_a_configuration_that_is_no_longer_bytes_is_named_when_it_is_read() -> None:
    device = Fine()
    device.config = 7  # type: ignore[assignment]
    with pytest.raises(TypeError, match="config is 7: give the bytes"):
        device.get_config(0, 4)


def test_what_makes_sense_is_taken() -> None:
    @dataclass
    class Wide(Fine):
        queues: int = field(default=3)
        config: bytes = b"1234"

    class Computed(Fine, header="IIQ", workers=[1, [1, 2]], device_features=1 << 63, packed=False):
        @property
        def queue_size(self) -> int:  # type: ignore[override]
            return 128

    for device in (Wide(), Computed(), type("Made", (Fine,), {"header": Header("<HQ")})()):
        device.queues = 3
        VhostUserDaemon("test", device).close()
    assert struct.calcsize("IIQ") == Header("IIQ").size


@pytest.mark.parametrize(
    ("declared", "name", "line"),
    [
        (36, "can", "virtio-id=36,"),
        (DeviceId.CAN, "can", "virtio-id=36,"),
        (2, "blk", "vhost-user-blk-pci"),
        ("4", "rng", "vhost-user-rng-pci"),
        (9, "9p", "virtio-id=9,"),
        (60, "60", "virtio-id=60,"),
    ],
)
def test_a_type_may_be_a_virtio_id(declared: Any, name: str, line: str) -> None:
    kinds: list[Any] = [
        type("Kind", (Fine,), {}, type=declared),
        type("Kind", (Fine,), {"device_type": declared}),
    ]
    for kind in kinds:
        assert kind.device_type == name
        assert line in qemu_lines(kind(), "/tmp/s", version=(11, 0))[-1]


@pytest.mark.parametrize("declared", [["rng"], 4.0, True, 0, 1 << 20])
def test_a_type_that_is_none_is_refused_in_words(declared: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="class Wrong: type is"):
        type("Wrong", (Fine,), {}, type=declared)


def test_a_class_without_init_takes_no_arguments() -> None:
    class Mut(VhostUserBackendMut): ...

    for kind in (Fine, Mut):
        with pytest.raises(TypeError, match="takes no arguments, and was given 7, sides: it has no __init__"):
            kind(7, sides=20)

    class Sided(Fine):
        def __init__(self, sides: int) -> None:
            self.sides = sides

    class Derived(Sided): ...

    assert Derived(20).sides == 20
