"""What there is to know of a device type without its code: names, options, what a VMM and a test need of it.

A device type is described once, by a ``DeviceType``. Ours stand in ``vhost_user/devices/NAME_type.py``,
those of other packages are found by entry points of the group ``vhost_user.devices``; see ``registry``.
"""

from vhost_user.device_types.description import DeviceType, HarmlessRequest, QemuDevice
from vhost_user.device_types.errors import BrokenDeviceTypeError, OptionError, UnknownDeviceTypeError
from vhost_user.device_types.options import option
from vhost_user.device_types.registry import Found, everything, find, names

__all__ = [
    "BrokenDeviceTypeError",
    "DeviceType",
    "Found",
    "HarmlessRequest",
    "OptionError",
    "QemuDevice",
    "UnknownDeviceTypeError",
    "everything",
    "find",
    "names",
    "option",
]
