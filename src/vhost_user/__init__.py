"""Write a virtio device in Python and plug it into any VMM.

This package re-exports the names most programs need and holds nothing else; docs/design.md says where
everything lives. Nothing is loaded before a name is used: the pytest plugin and the front-end pass through
here too, and have no use for the back-end.
"""

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhost_user.backend import (
        U8,
        U16,
        U32,
        U64,
        BackChannel,
        BackChannelError,
        Batch,
        Bitmap,
        BufferQueue,
        Bytes,
        Config,
        DescriptorChain,
        Device,
        Filter,
        GuestMemory,
        GuestMemoryAtomic,
        Header,
        Listener,
        MemoryFault,
        MemoryLost,
        MemoryRegion,
        Next,
        Queue,
        Refuse,
        Request,
        RequestError,
        RequestRefused,
        RingError,
        ServedBy,
        SharedMapping,
        SharedMemory,
        SharedObjects,
        SocketError,
        TransferDirection,
        TransferPhase,
        VhostUserBackend,
        VhostUserBackendMut,
        VhostUserDaemon,
        VhostUserError,
        Vring,
        VringMutex,
        VringRwLock,
        Worker,
        queues_from_masks,
    )
    from vhost_user.program import serve

    Backend = BackChannel

__all__ = [
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
    "Filter",
    "GuestMemory",
    "GuestMemoryAtomic",
    "Header",
    "Listener",
    "MemoryFault",
    "MemoryLost",
    "MemoryRegion",
    "Next",
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
    "serve",
]

if not TYPE_CHECKING:  # a checker would take any name at all for one of this module

    def __getattr__(name: str) -> object:
        if name == "Backend":  # what BackChannel was called
            warnings.warn("Backend is now called BackChannel", DeprecationWarning, stacklevel=2)
            return __getattr__("BackChannel")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "serve":
            from vhost_user.program import serve as value  # noqa: PLC0415  # see above
        else:
            from vhost_user import backend  # noqa: PLC0415  # see above

            value = getattr(backend, name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
