"""The numbers and names of virtio device types."""

from __future__ import annotations

from vhost_user.spec.features import DeviceId

_ALIASES = {"block": DeviceId.BLK, "9p": DeviceId.NINE_P, "snd": DeviceId.SOUND}
_NAMES = {DeviceId.NINE_P: "9p"}


def device_id(device_type: str) -> DeviceId | None:
    """The virtio id of a device type by name (``"rng"``, ``"blk"`` or ``"block"`` …), or None."""
    name = device_type.lower()
    return _ALIASES.get(name) or DeviceId.__members__.get(name.upper().replace("-", "_"))


def usual_name(device_type: str) -> str:
    """The name under which a type is described, for its aliases too: ``"blk"`` for ``"block"``."""
    identifier = device_id(device_type)
    return device_type if identifier is None else _NAMES.get(identifier, identifier.name.lower())


def capability_type(device_type: str) -> str:
    """The type's name in the back-end program conventions (C141)."""
    return "block" if device_id(device_type) is DeviceId.BLK else device_type
