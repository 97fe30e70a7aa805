"""Finds device types: ours by the names of files, those of other packages by entry points.

    # pyproject.toml of another package
    [project.entry-points."vhost_user.devices"]
    thermometer = "thermometer:DEVICE_TYPE"

The entry point leads to a ``DeviceType``, or to the class of a device, of which the description is then made:
its docstring is the title, the arguments of its constructor are the options. Nothing is imported before it is
asked for by name or all are; what cannot be imported is named, and all others are there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from vhost_user.device_types.described_only import DESCRIBED_ONLY
from vhost_user.device_types.description import DeviceType
from vhost_user.device_types.errors import BrokenDeviceTypeError, UnknownDeviceTypeError
from vhost_user.device_types.identity import usual_name

GROUP = "vhost_user.devices"
"""The group of entry points that other packages give their devices in."""
ATTRIBUTE = "DEVICE_TYPE"
"""The name that a description has in a ``NAME_type.py`` of ours."""
_PACKAGE = "vhost_user.devices"
_SUFFIX = "_type"


@dataclass(frozen=True)
class Found:
    """Everything that ``everything`` found."""

    types: tuple[DeviceType, ...]
    broken: tuple[BrokenDeviceTypeError, ...]
    """What there should be and cannot be used."""


def _ours() -> list[str]:
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    modules = pkgutil.iter_modules(list(folders or ()))
    return sorted(module.name.removesuffix(_SUFFIX) for module in modules if module.name.endswith(_SUFFIX))


def _others() -> Iterator[metadata.EntryPoint]:
    yield from sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)


def names() -> list[str]:
    """The names of all device types that can be served: ours, then those of other packages.

    Imports none of them; one that turns out to be broken is among them.
    """
    ours = _ours()
    return [*ours, *dict.fromkeys(entry.name for entry in _others() if entry.name not in ours)]


def find(name: str) -> DeviceType:
    """The description of the device type ``name`` (``"block"`` is ``"blk"``).

    Raises UnknownDeviceTypeError, or BrokenDeviceTypeError for one that is there and cannot be used.
    """
    found = _find(name) or _find(usual_name(name))
    if found is None:
        raise UnknownDeviceTypeError(f"there is no device {name!r}: there are {', '.join(names())}")
    return found


def _find(name: str) -> DeviceType | None:
    if (found := _of_ours(name)) is not None:
        return found
    for entry in _others():
        if entry.name.replace("-", "_") == name.replace("-", "_"):  # main_my_device has no hyphens
            return _load(entry)
    return None


def _of_ours(name: str) -> DeviceType | None:
    if name.isidentifier() and importlib.util.find_spec(f"{_PACKAGE}.{name}{_SUFFIX}") is not None:
        return _import(name)
    return None


def described_by_us() -> Iterator[DeviceType]:
    """All types that this package describes, with a device or without."""
    for name in _ours():
        with contextlib.suppress(BrokenDeviceTypeError):
            yield _import(name)
    yield from DESCRIBED_ONLY.values()


def described(device_type: str) -> DeviceType | None:
    """The description of a type by the name that its devices declare, also if no device of it is here.

    None for a type that is not known, or whose description cannot be used.
    """
    try:
        if device_type.isdecimal():
            found = _numbered(int(device_type))
        else:
            found = _find(usual_name(device_type)) if device_type else None
    except BrokenDeviceTypeError:
        found = None
    return found or DESCRIBED_ONLY.get(usual_name(device_type))


def _numbered(virtio_id: int) -> DeviceType | None:
    """The type of another package whose number the specification has no name for."""
    for entry in _others():
        with contextlib.suppress(BrokenDeviceTypeError):
            if (found := _load(entry)).number == virtio_id:
                return found
    return None


def everything() -> Found:
    """All device types that can be served, and what is wrong with those that cannot."""
    types: dict[str, DeviceType] = {}
    broken = []
    for name in _ours():
        try:
            types[name] = _import(name)
        except BrokenDeviceTypeError as error:
            broken.append(error)
    for entry in _others():
        if entry.name in types:
            taken = f"there is a device {entry.name!r} already; choose another name"
            broken.append(BrokenDeviceTypeError(f"{_origin(entry)} is left out: {taken}"))
            continue
        try:
            types[entry.name] = _load(entry)
        except BrokenDeviceTypeError as error:
            broken.append(error)
    return Found(tuple(types.values()), tuple(broken))


def _import(name: str) -> DeviceType:
    module = f"{_PACKAGE}.{name}{_SUFFIX}"
    try:
        found = getattr(importlib.import_module(module), ATTRIBUTE)
    except Exception as error:
        raise BrokenDeviceTypeError(
            f"the description of {name} in {module} is broken: {type(error).__name__}: {error}"
        ) from error
    return _checked(found, name, module)


def _origin(entry: metadata.EntryPoint) -> str:
    package = f" of package {entry.dist.name}" if entry.dist is not None else ""
    return f"entry point {entry.name} = {entry.value!r}{package}"


def _load(entry: metadata.EntryPoint) -> DeviceType:
    origin = _origin(entry)
    try:
        found = entry.load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise BrokenDeviceTypeError(f"{origin} cannot be loaded: {type(error).__name__}: {error}") from error
    if isinstance(found, type) and isinstance(getattr(found, "device_type", None), str):
        return _from_class(entry, found)
    return _checked(found, entry.name, origin)


def _checked(found: Any, name: str, origin: str) -> DeviceType:
    if not isinstance(found, DeviceType):
        raise BrokenDeviceTypeError(
            f"{origin} leads to {found!r}: give a DeviceType, or a class derived from vhost_user.Device"
        )
    if found.name != name:
        raise BrokenDeviceTypeError(f"{origin} describes {found.name!r}: give both the same name")
    return found


def _from_class(entry: metadata.EntryPoint, kind: type[Any]) -> DeviceType:
    """The description of a class that brings none: what is known of its virtio type, and its own words."""
    title = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".") or kind.__name__
    own_type = str(kind.device_type)
    # Not by entry points: this one may have the name of its type, or two may name each other.
    known = _of_ours(usual_name(own_type)) or DESCRIBED_ONLY.get(usual_name(own_type))
    base = known or DeviceType(name=own_type, title=title)
    return replace(
        base,
        name=entry.name,
        title=title,
        virtio_id=base.number if not own_type.isdecimal() else int(own_type),
        device=f"{entry.module}:{entry.attr}",
        options=None,
        build=None,
        features=tuple(getattr(kind, "capability_features", ())),
        capability=base.capability_type,
        examples=(),
        notes="",
        queues=kind.queues if isinstance(getattr(kind, "queues", None), int) else base.queues,
        resembles=None,
    )
