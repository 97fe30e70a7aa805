"""The back-end framework.

A device behind a trait, its vrings and workers, and the daemon that serves it.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

from vhost_user.backend.assignment import queues_from_masks
from vhost_user.backend.backchannel import BackChannel, BackChannelError
from vhost_user.backend.backend import (
    DEFAULT_FEATURES,
    DEFAULT_PROTOCOL_FEATURES,
    ServedBy,
    VhostUserBackend,
    VhostUserBackendMut,
)
from vhost_user.backend.buffer_queue import BufferQueue
from vhost_user.backend.config import U8, U16, U32, U64, Bytes, Config
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.device import Device
from vhost_user.backend.filters import Filter, Next
from vhost_user.backend.queues import Queue
from vhost_user.backend.refuse import NotYet, Refuse
from vhost_user.backend.shared_memory import SharedMapping, SharedMemory
from vhost_user.backend.shared_objects import SharedObjects
from vhost_user.engine.device.batch import Batch
from vhost_user.engine.device.header import Header
from vhost_user.engine.device.request import DescriptorChain, Request
from vhost_user.engine.device.vring import Vring, VringMutex, VringRwLock
from vhost_user.engine.device.worker import Worker
from vhost_user.engine.errors import (
    EngineError,
    MemoryFault,
    MemoryLost,
    MemoryTableError,
    RequestError,
    RingError,
)
from vhost_user.engine.memory.atomic import GuestMemoryAtomic
from vhost_user.engine.memory.dirty_log import Bitmap
from vhost_user.engine.memory.guest_memory import GuestMemory
from vhost_user.engine.memory.region import MemoryRegion
from vhost_user.protocol.errors import RequestRefused, SocketError, VhostUserError
from vhost_user.protocol.listener import Listener
from vhost_user.spec.structs import TransferDirection, TransferPhase

__all__ = [
    "DEFAULT_FEATURES",
    "DEFAULT_PROTOCOL_FEATURES",
    "U8",
    "U16",
    "U32",
    "U64",
    "BackChannel",
    "BackChannelError",
    "Batch",
    "Bitmap",
    "BufferQueue",
    "Bytes",
    "Config",
    "DescriptorChain",
    "Device",
    "EngineError",
    "Filter",
    "GuestMemory",
    "GuestMemoryAtomic",
    "Header",
    "Listener",
    "MemoryFault",
    "MemoryLost",
    "MemoryRegion",
    "MemoryTableError",
    "Next",
    "NotYet",
    "Queue",
    "Refuse",
    "Request",
    "RequestError",
    "RequestRefused",
    "RingError",
    "ServedBy",
    "SharedMapping",
    "SharedMemory",
    "SharedObjects",
    "SocketError",
    "TransferDirection",
    "TransferPhase",
    "VhostUserBackend",
    "VhostUserBackendMut",
    "VhostUserDaemon",
    "VhostUserError",
    "Vring",
    "VringMutex",
    "VringRwLock",
    "Worker",
    "queues_from_masks",
]

if TYPE_CHECKING:
    Backend = BackChannel
else:

    def __getattr__(name: str) -> object:
        """Former names. ``serve`` is of ``vhost_user.program`` now, above; ``Backend`` is BackChannel."""
        if name == "serve":
            text = "vhost_user.backend.serve is now vhost_user.serve"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return importlib.import_module("vhost_user.program").serve
        if name == "Backend":
            warnings.warn("Backend is now called BackChannel", DeprecationWarning, stacklevel=2)
            return BackChannel
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
