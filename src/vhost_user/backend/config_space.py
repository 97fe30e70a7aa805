"""The configuration space of a device: bytes the driver reads, and some that it may write (C128, C129)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.config import Config
from vhost_user.backend.declarations import Packed, check
from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.limited_log import LimitedLog

_GAP = 0x100
"""Where the space of a device begins in that of virtio-mmio. Front-ends on an old vhost crate add it."""
_report = LimitedLog(logging.getLogger("vhost_user.backend"))


def _without_gap(offset: int, length: int) -> int:
    """The offset that is meant: older Cloud Hypervisor reads and writes byte n at 0x100 + n."""
    if offset >= length and 0 <= offset - _GAP < length:
        _report.warning(
            "the front-end means byte %d of the configuration by %#x, as older Cloud Hypervisor does [C128]",
            offset - _GAP, offset,
        )  # fmt: skip
        return offset - _GAP
    return offset


class ConfigSpace(VhostUserBackend):
    """The part of a device that answers GET_CONFIG and SET_CONFIG out of ``config``."""

    config: bytes | bytearray | Packed | None = None
    """The configuration space: a declared struct (:class:`Config`), one of ``vhost_user.spec``, or bytes.

    Little-endian. What a read asks for beyond its end is zero: QEMU asks for every field that it knows, and a
    field that is newer than ``config`` is 0. A read that lies wholly beyond the end is refused.
    """
    config_writable: Sequence[range] = ()
    """The bytes of ``config`` that the driver may write (C129)."""

    def get_config(self, offset: int, size: int) -> bytes:
        """From ``config``, with zeroes after its end: QEMU cannot live with an error there (C128)."""
        config = self._config_bytes()
        offset = _without_gap(offset, len(config))
        if size and offset >= len(config):
            raise RequestRefused(
                f"bytes {offset} to {offset + size} lie beyond the configuration of {len(config)}",
                rule="C128",
            )
        beyond = offset + size - len(config)
        if beyond > 0:
            _report.info(
                "%s: %d bytes beyond the configuration of %d are read: they are zero [C128]",
                type(self).__name__, beyond, len(config),
            )  # fmt: skip
        return config[offset : offset + size].ljust(size, b"\0")

    def set_config(self, offset: int, data: bytes) -> None:
        """Into ``config`` as its fields or ``config_writable`` allow it (C129).

        Some front-ends write the whole space to change one field: read-only bytes may be written as they are.
        """
        if isinstance(self.config, Config):
            self._written(self.config, _without_gap(offset, len(self.config)), data, restore=False)
            return
        old = self._config_bytes()
        offset = _without_gap(offset, len(old))
        self._inside(old, offset, data)
        here = range(offset, offset + len(data))
        changed = [position for position in here if old[position] != data[position - offset]]
        allowed = [position for position in here if any(position in part for part in self.config_writable)]
        refused = sorted(set(changed) - set(allowed)) if allowed else list(here)
        if refused:
            raise RequestRefused(f"byte {refused[0]} of the configuration is read-only", rule="C129")
        self._store_config(old, offset, data)

    def restore_config(self, offset: int, data: bytes) -> None:
        """Into ``config``, read-only fields too (C129)."""
        if isinstance(self.config, Config):
            self._written(self.config, _without_gap(offset, len(self.config)), data, restore=True)
            return
        old = self._config_bytes()
        offset = _without_gap(offset, len(old))
        self._inside(old, offset, data)
        self._store_config(old, offset, data)

    def config_written(self, field: str, old: int | bytes, new: int | bytes) -> None:
        """The driver, or a migration, wrote this field of a declared ``config``."""

    def framework_state(self) -> dict[str, object]:
        """What the driver can write, and all fields of a declared ``config``."""
        if isinstance(self.config, Config):
            return {"config": self.config.field_bytes()}
        data = self._config_bytes()
        return {"config": [[part.start, data[part.start : part.stop]] for part in self.config_writable]}

    def load_framework_state(self, parts: dict[str, Any]) -> None:
        """The configuration, as after a migration.

        Fields that there are no more, or that have another size now, are passed by.
        """
        declared = isinstance(self.config, Config)
        saved = parts.get("config", {} if declared else [])
        if not isinstance(saved, dict if declared else list):
            raise RequestRefused("the state has a configuration of another kind", rule="C127")
        if isinstance(self.config, Config) and isinstance(saved, dict):
            places = {(name, size): offset for offset, size, name, _, _ in self.config.describe()}
            pieces = [
                (places[name, len(data)], data)
                for name, data in saved.items()
                if isinstance(data, bytes) and (name, len(data)) in places
            ]
        else:
            pieces = [(piece[0], piece[1]) for piece in saved if isinstance(piece, list) and len(piece) == 2]
        for offset, data in pieces:
            if not isinstance(offset, int) or not isinstance(data, bytes):
                raise RequestRefused("the configuration in the state is not made of bytes", rule="C127")
            if data:
                self.restore_config(offset, data)

    def _written(self, config: Config, offset: int, data: bytes, *, restore: bool) -> None:
        for change in config.write(offset, data, restore=restore):
            self.config_written(change.name, change.old, change.new)

    def _config_bytes(self) -> bytes:
        if self.config is None:
            return b""
        check(
            type(self), "config", self.config
        )  # it may have been set meanwhile, and bytes(7) are seven zeroes
        return self.config.pack() if isinstance(self.config, Packed) else bytes(self.config)

    def _inside(self, old: bytes, offset: int, data: bytes) -> None:
        if offset + len(data) > len(old):
            raise RequestRefused(
                f"bytes {offset} to {offset + len(data)} lie beyond the configuration of {len(old)}",
                rule="C129",
            )

    def _store_config(self, old: bytes, offset: int, data: bytes) -> None:
        new = old[:offset] + data + old[offset + len(data) :]
        if isinstance(self.config, bytearray):
            self.config[:] = new
        elif isinstance(self.config, Packed):
            self.config = type(self.config).unpack(new)  # type: ignore[attr-defined]  # see config_writable
        else:
            self.config = new
