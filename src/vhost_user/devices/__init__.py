"""Ready devices, one file each: use them as they are, or read them as examples of the ``Device`` class.

Beside each stands its description, ``NAME_type.py``, which is read without the device: nothing is loaded
here before a name is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.devices.balloon import Balloon
    from vhost_user.devices.balloon_stats import Statistics
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
    from vhost_user.devices.input import Input
    from vhost_user.devices.input_evdev import EvdevSource, UinputCopy
    from vhost_user.devices.input_model import Keyboard, Pointer, Tablet
    from vhost_user.devices.input_recording import InputRecording, Recorder, Replay
    from vhost_user.devices.input_source import InputDescription, InputSource
    from vhost_user.devices.input_touch import Touch
    from vhost_user.devices.rng import Rng
    from vhost_user.devices.rtc import Rtc
    from vhost_user.devices.rtc_clock import Clock
    from vhost_user.devices.scmi import Scmi
    from vhost_user.devices.scmi_sensor import Sensor
    from vhost_user.devices.sound import Sound
    from vhost_user.devices.sound_ends import Playback, Recording, Sink, Source, Tone
    from vhost_user.devices.sound_format import PcmFormat
    from vhost_user.devices.sound_jack import Jack
    from vhost_user.devices.spi import Spi
    from vhost_user.devices.spi_chip import SpiModel, Transfer
    from vhost_user.devices.spi_flash import Flash
    from vhost_user.devices.storage import FileStorage, MemoryStorage, Storage, StorageError
    from vhost_user.devices.vsock import Vsock
    from vhost_user.devices.vsock_routes import Stream

__all__ = [
    "Balloon",
    "Blk",
    "Can",
    "CanBus",
    "CanFrame",
    "Clock",
    "Console",
    "Eeprom",
    "End",
    "EvdevSource",
    "FileStorage",
    "Flash",
    "Gpio",
    "I2c",
    "I2cModel",
    "Input",
    "InputDescription",
    "InputRecording",
    "InputSource",
    "Jack",
    "Keyboard",
    "Line",
    "MemoryStorage",
    "ModelBus",
    "PcmFormat",
    "Playback",
    "Pointer",
    "Port",
    "Recorder",
    "Recording",
    "Register",
    "Replay",
    "Rng",
    "Rtc",
    "Scmi",
    "Sensor",
    "Sink",
    "Sound",
    "Source",
    "Spi",
    "SpiModel",
    "Statistics",
    "Storage",
    "StorageError",
    "Stream",
    "Tablet",
    "Tone",
    "Touch",
    "Transfer",
    "UinputCopy",
    "Vsock",
]

if not TYPE_CHECKING:  # a checker would take any name at all for one of this module
    _PLACES = {
        "Balloon": "balloon",
        "Blk": "blk",
        "Can": "can",
        "CanBus": "can_bus",
        "CanFrame": "can_bus",
        "Clock": "rtc_clock",
        "Console": "console",
        "Eeprom": "i2c_model",
        "End": "console_ends",
        "EvdevSource": "input_evdev",
        "Flash": "spi_flash",
        "Gpio": "gpio",
        "I2c": "i2c",
        "I2cModel": "i2c_model",
        "Input": "input",
        "InputDescription": "input_source",
        "InputRecording": "input_recording",
        "InputSource": "input_source",
        "Jack": "sound_jack",
        "Keyboard": "input_model",
        "Line": "gpio_line",
        "ModelBus": "can_bus",
        "PcmFormat": "sound_format",
        "Playback": "sound_ends",
        "Pointer": "input_model",
        "Port": "console_port",
        "Recorder": "input_recording",
        "Recording": "sound_ends",
        "Register": "i2c_model",
        "Replay": "input_recording",
        "Rng": "rng",
        "Rtc": "rtc",
        "Scmi": "scmi",
        "Sensor": "scmi_sensor",
        "Sink": "sound_ends",
        "Sound": "sound",
        "Source": "sound_ends",
        "Spi": "spi",
        "SpiModel": "spi_chip",
        "Statistics": "balloon_stats",
        "Stream": "vsock_routes",
        "Tablet": "input_model",
        "Tone": "sound_ends",
        "Touch": "input_touch",
        "Transfer": "spi_chip",
        "UinputCopy": "input_evdev",
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
