"""Linux's driver of SPI controllers, as sources: it came with 6.18, and is compiled for older kernels here.

It needs names that they have not, and somebody who says which chips there are: without a device tree nobody
does. So each chip select gets a device, for whichever driver a guest binds to it.
"""

from __future__ import annotations

import re
from pathlib import Path

from vhost_user.testing.guest_apt import coming_release
from vhost_user.testing.guest_errors import GuestUnavailableError
from vhost_user.testing.guest_kernel import run

SOURCES = {
    "drivers/spi/spi-virtio.c": "spi/spi-virtio.c",
    "include/uapi/linux/virtio_spi.h": "spi/linux/virtio_spi.h",
}
"""Files of Linux, and where they go."""
FOLDER = "spi"
_BOARD = """\
#include <linux/device.h>
#include <linux/slab.h>
#include <linux/spi/spi.h>
#include <linux/version.h>
#include <linux/virtio_ids.h>

#ifndef VIRTIO_ID_SPI
#define VIRTIO_ID_SPI 45
#endif
#ifndef kzalloc_obj
#define kzalloc_obj(object) kzalloc(sizeof(object), GFP_KERNEL)
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define spi_get_chipselect(spi, index) ((spi)->chip_select)
#define devm_spi_alloc_host devm_spi_alloc_master
#undef __free
static void free_at_the_end(void *place) { kfree(*(void **)place); }
#define __free(how) __attribute__((cleanup(free_at_the_end)))
#endif

static int register_with_chips(struct device *dev, struct spi_controller *controller)
{
	struct spi_board_info chip = { .modalias = "virtio-spi-chip", .max_speed_hz = 10000000 };
	int error = devm_spi_register_controller(dev, controller);

	for (; !error && chip.chip_select < controller->num_chipselect; chip.chip_select++)
		if (!spi_new_device(controller, &chip))
			dev_warn(dev, "nobody can be at chip select %d\\n", chip.chip_select);
	return error;
}
#define devm_spi_register_controller register_with_chips
"""


def prepare(built: Path) -> None:
    """Beside the sources in ``built``: what makes a module of them."""
    (built / FOLDER / "spi-board.h").write_text(_BOARD)
    (built / FOLDER / "Kbuild").write_text(
        "obj-m := spi-virtio.o\nccflags-y := -I$(src) -include $(src)/spi-board.h\n"
    )


def fetch_source(work: Path) -> Path:
    """Download the newest Linux source that Debian has; gives the archive.

    Raises GuestUnavailableError when the mirror does not answer.
    """
    lists = work / "coming"
    options = coming_release(lists)
    run(["apt-get", "-q", *options, "update"], work)
    found = re.search(
        r"Depends: (linux-source-[\d.]+)", run(["apt-cache", *options, "depends", "linux-source"], work)
    )
    if found is None:
        raise GuestUnavailableError("Debian's coming release has no package linux-source")
    run(["apt-get", "-q", *options, "download", found[1]], work)
    archive = next(work.glob(f"{found[1]}_*.deb"))
    run(["dpkg", "-x", archive.name, "source"], work)
    archive.unlink()
    return work / "source/usr/src" / f"{found[1]}.tar.xz"
