"""A disk behind QEMU's IOMMU in a real guest, which maps and unmaps for each request (C088 to C092)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import COMMAND
from vhost_user.testing.guest import Guest, VhostUserBlk
from vhost_user.testing.guest_backend import BackendProcess

pytestmark = pytest.mark.guest

# ATS exists behind a root port only: without it QEMU tells the device of nothing that was unmapped.
IOMMU = ("-device", "intel-iommu,intremap=on,device-iotlb=on", "-device", "pcie-root-port,id=iommu-port")
BEHIND_IT: dict[str, str | int | bool] = {"iommu_platform": True, "ats": True, "bus": "iommu-port"}


class GuestWithIommu(Guest):
    """QEMU takes an IOMMU only before the devices behind it."""

    def _arguments(self, *given: Any) -> list[str]:
        arguments = super()._arguments(*given)
        place = arguments.index("-chardev")
        return [*arguments[:place], *IOMMU, *arguments[place:]]


@pytest.mark.parametrize("strict", [0, 1], ids=["flushed now and then", "strict"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_C088_a_file_system_behind_an_iommu(
    image: Path,
    tmp_path: Path,
    watched: Callable[[BackendProcess], BackendProcess],
    packed: bool,
    strict: int,
) -> None:
    socket = tmp_path / "blk.sock"
    command: list[str | Path] = [COMMAND, "serve", "blk", "--iommu", f"--socket-path={socket}"]
    command.append(f"--blk-file={image}")
    watched(BackendProcess(command, socket, tmp_path / "backend.log", announcement="listening"))
    disk = VhostUserBlk(socket, packed=packed, properties=BEHIND_IT)
    with GuestWithIommu(
        devices=[disk], kernel_arguments=f"intel_iommu=on iommu.strict={strict}", folder=tmp_path / "guest"
    ) as guest:
        assert guest.run("ls /sys/class/iommu").strip() == "dmar0"
        features = guest.run("cat /sys/block/vda/device/features")
        assert features[33] == "1"
        assert features[34] == str(int(packed))
        guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
        guest.run("dd if=/dev/urandom of=/mnt/file bs=64k count=64 2>/dev/null")
        checksum = guest.run("sha256sum /mnt/file")
        guest.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount /dev/vda /mnt")
        assert guest.run("sha256sum /mnt/file") == checksum
        guest.run("umount /mnt && e2fsck -f -n /dev/vda", timeout=120)
        guest.shutdown()
