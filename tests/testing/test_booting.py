"""Devices under test in a guest: which QEMU device each becomes."""

from pathlib import Path

import pytest

from vhost_user import Device, Request
from vhost_user.bench.devices import Memory
from vhost_user.testing.booting import BootGuest, qemu_device
from vhost_user.testing.virtio import Virtio


class Throw(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(b"\x04" * request.writable)


def test_devices_become_what_qemu_calls_them() -> None:
    class Tree(Device, type="fs"):
        queues = 2

    disk = qemu_device(Memory(1 << 20, 4), "s")
    assert (disk.driver, disk.queues, disk.properties["packed"]) == (
        "vhost-user-blk-pci",
        4,
        True,
    )
    small = type("Small", (Memory,), {"queue_size": 64})(1 << 20)
    assert qemu_device(small, "s").properties["queue-size"] == "64", (
        "the back-end would refuse QEMU's usual ring"
    )
    assert qemu_device(Throw(), "s").driver == "vhost-user-rng-pci"
    tree = qemu_device(Tree(), "s")
    assert (tree.driver, tree.properties, tree.modules) == (
        "vhost-user-fs-pci",
        {"tag": "myfs", "queue-size": "1024"},
        ("virtiofs",),
    )


def test_what_needs_more_than_a_device_argument_is_refused() -> None:
    class Card(Device, type="net"):
        queues = 2

    with pytest.raises(ValueError, match="Card is not attached by one -device argument"):
        qemu_device(Card(), "s")


def test_a_socket_alone_does_not_say_what_device_it_is(tmp_path: Path) -> None:
    virtio = Virtio()
    boot = BootGuest(virtio, tmp_path)
    try:
        with pytest.raises(TypeError, match=r"give VhostUserDevice"):
            boot(virtio.connect(tmp_path / "s"))
    finally:
        boot.close()
        assert virtio.close() == []


@pytest.mark.guest
def test_a_guest_reads_from_a_device_of_this_process(virtio_guest: BootGuest) -> None:
    guest = virtio_guest(Throw())
    assert guest.run("head -c 4 /dev/hwrng | od -An -tx1").split() == ["04"] * 4
