"""``serve``: builds the device and runs it; every way in which that can fail has a sentence."""

from __future__ import annotations

import argparse
import logging

from vhost_user.backend import Device
from vhost_user.backend.serve import ServeOptions, print_capabilities, run
from vhost_user.cli.builtin import BuiltinDevice
from vhost_user.cli.failure import CommandError
from vhost_user.cli.user_device import load_device, parse_options


def serve_builtin(builtin: BuiltinDevice, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve a device that the command knows. Raises CommandError or ServeError if it cannot be served."""
    _log_to_stderr(arguments)
    try:
        device = builtin.build(arguments)
    except ValueError as error:
        raise CommandError(str(error)) from error
    run(device, options, name=builtin.name)


def serve_own(name: str, arguments: argparse.Namespace, options: ServeOptions) -> None:
    """Serve ``module:Class``. Raises CommandError or ServeError if it cannot be served."""
    _log_to_stderr(arguments)
    device = load_device(name, parse_options(arguments.option))
    run(device, options, name=name.rpartition(":")[2])


def own_capabilities(name: str, pairs: list[str]) -> None:
    """Print what ``module:Class`` can do (C141)."""
    device = load_device(name, parse_options(pairs))
    if isinstance(device, Device):
        print_capabilities(device.device_type, device.capability_features)
    else:
        print_capabilities("")


def _log_to_stderr(arguments: argparse.Namespace) -> None:
    level = logging.DEBUG if arguments.trace else logging.INFO if arguments.verbose else logging.WARNING
    pattern = "%(asctime)s " if arguments.trace else ""
    logging.basicConfig(format=pattern + "%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("vhost_user").setLevel(level)
