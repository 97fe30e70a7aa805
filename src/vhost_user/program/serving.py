"""``serve``: a program around a device, by the back-end program conventions (C140 to C146)."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from vhost_user.backend import ownership
from vhost_user.backend.backend import VhostUserBackend
from vhost_user.backend.daemon import VhostUserDaemon
from vhost_user.backend.device import Device
from vhost_user.backend.handover import UpgradeError
from vhost_user.backend.session_serving import SEND_TIMEOUT
from vhost_user.backend.signals import stopped_by
from vhost_user.device_types.description import DeviceType
from vhost_user.device_types.qemu import NoQemuDeviceError
from vhost_user.program.confine import Confine, Opened, unconfined
from vhost_user.program.control.commands import Commands
from vhost_user.program.control.server import ControlServer, serve_commands
from vhost_user.program.control.standard import add_of_device, add_standard
from vhost_user.program.descriptor_limit import allow_descriptors
from vhost_user.program.errors import ServeError
from vhost_user.program.guest_lines import qemu_lines
from vhost_user.program.hangup import refreshing
from vhost_user.program.log import log_to_stderr
from vhost_user.program.notification import in_a_line, notifier
from vhost_user.program.options import (
    ServeOptions,
    ShowVersion,
    add_serve_arguments,
    capabilities_asked,
    print_capabilities,
    serve_options,
)
from vhost_user.program.upgrade.asking import upgrading
from vhost_user.program.upgrade.predecessor import Predecessor
from vhost_user.program.upgrade.successor import Upgrades, own_command
from vhost_user.program.upgrade.waiting import FirstProcess
from vhost_user.protocol.errors import SocketError
from vhost_user.protocol.listener import Listener, connect, from_fd
from vhost_user.protocol.trace import Tracer, json_trace
from vhost_user.protocol.transport import Connection

log = logging.getLogger("vhost_user.program")

DESCRIPTION = """\
Serve this virtio device over vhost-user. A VMM (QEMU, cloud-hypervisor, crosvm …) connects to the socket and
plugs the device into its guest; the guest's memory must be shared. SIGTERM and SIGINT end the program.
"""
EPILOG = """\
examples:
  %(prog)s --socket-path=/tmp/device.sock    listen; prints the QEMU lines to paste
  %(prog)s --connect=/tmp/vmm.sock           connect to a VMM that listens
  %(prog)s --fd=3                            use a socket that the parent process opened
"""
SWITCH_INTERVAL = 50e-6
"""Seconds after which a busy Python thread gives way.

With the 5 ms of the interpreter's own choice a device's thread that computes delays every wake-up of a worker
by as much.
"""


def serve(
    device: VhostUserBackend,
    argv: Sequence[str] | None = None,
    *,
    confine: Confine = unconfined,
    commands: Commands | None = None,
) -> None:
    """Be the program of this device: read the command line, serve until SIGTERM or SIGINT.

    ``argv`` are the arguments after the program's name; ``confine`` is called when everything is open and
    before any thread runs, see :mod:`vhost_user.program.confine`; ``commands`` are more commands of the
    control socket (docs/control-socket.md). Raises SystemExit with status 1 and a message when the device
    cannot be served, with 2 when the command line is wrong.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    device_type = device.device_type if isinstance(device, Device) else ""
    if capabilities_asked(argv):
        print_capabilities(device_type, device.capability_features if isinstance(device, Device) else ())
        return
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action=ShowVersion,
        nargs=0,
        const="vhost-user",
        help="show the version of vhost-user and end",
    )
    add_serve_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        options = serve_options(arguments)
    except ServeError as error:
        parser.error(str(error))
    try:
        run(device, options, confine=confine, commands=commands)
    except ServeError as error:
        sys.exit(f"{parser.prog}: {error}")


def run(
    device: VhostUserBackend | Callable[[], VhostUserBackend],
    options: ServeOptions,
    *,
    name: str = "",
    description: DeviceType | None = None,
    confine: Confine = unconfined,
    commands: Commands | None = None,
) -> None:
    """Serve as ``options`` say until SIGTERM or SIGINT, or until the only front-end has gone.

    In this order: the log is set up, the device is made if it is a function that makes it, what needs
    rights is opened, ``confine`` is called, the threads are started, the end is waited for. Prints where
    it listens and the QEMU lines to paste, by ``description`` if one is given. The device is closed in
    the end, once, whatever happens. Raises ServeError when it cannot begin, and what making the device
    raises.
    """
    log_to_stderr(verbose=options.verbose, trace=options.trace)
    with contextlib.closing(FirstProcess()) as first:
        _run(device, options, name, description, confine, commands, first)


