"""``serve``: builds the device and runs it; every way in which that can fail has a sentence."""

from __future__ import annotations

import argparse

from vhost_user.backend import Device, VhostUserBackend
from vhost_user.cli.failure import CommandError, UsageError
from vhost_user.cli.user_device import constructed, find_function, load_device, parse_options
from vhost_user.device_types import DeviceType, OptionError
from vhost_user.program.options import ServeOptions, device_options, print_capabilities
from vhost_user.program.serving import run


def serve_described(description: DeviceType, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve a device that is described. Raises CommandError or ServeError if it cannot be served."""
    run(
        lambda: _filtered(_built(description, arguments), arguments.filter),
        options,
        name=description.name,
        description=description,
    )


def _built(description: DeviceType, arguments: argparse.Namespace) -> VhostUserBackend:
    if description.options is None:
        try:
            kind = description.load()
        except Exception as error:
            raise CommandError(
                f"{description.device} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        return constructed(kind, description.name, parse_options(arguments.option))
    try:
        device = description.build_from(device_options(description.options, arguments))
    except OptionError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    except ImportError as error:
        raise CommandError(f"{description.name} cannot be loaded: {error}") from error
    if not isinstance(device, VhostUserBackend):
        raise CommandError(
            f"the description of {description.name} builds {device!r}, which is not a device: derive its "
            "class from vhost_user.Device"
        )
    return device


def serve_own(name: str, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve ``module:Class``. Raises CommandError or ServeError if it cannot be served."""
    run(
        lambda: _filtered(load_device(name, parse_options(arguments.option)), arguments.filter),
        options,
        name=name.rpartition(":")[2],
    )


def _filtered(device: VhostUserBackend, filters: list[str]) -> VhostUserBackend:
    try:
        for each in filters:
            _add_filter(device, each)
    except CommandError:
        device.close()  # its daemon would do that, and there is none
        raise
    return device


def _add_filter(device: VhostUserBackend, name: str) -> None:
    if not isinstance(device, Device):
        raise CommandError(
            f"--filter={name}: {type(device).__name__} takes its requests from the vrings by itself; filters "
            "are for classes derived from vhost_user.Device"
        )
    try:
        device.add_filter(find_function(name))
    except CommandError as error:
        raise CommandError(f"--filter={name}: {error}", status=error.status) from error
    except TypeError as error:
        raise CommandError(f"--filter={name}: {error}") from error


def own_capabilities(name: str, pairs: list[str]) -> None:
    """Print what ``module:Class`` can do (C141)."""
    device = load_device(name, parse_options(pairs))
    if isinstance(device, Device):
        print_capabilities(device.device_type, device.capability_features)
    else:
        print_capabilities("")
