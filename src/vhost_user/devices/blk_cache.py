"""The cache mode of a disk: when a write must be on stable storage (virtio 1.4, 5.2.5.2 and 5.2.6.2).

Write-back means that a write may stay in the host's cache until the driver flushes; write-through that it is
on stable storage before it completes. Taking a write-through disk for a write-back one loses data in a power
cut, the other way round costs time. So a disk is write-back only while it is known that the driver takes it
for one.

A driver says in ``writeback`` what it wants and reads there what it has, but mostly it speaks to a copy that
the front-end keeps. QEMU reads ours once, when its device is made, and sends only what differs from its copy;
after a reconnect it sends nothing, after a reset of the guest neither. What the driver believes is therefore
known

- from what it wrote, as long as this process lives;
- from what the front-end read, unless the guest had been running before that: then it came here by a
  migration, and its driver looked at another back-end;
- not at all in a session that began without the front-end reading it, where no session of this process was
  before it: the back-end was started again under a running guest.
"""

from __future__ import annotations

import threading

from vhost_user.protocol.errors import RequestRefused
from vhost_user.spec.blk import BlkConfig, BlkFeature

_OFFSET = BlkConfig.WRITEBACK_OFFSET
_NUMBERS = {"_chosen": (None, 0, 1), "_believed": (None, 0, 1)}
_FLAGS = ("_read", "_written", "_ran", "_deaf")
"""What is carried from one process to another, and which values it can have."""


class CacheMode:
    """What features and configuration make of a disk. ``config`` is its configuration space.

    Its ``writeback`` is kept up to date. Hold ``lock`` for every call: rings begin in the threads of workers.
    """

    def __init__(self, config: bytearray) -> None:
        self.lock = threading.Lock()
        self._config = config
        self._features: int | None = None
        self._chosen: int | None = None
        """What the driver wrote; None if it never did."""
        self._believed: int | None = None
        """What the driver takes ``writeback`` for; None if that is not known."""
        self._begin_session()

    def _begin_session(self) -> None:
        self._read = False
        """The front-end has read ``writeback`` in this session."""
        self._written = False
        self._ran = False
        """Rings ran in this session."""
        self._deaf = False
        """What the front-end reads from now on does not reach the driver."""

    @property
    def write_through(self) -> bool:
        """Whether a write must be on stable storage before it completes.

        A driver without FLUSH can never make it so itself, whatever ``writeback`` says (the copy of the
        front-end may say 1).
        """
        features = self._features or 0
        if not features & BlkFeature.FLUSH:
            return True
        return bool(features & BlkFeature.CONFIG_WCE) and not (self._config[_OFFSET] and self._believed)

    @property
    def doubtful(self) -> bool:
        """Whether a driver that was there before is denied write-back for want of knowledge."""
        wanted = BlkFeature.FLUSH | BlkFeature.CONFIG_WCE
        return self._deaf and self._believed is None and ((self._features or 0) & wanted) == wanted

    def negotiated(self, features: int) -> None:
        """The driver acknowledged these features: without FLUSH ``writeback`` begins with 0."""
        self._features = features
        self._show()

    def _show(self) -> None:
        if self._chosen is not None:
            self._config[_OFFSET] = self._chosen
        else:
            self._config[_OFFSET] = int(self._features is None or bool(self._features & BlkFeature.FLUSH))

    def read(self, offset: int, size: int) -> None:
        """The front-end is about to read these bytes of the configuration space."""
        if not offset <= _OFFSET < offset + size:
            return
        if not (self._read or self._written or self._ran):
            # The first thing it asks: it has just been made, and its guest knows nothing yet.
            self._chosen = None
            self._show()
        self._read = True
        if not self._deaf:
            self._believed = self._config[_OFFSET]

    def check(self, offset: int, data: bytes) -> None:
        """Raise RequestRefused if these bytes give ``writeback`` a value that it cannot have (C129)."""
        if offset <= _OFFSET < offset + len(data) and data[_OFFSET - offset] > 1:
            raise RequestRefused(
                f"writeback is 1 (write-back) or 0 (write-through), not {data[_OFFSET - offset]}", rule="C129"
            )

    def written(self) -> None:
        """The driver wrote ``writeback``, or a migration brought it along: it stands in ``config``."""
        self._chosen = self._believed = self._config[_OFFSET]
        self._written = True

    def runs(self, *, began_before: bool) -> None:
        """A ring begins to run. ``began_before``: it had been in use before this session."""
        if began_before and not self._written:
            self._deaf = True
            if self._read:
                # A new front-end with an old guest: a migration.
                self._believed = None
        self._ran = True

    def config_changed(self) -> None:
        """The front-end is told of another change: of what it reads then it may take over nothing else."""
        if self._ran:
            self._deaf = True

    def reset(self) -> None:
        """The device is reset: ``writeback`` stays, as it does in the front-end's copy."""
        self._features = None
        self._show()

    def session_ended(self) -> None:
        """The front-end is gone; it may come back, without a word about ``writeback``."""
        self._begin_session()

    def knowledge(self) -> dict[str, object]:
        """All of it as plain data, for ``learn`` of another process."""
        return {name: getattr(self, name) for name in (*_NUMBERS, *_FLAGS)}

    def learn(self, known: object) -> None:
        """Take over what another process knew. ValueError for what none can have known."""
        if not isinstance(known, dict):
            raise ValueError(f"the cache mode is told by a map, not by {known!r}")  # noqa: TRY004
        values = {name: known.get(name) for name in (*_NUMBERS, *_FLAGS)}
        if any(values[name] not in _NUMBERS[name] for name in _NUMBERS) or any(
            not isinstance(values[name], bool) for name in _FLAGS
        ):
            raise ValueError(f"{known!r} is not what can be known of a cache mode")
        for name, value in values.items():
            setattr(self, name, value)
        self._show()