def _run(  # noqa: PLR0917  # as run
    device: VhostUserBackend | Callable[[], VhostUserBackend],
    options: ServeOptions,
    name: str,
    description: DeviceType | None,
    confine: Confine,
    commands: Commands | None,
    first: FirstProcess,
) -> None:
    predecessor = _predecessor()
    # The program is ours to tune, unlike a process that only uses the library.
    sys.setswitchinterval(SWITCH_INTERVAL)
    if callable(device) and not isinstance(device, VhostUserBackend | type):
        device = device()
    name = name or (isinstance(device, Device) and device.device_type) or type(device).__name__
    with (
        contextlib.nullcontext() if predecessor is None else contextlib.closing(predecessor),
        _traced(device, options, append=predecessor is not None) as tracer,
        _daemon(name, device, options, tracer, succeeds=predecessor is not None) as daemon,
        ExitStack() as stack,
        notifier() as manager,
    ):
        allow_descriptors(len(daemon.vrings))
        # Handlers first: a signal that comes while we begin must end us too.
        came = stack.enter_context(stopped_by((signal.SIGTERM, signal.SIGINT), daemon.stop))

        def hang_up() -> None:
            came.append(signal.SIGHUP)
            daemon.stop()

        commands = Commands() if commands is None else commands
        add_standard(commands, daemon, hang_up)
        add_of_device(commands, daemon.backend)

        refresh_if_asked = stack.enter_context(refreshing(daemon.backend, hang_up))
        try:
            source = _open(options, stack) if predecessor is None else _taken_over(predecessor, stack)
            control = _control_server(options, commands, name, stack, predecessor)
            stack.callback(daemon.close)  # before the listener, which it uses
            confine(_opened(daemon.backend, source, options))
            upgrades = Upgrades(daemon, _listeners(source, control), own_command(options), first)
            upgrade_if_due = stack.enter_context(upgrading(upgrades, daemon, commands, reload=options.reload))
            if predecessor is not None:
                daemon.inherit(predecessor.inheritance())
            _start(daemon, source, options, inherits=predecessor is not None)
            if predecessor is not None:
                predecessor.wait()
                first.serves()
            if control is not None:
                control.start()
        except (SocketError, UpgradeError) as error:
            raise ServeError(str(error)) from error
        if predecessor is not None:
            say(f"process {os.getpid()} goes on in place of {predecessor.pid}")
        else:
            for line in _greeting(daemon.backend, source, options, description):
                say(line)
        manager.tell(READY="1", STATUS=in_a_line(daemon), MAINPID=str(os.getpid()))
        # Leaving the block ends the daemon, and does not wait for ever for a device that is stuck.
        while not came and not daemon.wait(1.0):
            refresh_if_asked()
            upgrade_if_due()
            manager.status(in_a_line(daemon))
        if upgrades.successor is not None:
            if control is not None:
                control.finish()
            manager.tell(MAINPID=str(upgrades.successor))
            manager.close()  # it is not the service that stops
        if daemon.failure is not None and not came:
            raise ServeError(f"{name}: {daemon.failure}")
    if upgrades.successor is not None and (
        status := first.end(upgrades.successor, came[-1] if came else None)
    ):
        raise SystemExit(status)


def _predecessor() -> Predecessor | None:
    try:
        return Predecessor.of()
    except UpgradeError as error:
        raise ServeError(f"nothing can be taken over: {error}") from error


def _taken_over(predecessor: Predecessor, stack: ExitStack) -> Listener | None:
    """The socket that the predecessor listens at, if it does."""
    listener = predecessor.listeners.get("device")
    return None if listener is None else stack.enter_context(listener)


def _listeners(source: Listener | Connection | None, control: ControlServer | None) -> dict[str, Listener]:
    """The sockets that a successor gets, by name."""
    found = {"device": source} if isinstance(source, Listener) else {}
    return found if control is None else {**found, "control": control.listener}


@contextlib.contextmanager
def _traced(device: Any, options: ServeOptions, *, append: bool) -> Iterator[Tracer | None]:
    with ExitStack() as files:
        try:
            tracer = files.enter_context(json_trace(options.trace_json, append=append))
        except OSError as error:
            _close_unserved(device)
            raise ServeError(f"--trace-json={options.trace_json}: {error.strerror}") from error
        yield tracer


def _close_unserved(device: Any) -> None:
    """A device is closed by its daemon, and there is none."""
    if isinstance(device, VhostUserBackend) and not ownership.is_taken(device):
        device.close()


