"""``serve``: builds the device and runs it; every way in which that can fail has a sentence."""

from __future__ import annotations

import argparse

from vhost_user.backend import Device, VhostUserBackend
from vhost_user.backend.program_log import log_to_stderr
from vhost_user.backend.serve import ServeOptions, print_capabilities, run
from vhost_user.cli.builtin import BuiltinDevice
from vhost_user.cli.failure import CommandError
from vhost_user.cli.user_device import find_function, load_device, parse_options


def serve_builtin(builtin: BuiltinDevice, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve a device that the command knows. Raises CommandError or ServeError if it cannot be served."""
    log_to_stderr(verbose=options.verbose, trace=options.trace)
    try:
        device = builtin.build(arguments)
    except ValueError as error:
        raise CommandError(str(error)) from error
    _run(device, arguments.filter, options, builtin.name)


def serve_own(name: str, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve ``module:Class``. Raises CommandError or ServeError if it cannot be served."""
    log_to_stderr(verbose=options.verbose, trace=options.trace)
    device = load_device(name, parse_options(arguments.option))
    _run(device, arguments.filter, options, name.rpartition(":")[2])


def _run(device: VhostUserBackend, filters: list[str], options: ServeOptions, name: str) -> None:
    try:
        for each in filters:
            _add_filter(device, each)
    except CommandError:
        device.close()  # its daemon would do that, and there is none
        raise
    run(device, options, name=name)


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
