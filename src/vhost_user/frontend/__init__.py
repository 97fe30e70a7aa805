"""The VMM's side.

A typed front-end for every message, and an in-process virtio driver with drivers for devices.
"""

from vhost_user.engine.driver.memory import DriverMemory, DriverRegion
from vhost_user.engine.driver.packed import PackedDriverQueue
from vhost_user.engine.driver.queue import DriverQueue
from vhost_user.engine.driver.split import SplitDriverQueue
from vhost_user.engine.errors import DeviceBroken, QueueFull
from vhost_user.frontend.back_channel import BackChannel, BackChannelHandler
from vhost_user.frontend.driver import DEFAULT_PROTOCOL_FEATURES, VirtioDriver
from vhost_user.frontend.drivers.balloon import BalloonDriver
from vhost_user.frontend.drivers.blk import BlockDriver
from vhost_user.frontend.drivers.can import CanDriver
from vhost_user.frontend.drivers.console import ConsoleDriver
from vhost_user.frontend.drivers.fs import FsDriver
from vhost_user.frontend.drivers.gpio import GpioDriver
from vhost_user.frontend.drivers.i2c import I2cDriver
from vhost_user.frontend.drivers.input import InputDriver
from vhost_user.frontend.drivers.net import NetDriver
from vhost_user.frontend.drivers.rng import RngDriver
from vhost_user.frontend.drivers.rtc import RtcDriver
from vhost_user.frontend.drivers.scmi import ScmiDriver
from vhost_user.frontend.drivers.sound import SoundDriver
from vhost_user.frontend.drivers.spi import SpiDriver
from vhost_user.frontend.drivers.vsock import VsockDriver
from vhost_user.frontend.errors import DeviceError, FrontendError
from vhost_user.frontend.frontend import Frontend
from vhost_user.frontend.inflight import Inflight
from vhost_user.frontend.pending import Pending
from vhost_user.frontend.queue import Queue
from vhost_user.protocol.errors import Disconnected, PeerTimeout, ProtocolError, RequestRefused
from vhost_user.protocol.requester import Quirk

__all__ = [
    "DEFAULT_PROTOCOL_FEATURES",
    "BackChannel",
    "BackChannelHandler",
    "BalloonDriver",
    "BlockDriver",
    "CanDriver",
    "ConsoleDriver",
    "DeviceBroken",
    "DeviceError",
    "Disconnected",
    "DriverMemory",
    "DriverQueue",
    "DriverRegion",
    "Frontend",
    "FrontendError",
    "FsDriver",
    "GpioDriver",
    "I2cDriver",
    "Inflight",
    "InputDriver",
    "NetDriver",
    "PackedDriverQueue",
    "PeerTimeout",
    "Pending",
    "ProtocolError",
    "Queue",
    "QueueFull",
    "Quirk",
    "RequestRefused",
    "RngDriver",
    "RtcDriver",
    "ScmiDriver",
    "SoundDriver",
    "SpiDriver",
    "SplitDriverQueue",
    "VirtioDriver",
    "VsockDriver",
]
