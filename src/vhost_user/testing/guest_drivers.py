"""A guest kernel with drivers that Debian does not build: those of gpio, i2c, spi, scmi and sound.

`python3 -m vhost_user.testing.guest_drivers` makes it (as any user; it needs no root): Debian's general
kernel, whose packages are unpacked into the cache folder, and these modules compiled out of Debian's source
of it, that of spi out of a newer one. It takes `gcc` and `make`. The cache folder is that of
``vhost_user.testing.guest_kernel``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from vhost_user.testing import guest_scmi, guest_spi
from vhost_user.testing.guest_errors import GuestUnavailableError
from vhost_user.testing.guest_kernel import (
    GuestKernel,
    cache_folder,
    image_package,
    machine_is_known,
    newest,
    run,
    uncompressed,
)

PACKAGE = "linux-image-amd64"
FETCH_COMMAND = "python3 -m vhost_user.testing.guest_drivers"
SOURCES = {
    "drivers/gpio/gpio-virtio.c": "gpio-virtio.c",
    "drivers/i2c/busses/i2c-virtio.c": "i2c-virtio.c",
    "sound/virtio": "sound",
}
"""Files and folders of Linux, and where they go."""
SOUND = "CONFIG_SND_VIRTIO := m\ninclude $(src)/Makefile\n"
"""What makes Linux's own Makefile build the module."""
KEPT = ("crypto", "drivers/char", "drivers/gpio", "drivers/hwmon", "drivers/i2c", "drivers/input",
        "drivers/leds", "drivers/virtio", "lib", "sound/core")  # fmt: skip
"""Folders of modules that are kept: all of them would be 400 MB."""
KEPT_FILES = (*guest_scmi.NEEDED, "sound/soundcore.ko")
"""The same, single ones."""
_PREFIX = "drivers-"


def locate_driver_kernel(cache: Path | None = None, *, module: str = "i2c-virtio") -> GuestKernel:
    """The newest such kernel in the cache, for ``Guest(kernel=…)``; it has ``module``.

    Raises GuestUnavailableError when there is none; the message says which command makes one.
    """
    cache = cache or cache_folder()
    kernel = newest(cache, _PREFIX)
    if kernel is None or not (kernel.modules / "kernel" / f"{module}.ko").exists():
        raise GuestUnavailableError(
            f"no guest kernel with the driver {module} in {cache}. Make one (390 MB of packages, which are "
            f"not kept, and two minutes): {FETCH_COMMAND}"
        )
    return kernel


def make_driver_kernel(
    cache: Path | None = None, *, progress: Callable[[str], object] = lambda _step: None
) -> GuestKernel:
    """Fetch and compile it. Raises GuestUnavailableError when something that it takes is missing.

    ``progress`` is told each step before it begins.
    """
    cache = cache or cache_folder()
    machine_is_known()
    image = image_package(PACKAGE)
    release = image.removeprefix("linux-image-")
    version = ".".join(release.split(".")[:2])
    headers, common = f"linux-headers-{release}", f"linux-headers-{release.removesuffix('-amd64')}-common"
    source = f"linux-source-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        work = Path(name)
        packages = [image, headers, common, f"linux-kbuild-{version}", source]
        # As root, apt-get would drop to a user of its own that cannot write here, and warn about it.
        progress("1 of 5: fetching the kernel, its headers and its source, 220 MB")
        run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages], work)
        progress("2 of 5: unpacking them")
        for archive in work.glob("*.deb"):
            run(["dpkg", "-x", archive.name, "unpacked"], work)
            archive.unlink()
        root = work / "unpacked"
        built = work / "built"
        progress("3 of 5: finding the drivers in the source, and in a newer one (170 MB) what this one lacks")
        has_scmi = version in guest_scmi.VERSIONS
        _take(
            root / "usr/src" / f"{source}.tar.xz",
            {**SOURCES, **(guest_scmi.SOURCES if has_scmi else {})},
            built,
        )
        _take(guest_spi.fetch_source(work), guest_spi.SOURCES, built)
        guest_spi.prepare(built)
        if has_scmi:
            guest_scmi.prepare(built)
        (built / "sound" / "Kbuild").write_text(SOUND)
        progress("4 of 5: compiling them")
        _compile(root / "usr/src", headers, common, built)
        progress("5 of 5: keeping what a guest needs")
        kernel = work / f"{_PREFIX}{release}"
        modules = root / "lib/modules" / release
        for folder in KEPT:
            shutil.copytree(modules / "kernel" / folder, kernel / "modules/kernel" / folder)
        for module in [modules / "kernel" / name for name in KEPT_FILES] + [*built.rglob("*.ko")]:
            shutil.copy(module, kernel / "modules/kernel" / module.name)
        shutil.copy(modules / "modules.builtin", kernel / "modules")
        image_file = root / "boot" / f"vmlinuz-{release}"
        (kernel / "vmlinux").write_bytes(uncompressed(image_file.read_bytes()))
        final = cache / kernel.name
        if final.exists():
            shutil.rmtree(final)
        kernel.rename(final)
    return GuestKernel(release, final / "vmlinux", final / "modules")


def _take(source: Path, files: Mapping[str, str], built: Path) -> None:
    """Files of an archive, and what is in its folders, each to its place in ``built``."""
    top = source.name.removesuffix(".tar.xz")
    places = {f"{top}/{name}": built / place for name, place in files.items()}
    missing = set(places)
    with tarfile.open(source) as tar:
        for member in tar:
            missing.discard(member.name)
            folder, _, name = member.name.rpartition("/")
            place = places.get(member.name) or (places[folder] / name if folder in places else None)
            if place is not None and member.isfile() and (content := tar.extractfile(member)) is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content.read())
    if missing:
        raise GuestUnavailableError(f"{source.name} has no {', '.join(sorted(missing))}")


def _compile(headers_folder: Path, headers: str, common: str, built: Path) -> None:
    modules = [f"{path.stem}.o" for path in built.glob("*.c")]
    folders = [f"{path.parent.name}/" for path in built.glob("*/Kbuild")]
    (built / "Kbuild").write_text(f"obj-m := {' '.join(sorted(modules + folders))}\n")
    # Debian's names the folder it would be installed in.
    (headers_folder / headers / "Makefile").write_text(f"include {headers_folder / common}/Makefile\n")
    command = ["make", "-C", str(headers_folder / headers), f"M={built}", "modules"]
    try:
        done = subprocess.run(
            command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise GuestUnavailableError("make is missing; as root, run: apt-get install make gcc") from error
    if done.returncode:
        raise GuestUnavailableError(f"the drivers cannot be compiled:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Make the kernel; return the exit status."""
    try:
        kernel = make_driver_kernel(progress=lambda step: print(f"    {step}", flush=True))  # noqa: T201
    except GuestUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"guest kernel {kernel.release} with its drivers is in {kernel.image.parent}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
