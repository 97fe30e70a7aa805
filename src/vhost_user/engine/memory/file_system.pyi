from typing import NamedTuple

LOCAL: frozenset[str]

class FileStatus(NamedTuple):
    mode: int
    device: int
    inode: int
    size: int
    block_size: int

def status(fd: int) -> FileStatus: ...
def type_of(fd: int) -> str | None: ...
def is_local(fd: int) -> bool: ...
def close_foreign(fd: int) -> None: ...
