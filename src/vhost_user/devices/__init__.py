"""Ready devices, one file each: use them as they are, or read them as examples of the ``Device`` class."""

from vhost_user.devices.blk import Blk
from vhost_user.devices.rng import Rng
from vhost_user.devices.storage import FileStorage, MemoryStorage, Storage, StorageError

__all__ = ["Blk", "FileStorage", "MemoryStorage", "Rng", "Storage", "StorageError"]
