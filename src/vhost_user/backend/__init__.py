"""Floor 4, the back-end framework.

A device behind a trait, its vrings and workers, and the daemon that serves it.
"""

import importlib
import warnings

from vhost_user.backend.assignment import queues_from_masks
from vhost_user.backend.backchannel import BackChannelError, Backend
from vhost_user.backend.backend import (
    DEFAULT_FEATURES,
    DEFAULT_PROTOCOL_FEATURES,
    VhostUserBackend,
    VhostUserBackendMut,
)
from vhost_user.backend.buffer_queue import BufferQueue
from vhost_user.backend.config import U8, U16, U32, U64, Bytes, Config
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.device import Device
from vhost_user.backend.filters import Filter, Next
from vhost_user.backend.queues import Queue
from vhost_user.backend.refuse import Refuse
from vhost_user.engine.batch import Batch
from vhost_user.engine.errors import (
    EngineError,
    MemoryFault,
    MemoryLost,
    MemoryTableError,
    RequestError,
    RingError,
)
from vhost_user.engine.memory import Bitmap, GuestMemory, GuestMemoryAtomic, MemoryRegion
from vhost_user.engine.request import DescriptorChain, Header, Request
from vhost_user.engine.vring import Vring, VringMutex, VringRwLock
from vhost_user.engine.worker import Worker
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
    "BackChannelError",
    "Backend",
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
    "Queue",
    "Refuse",
    "Request",
    "RequestError",
    "RequestRefused",
    "RingError",
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


def __getattr__(name: str) -> object:
    """``serve``, which stood here in 0.1: it is of ``vhost_user.program`` now, above this package."""
    if name == "serve":
        warnings.warn("vhost_user.backend.serve is now vhost_user.serve", DeprecationWarning, stacklevel=2)
        return importlib.import_module("vhost_user.program").serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
