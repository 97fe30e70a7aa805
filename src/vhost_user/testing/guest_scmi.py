"""Linux's SCMI driver for a guest that has no device tree: where to find its sources, and what they need.

It is meant for Arm. All it asks of a device tree is whether there is SCMI, by which transport, and which
protocols: that is answered here, with the virtio device and the sensor protocol.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "scmi"
VERSIONS = ("6.1",)
"""Versions of Linux whose driver consists of these files."""
_PARTS = ("bus", "driver", "notify", "msg", "virtio", "base", "clock", "perf", "power", "reset", "sensors",
          "system", "voltage", "powercap")  # fmt: skip
SOURCES = {
    **{
        f"drivers/firmware/arm_scmi/{name}": f"{FOLDER}/{name}"
        for name in (*(f"{part}.c" for part in _PARTS), "common.h", "notify.h", "protocols.h")
    },
    "drivers/hwmon/scmi-hwmon.c": f"{FOLDER}/scmi-hwmon.c",
    "drivers/iio/common/scmi_sensors/scmi_iio.c": f"{FOLDER}/scmi_iio.c",
}
"""Files of Linux, and where they go."""
NEEDED = ("drivers/iio/industrialio.ko", "drivers/iio/buffer/kfifo_buf.ko")
"""Modules of the kernel itself."""
_SETTINGS = ("ARM_SCMI_PROTOCOL_MODULE", "ARM_SCMI_HAVE_TRANSPORT", "ARM_SCMI_HAVE_MSG",
             "ARM_SCMI_TRANSPORT_VIRTIO", "ARM_SCMI_TRANSPORT_VIRTIO_VERSION1_COMPLIANCE")  # fmt: skip
_BOARD = """\
#include <linux/of.h>
#include <linux/of_device.h>
#include <linux/platform_device.h>

static struct device_node sensors;

static int protocol_of(const struct device_node *node, const char *property, u32 *number)
{
	if (node != &sensors)
		return -EINVAL;
	*number = 0x15;
	return 0;
}
#define of_property_read_u32 protocol_of
#undef for_each_available_child_of_node
#define for_each_available_child_of_node(parent, child) for (child = &sensors; child; child = NULL)
#define of_device_get_match_data(dev) (&scmi_virtio_desc)

static int register_with_device(struct platform_driver *driver)
{
	int error = platform_driver_register(driver);

	if (!error)
		platform_device_register_simple("arm-scmi", PLATFORM_DEVID_NONE, NULL, 0);
	return error;
}
#undef platform_driver_register
#define platform_driver_register register_with_device
"""


def prepare(built: Path) -> None:
    """Beside the sources in ``built``: what makes modules of them."""
    folder = built / FOLDER
    (folder / "scmi-board.h").write_text(_BOARD)
    settings = " ".join(f"-DCONFIG_{name}=1" for name in _SETTINGS)
    (folder / "Kbuild").write_text(
        "obj-m := scmi-module.o scmi-hwmon.o scmi_iio.o\n"
        f"scmi-module-objs := {' '.join(f'{part}.o' for part in _PARTS)}\n"
        f"ccflags-y := {settings}\n"
        "CFLAGS_driver.o := -include $(src)/scmi-board.h\n"
    )
