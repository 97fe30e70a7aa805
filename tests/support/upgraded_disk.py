"""A disk of a real guest whose back-end is upgraded under verified load."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.upgraded_program import UpgradedProgram
from tests.support.verified_load import Counts, VerifiedLoad
from vhost_user.testing.guest import Guest, VhostUserBlk

CODE = """\
from vhost_user.devices import Blk

class Disk(Blk):
    def __init__(self, image: str, fast_path: bool = True) -> None:
        super().__init__(image, num_queues=2, identity=b"version {version}", fast_path=fast_path)
"""
SIZE = 64 << 20
PAUSE = re.compile(r"the rings rested for ([0-9.]+) ms")


class UpgradedDisk(UpgradedProgram):
    """``disk.py:Disk`` on an image of 64 MiB, in a guest that writes, reads and compares all the time."""

    code_of_the_device = CODE

    def __init__(self, folder: Path, *, packed: bool = False, fast_path: bool = True) -> None:
        self.image = folder / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        super().__init__(folder, f"--option=image={self.image}", f"--option=fast_path={fast_path}")
        self.guest = Guest(
            devices=[VhostUserBlk(self.socket, num_queues=2, packed=packed)], files=VerifiedLoad.files()
        )
        self.load = VerifiedLoad(self.guest)
        self.version = 1

    @property
    def device(self) -> str:
        return f"{self.code}:Disk"

    def next_version(self) -> None:
        """Upgrade to the next version of the code, and see that the guest has it while the load goes on."""
        self.version += 1
        self.write(self.version)
        self.upgrade()
        assert self.guest.run("cat /sys/block/vda/serial").strip() == f"version {self.version}"
        self.load.progress(5)

    def finish(self) -> Counts:
        """End the load: every byte is compared, in the guest and in the image."""
        counts = self.load.finish(self.image)
        self.guest.shutdown()
        return counts

    def pauses(self) -> list[float]:
        """Milliseconds that the rings rested, of each upgrade."""
        return [float(found) for found in PAUSE.findall(self.said)]

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.guest.__enter__()
            self.load.start()
        except BaseException:
            super().__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.guest.__exit__(kind, error, trace)
        finally:
            super().__exit__(kind, error, trace)
