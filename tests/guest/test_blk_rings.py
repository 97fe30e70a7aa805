"""Disks with rings of every size under requests larger than the ring, and a disk that comes and goes."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhost_user import Listener, VhostUserDaemon
from vhost_user.devices import Blk
from vhost_user.testing.guest import Guest, GuestError, VhostUserBlk

pytestmark = pytest.mark.guest

SIZES = (4, 8, 16, 64, 128, 256, 1024)
MEBIBYTE = 1 << 20
CAPACITY = 8 * MEBIBYTE
"""Half of it is read, and written again in the other half."""


def disks(folder: Path, stack: ExitStack, count: int) -> list[tuple[Path, Path]]:
    """Serve so many disks, each with a pattern of its own in its first half; sockets and images."""
    made = []
    for number in range(count):
        image, path = folder / f"image{number}", folder / f"disk{number}"
        image.write_bytes(random.Random(number).randbytes(CAPACITY // 2) + bytes(CAPACITY // 2))
        daemon = stack.enter_context(VhostUserDaemon(path.name, Blk(image)))
        listener = stack.enter_context(Listener.bind(path))
        stack.callback(daemon.close)  # before the listener, which it uses
        daemon.start(listener)
        made.append((path, image))
    return made


def test_V031_linux_reads_and_writes_a_mebibyte_at_once_whatever_the_size_of_the_ring(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        served = disks(tmp_path, stack, 2 * len(SIZES))
        devices = [
            VhostUserBlk(path, queue_size=SIZES[number // 2], packed=bool(number % 2))
            for number, (path, _) in enumerate(served)
        ]
        with Guest(devices=devices, cpus=1) as guest:
            count = CAPACITY // 2 // MEBIBYTE
            for number, device in enumerate(devices):
                name = f"/dev/vd{chr(ord('a') + number)}"
                packed = guest.run(f"cat /sys/block/{name[5:]}/device/features")[34]
                assert packed == str(int(device.properties.get("packed", False)))
                copy = guest.start(
                    f"dd if={name} of=/copy bs=1M count={count} iflag=direct\n"
                    f"dd if=/copy of={name} bs=1M seek={count} count={count} oflag=direct conv=notrunc"
                ).wait(20)
                assert copy.status == 0, f"{device}: {copy.output}"
            guest.shutdown()
        for number, (_, image) in enumerate(served):
            content = random.Random(number).randbytes(CAPACITY // 2)
            assert image.read_bytes() == 2 * content, f"{devices[number]}: the copy differs"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C037_a_disk_is_plugged_and_unplugged_ten_times_on_one_connection(
    tmp_path: Path, packed: bool
) -> None:
    with ExitStack() as stack:
        ((path, image),) = disks(tmp_path, stack, 1)
        port = ["-device", "pcie-root-port,id=slot1,slot=1", "-chardev", f"socket,id=disk,path={path}"]
        with Guest(qemu_arguments=port, modules=["virtio_blk"]) as guest:
            for plug in range(10):
                plug_in(guest, packed=packed)
                guest.run(
                    "for n in $(seq 200); do [ -e /dev/vda ] && break; sleep 0.05; done\n"
                    f"echo plug {plug} >/text\n"
                    f"dd if=/text of=/dev/vda bs=512 count=1 seek={plug} conv=sync,notrunc oflag=direct\n"
                    "dd if=/dev/vda of=/dev/null bs=1M iflag=direct count=2",
                    timeout=30,
                )
                guest.qmp("device_del", id="vdisk")
                guest.run(
                    "for n in $(seq 400); do [ -e /dev/vda ] || exit 0; sleep 0.05; done; exit 1", timeout=30
                )
            guest.shutdown()
        content = image.read_bytes()
        assert [content[512 * plug :][:7] for plug in range(10)] == [
            b"plug %d\n" % plug for plug in range(10)
        ]


def plug_in(guest: Guest, *, packed: bool) -> None:
    """Plug the disk in. QEMU frees name and chardev of the one before some time after the guest let it go."""
    end = time.monotonic() + 20
    while True:
        try:
            guest.qmp(
                "device_add",
                driver="vhost-user-blk-pci",
                id="vdisk",
                chardev="disk",
                bus="slot1",
                **{"num-queues": 1, "packed": packed},
            )
        except GuestError as error:
            if time.monotonic() > end or not ("is in use" in str(error) or "Duplicate" in str(error)):
                raise
            time.sleep(0.05)
        else:
            return
