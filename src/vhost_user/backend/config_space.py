"""The configuration space of a device: bytes the driver reads, and some that it may write (C128, C129)."""

from __future__ import annotations

from collections.abc import Sequence

from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.config import Config
from vhost_user.backend.declarations import Packed, check
from vhost_user.protocol.errors import RequestRefused


class ConfigSpace(VhostUserBackend):
    """The part of a device that answers GET_CONFIG and SET_CONFIG out of ``config``."""

    config: bytes | bytearray | Packed | None = None
    """The configuration space: a declared struct (:class:`Config`), one of ``vhost_user.spec``, or bytes.

    Little-endian. Reads beyond its end give zeroes.
    """
    config_writable: Sequence[range] = ()
    """The bytes of ``config`` that the driver may write (C129)."""

    def get_config(self, offset: int, size: int) -> bytes:
        """From ``config``, with zeroes after its end: some front-ends cannot live with an error here."""
        return self._config_bytes()[offset : offset + size].ljust(size, b"\0")

    def set_config(self, offset: int, data: bytes) -> None:
        """Into ``config`` as its fields or ``config_writable`` allow it (C129).

        Some front-ends write the whole space to change one field: read-only bytes may be written as they are.
        """
        if isinstance(self.config, Config):
            self._written(self.config, offset, data, restore=False)
            return
        old = self._config_bytes()
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
            self._written(self.config, offset, data, restore=True)
            return
        old = self._config_bytes()
        self._inside(old, offset, data)
        self._store_config(old, offset, data)

    def config_written(self, field: str, old: int | bytes, new: int | bytes) -> None:
        """The driver, or a migration, wrote this field of a declared ``config``."""

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
