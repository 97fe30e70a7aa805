"""Old names of the fast paths, which were called accelerators: each with a DeprecationWarning."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from vhost_user.engine.blk.fast_path import BlockFastPath, MemoryFastPath
from vhost_user.engine.blk.file_fast_path import FileFastPath
from vhost_user.engine.device.fast_path import FastPath

_NOW = {
    "Accelerator": FastPath,
    "BlockAccelerator": BlockFastPath,
    "MemoryBlock": MemoryFastPath,
    "FileBlock": FileFastPath,
}

if TYPE_CHECKING:
    Accelerator = FastPath
    BlockAccelerator = BlockFastPath
    MemoryBlock = MemoryFastPath
    FileBlock = FileFastPath
else:

    def __getattr__(name: str) -> type:
        if name not in _NOW:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(f"{name} is now called {_NOW[name].__name__}", DeprecationWarning, stacklevel=2)
        return _NOW[name]