def _daemon(
    name: str, device: Any, options: ServeOptions, tracer: Tracer | None, *, succeeds: bool
) -> VhostUserDaemon:
    try:
        return VhostUserDaemon(
            name,
            device,
            poll_microseconds=options.poll_microseconds,
            cpus=options.cpus,
            allow_remote_memory=options.allow_remote_memory,
            iommu=options.iommu,
            in_band_notifications=options.in_band_notifications,
            tracer=tracer,
            succeeds=succeeds,
        )
    except BaseException as error:
        _close_unserved(device)
        if isinstance(error, TypeError | ValueError):
            raise ServeError(f"{name}: {error}") from error
        raise


def _open(options: ServeOptions, stack: ExitStack) -> Listener | Connection | None:
    """What front-ends come by; None where it is connected to again and again. It is closed with the stack."""
    source: Listener | Connection
    if options.socket_path is not None:
        source = Listener.bind(
            options.socket_path,
            mode=options.socket_mode,
            owner=options.socket_owner,
            group=options.socket_group,
        )
    elif options.connect is not None:
        if options.reconnect:
            return None
        source = connect(options.connect, timeout=SEND_TIMEOUT)
    else:
        assert options.fd is not None  # one of the three is set
        source = from_fd(options.fd)
    if isinstance(source, Listener):
        return stack.enter_context(source)
    stack.callback(source.close)  # once it is served the daemon has closed it, and this does nothing
    return source


def _control_server(
    options: ServeOptions,
    commands: Commands,
    name: str,
    stack: ExitStack,
    predecessor: Predecessor | None,
) -> ControlServer | None:
    """The control socket, if there is to be one: bound, and not served yet. It is closed with the stack."""
    if predecessor is not None and (listener := predecessor.listeners.get("control")) is not None:
        return stack.enter_context(contextlib.closing(ControlServer(listener, commands, name)))
    place = options.control if options.control_fd is None else options.control_fd
    return None if place is None else stack.enter_context(serve_commands(place, commands, name))


def _opened(device: VhostUserBackend, source: Listener | Connection | None, options: ServeOptions) -> Opened:
    return Opened(
        device=device,
        socket=None if source is None else source.fileno(),
        connect=options.connect if source is None else None,
        unlink=options.socket_path,
        control=options.control,
    )


def _start(
    daemon: VhostUserDaemon, source: Listener | Connection | None, options: ServeOptions, *, inherits: bool
) -> None:
    if source is None and inherits and not options.reconnect:
        daemon.start_inherited()
    elif source is None:
        assert options.connect is not None  # or there would be a source
        daemon.start_client(options.connect, reconnect=True)
    elif isinstance(source, Connection):
        daemon.start_connection(source)
    else:
        daemon.start(source, once=options.once)


def _greeting(
    device: VhostUserBackend,
    source: Listener | Connection | None,
    options: ServeOptions,
    description: DeviceType | None,
) -> list[str]:
    path = options.socket_path or options.connect
    if path is not None:
        what = f"listening on {path}" if options.connect is None else f"connecting to {path}"
        return [what, _for_the_guest(device, path, options, description)]
    if isinstance(source, Listener):
        at = "" if source.address is None else f" ({source.address})"
        return [f"listening on file descriptor {options.fd}{at}"]
    return [f"serving the connection on file descriptor {options.fd}"]


def _for_the_guest(
    device: VhostUserBackend, path: str, options: ServeOptions, description: DeviceType | None
) -> str:
    try:
        client = options.connect is not None
        lines = qemu_lines(device, path, client=client, version=options.qemu_version, description=description)
    except NoQemuDeviceError as error:
        return f"for the guest there is no QEMU line: {error}"
    except Exception as error:
        # A device may have its own words; that they fail is not a reason to serve nobody.
        log.exception("%s.qemu_device failed", type(device).__name__)
        return f"for the guest there is no QEMU line: {type(error).__name__}: {error}"
    return "for the guest, add these lines to QEMU's:\n  " + " \\\n  ".join(lines)


def say(text: str) -> None:
    """Tell on the standard output, if anybody reads it: a device is served without that as well."""
    try:
        print(text, flush=True)  # noqa: T201  # what the program is asked to tell
    except (OSError, ValueError) as error:  # nobody reads the pipe, the disk is full, it is closed
        log.info("cannot be told on the standard output (%s): %s", error, text)
        if isinstance(error, OSError):
            # What waits in the buffer would fail again when the interpreter ends, with exit status 120.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
