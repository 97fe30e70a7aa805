"""Ready devices, one file each: use them as they are, or read them as examples of the ``Device`` class.

Beside each stands its description, ``NAME_type.py``, which is read without the device: nothing is loaded
here before a name is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.devices.blk import Blk
    from vhost_user.devices.can import Can
    from vhost_user.devices.can_bus import CanBus, CanFrame, ModelBus
    from vhost_user.devices.console import Console
    from vhost_user.devices.console_ends import End
    from vhost_user.devices.console_port import Port
    from vhost_user.devices.gpio import Gpio
    from vhost_user.devices.gpio_line import Line
    from vhost_user.devices.i2c import I2c
    from vhost_user.devices.i2c_model import Eeprom, I2cModel, Register
    from vhost_user.devices.rng import Rng
    from vhost_user.devices.rtc import Rtc
    from vhost_user.devices.rtc_clock import Clock
    from vhost_user.devices.scmi import Scmi
    from vhost_user.devices.scmi_sensor import Sensor
    from vhost_user.devices.spi import Spi
    from vhost_user.devices.spi_chip import SpiModel, Transfer
    from vhost_user.devices.spi_flash import Flash
    from vhost_user.devices.storage import FileStorage, MemoryStorage, Storage, StorageError
    from vhost_user.devices.vsock import Vsock
    from vhost_user.devices.vsock_routes import Stream

__all__ = [
    "Blk",
    "Can",
    "CanBus",
    "CanFrame",
    "Clock",
    "Console",
    "Eeprom",
    "End",
    "FileStorage",
    "Flash",
    "Gpio",
    "I2c",
    "I2cModel",
    "Line",
    "MemoryStorage",
    "ModelBus",
    "Port",
    "Register",
    "Rng",
    "Rtc",
    "Scmi",
    "Sensor",
    "Spi",
    "SpiModel",
    "Storage",
    "StorageError",
    "Stream",
    "Transfer",
    "Vsock",
]

if not TYPE_CHECKING:  # a checker would take any name at all for one of this module
    _PLACES = {
        "Blk": "blk",
        "Can": "can",
        "CanBus": "can_bus",
        "CanFrame": "can_bus",
        "Clock": "rtc_clock",
        "Console": "console",
        "End": "console_ends",
        "Flash": "spi_flash",
        "Gpio": "gpio",
        "Eeprom": "i2c_model",
        "I2c": "i2c",
        "I2cModel": "i2c_model",
        "Line": "gpio_line",
        "ModelBus": "can_bus",
        "Port": "console_port",
        "Register": "i2c_model",
        "Rng": "rng",
        "Rtc": "rtc",
        "Scmi": "scmi",
        "Sensor": "scmi_sensor",
        "Spi": "spi",
        "SpiModel": "spi_chip",
        "Stream": "vsock_routes",
        "Transfer": "spi_chip",
        "Vsock": "vsock",
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_PLACES.get(name, 'storage')}")
        globals()[name] = value = getattr(module, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
