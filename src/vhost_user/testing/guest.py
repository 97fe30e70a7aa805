"""A real Linux guest for tests and demonstrations: Debian's cloud kernel in QEMU, up in seconds without KVM.

    with Guest(devices=[VhostUserBlk("/run/disk.sock", num_queues=4)]) as guest:
        guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")

It needs QEMU, busybox and a kernel; where one is missing the error names the command that brings it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vhost_user.testing.guest_channel import CommandChannel, CommandResult, Deadline
from vhost_user.testing.guest_command_line import attached, boot, connections, machine
from vhost_user.testing.guest_devices import VhostUserBlk, VhostUserDevice, VhostUserNet, VhostUserRng
from vhost_user.testing.guest_errors import (
    GuestCommandError,
    GuestError,
    GuestTimeoutError,
    GuestUnavailableError,
)
from vhost_user.testing.guest_initramfs import build_initramfs
from vhost_user.testing.guest_kernel import GuestKernel, locate_kernel
from vhost_user.testing.guest_machine import QEMU, Machine
from vhost_user.testing.guest_migration import Migration

__all__ = [
    "CommandResult",
    "Guest",
    "GuestCommand",
    "GuestCommandError",
    "GuestError",
    "GuestTimeoutError",
    "GuestUnavailableError",
    "VhostUserBlk",
    "VhostUserDevice",
    "VhostUserNet",
    "VhostUserRng",
]

MEMORY = "262152K"
"""256 MiB and 8 KiB: QEMU before 9.0, emulating the CPU, loses writes of the guest while it migrates.

It forgets to watch for them in memory whose size is a multiple of 256 KiB.
"""


class GuestCommand:
    """A command that runs in the guest; made by `Guest.start`."""

    def __init__(self, guest: Guest, command: str, number: int) -> None:
        self.command = command
        self._guest = guest
        self._number = number

    def wait(self, timeout: float = 60.0) -> CommandResult:
        """Wait for the end of the command and return its status and output, whatever the status is.

        Args:
            timeout: seconds to wait.

        Raises:
            GuestTimeoutError: it has not ended by then. It may be waited for again.
            GuestError: the guest died or rebooted.
        """
        return self._guest._answer(self._number, self.command, timeout)  # noqa: SLF001  (the two are one unit)


class Guest:
    """A Linux guest with vhost-user devices. As a context manager it never leaves a QEMU process behind.

    Args:
        devices: the devices to attach. Their back-ends must be listening when the guest starts.
        memory: the size of guest memory as QEMU writes it. It is a memfd shared with every back-end. For a
            guest that migrates not a multiple of 256 KiB (see `MEMORY`).
        cpus: number of virtual CPUs; by default the largest number of queues of a device, since Linux
            uses no more queues than it has CPUs.
        reconnect: seconds after which QEMU connects again to a back-end that went away; None: never.
        modules: further kernel modules to load at boot.
        programs: programs of the host to bring along with their libraries; busybox has most others.
        files: further files in the guest: absolute name and content.
        kernel: the kernel to boot; by default the newest that was fetched.
        kernel_arguments: added to the kernel's command line.
        qemu_arguments: added to QEMU's command line.
        qemu: the QEMU to run; by default the one in PATH.
        boot_timeout: seconds a boot may take; it takes 2 to 5 on an idle machine.
        folder: where console.log and qemu.log are kept; by default a temporary folder, removed at the end.
    """

    def __init__(
        self,
        devices: Sequence[VhostUserDevice] = (),
        *,
        memory: str = MEMORY,
        cpus: int | None = None,
        reconnect: int | None = None,
        modules: Sequence[str] = (),
        programs: Sequence[str] = ("mkfs.ext4", "e2fsck"),
        files: Mapping[str, bytes] | None = None,
        kernel: GuestKernel | None = None,
        kernel_arguments: str = "",
        qemu_arguments: Sequence[str] = (),
        qemu: str | os.PathLike[str] = QEMU,
        boot_timeout: float = 90.0,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self.memory = memory
        self.cpus = cpus or max((device.queues for device in self.devices), default=1)
        self.reconnect = reconnect
        self.boot_timeout = boot_timeout
        self._modules = tuple(modules)
        self._programs = tuple(programs)
        self._files = dict(files or {})
        self._kernel = kernel
        self._kernel_arguments = kernel_arguments
        self._qemu_arguments = tuple(qemu_arguments)
        self._qemu_program = os.fspath(qemu)
        self._given_folder = folder
        self._resources = contextlib.ExitStack()
        self._machine: Machine | None = None
        self._channel: CommandChannel | None = None
        self._folder: Path | None = None

    # -- life

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def boot(self) -> None:
        """Start QEMU and wait until the guest takes commands.

        Raises:
            GuestUnavailableError: QEMU, the kernel or another program is missing.
            GuestTimeoutError: the boot took longer than boot_timeout.
            GuestError: QEMU did not start or the kernel gave up.
        """
        if self._machine is not None:
            raise GuestError("this guest has been booted already; to boot again use reboot() or a new Guest")
        try:
            self._launch()
            with self._evidence_added():
                self._ready_channel().wait_until_ready(Deadline(self.boot_timeout))
        except BaseException:  # a KeyboardInterrupt must not leave a QEMU behind either
            self.close()
            raise

    def close(self) -> None:
        """End QEMU at once, whatever the guest is doing, and release everything. May be called twice."""
        if self._machine is not None:
            self._machine.close()
        self._resources.close()

    def shutdown(self, timeout: float = 30.0) -> None:
        """Flush the guest's disks, power it off and wait until QEMU has ended; then release everything.

        Raises:
            GuestTimeoutError: QEMU has not ended within `timeout` seconds.
            GuestError: QEMU ended with a status other than 0.
        """
        try:
            self.run("sync", timeout=timeout)
            with self._evidence_added():
                self._ready_channel().send("poweroff -f", Deadline(timeout))
                try:
                    status = self._running().process.wait(timeout)
                except subprocess.TimeoutExpired as error:
                    raise GuestTimeoutError(f"the guest did not power off within {timeout:g} s") from error
                if status:
                    raise GuestError(f"QEMU ended with status {status}")
        finally:
            self.close()

    def reboot(self, timeout: float | None = None) -> None:
        """Flush the guest's disks, reboot it from inside and wait until it takes commands again.

        Args:
            timeout: seconds that may take; by default boot_timeout.
        """
        self.run("sync")
        with self._evidence_added():
            deadline = Deadline(timeout or self.boot_timeout)
            self._ready_channel().send("reboot -f", deadline)
            self._ready_channel().wait_until_ready(deadline)

    def reset(self, timeout: float | None = None) -> None:
        """Reset the machine from outside, as its reset button would, and wait until it takes commands again.

        Args:
            timeout: seconds that may take; by default boot_timeout.
        """
        with self._evidence_added():
            deadline = Deadline(timeout or self.boot_timeout)
            self.qmp("system_reset")
            self._ready_channel().wait_until_ready(deadline)

    # -- commands

    def run(self, command: str, *, timeout: float = 60.0) -> str:
        """Run shell text in the guest (`sh -e`, as root) and return what it printed, standard error included.

        Args:
            command: the text; it may have several lines.
            timeout: seconds it may take.

        Raises:
            GuestCommandError: its exit status was not 0.
            GuestTimeoutError: it took longer than `timeout`. It still runs, and no other command can
                until it ends.
            GuestError: the guest died or rebooted.
        """
        result = self.start(command).wait(timeout)
        if result.status:
            raise GuestCommandError(command, result.status, result.output, self._evidence())
        return result.output

    def start(self, command: str) -> GuestCommand:
        """Start shell text in the guest and return at once; wait for its result before the next command."""
        with self._evidence_added():
            return GuestCommand(self, command, self._ready_channel().send(command, Deadline(30.0)))

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its result; underscores in argument names stand for hyphens.

        Raises:
            GuestError: QEMU refused it or went away.
        """
        with self._evidence_added():
            return self._running().qmp(command, **arguments)

    @property
    def console(self) -> str:
        """What the guest's kernel and its init wrote on the console so far."""
        return self._log("console.log")

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._running().process.pid

    # -- migration

    def migration(self, devices: Sequence[VhostUserDevice]) -> Migration:
        """Return a live migration into another QEMU on this host: see `guest_migration`.

        Args:
            devices: the devices of this guest again, on the sockets of the back-ends that they will have
                there. Those back-ends must be listening.
        """
        return Migration(
            self._running,
            # The guest's own arguments, and what makes QEMU wait.
            partial(self._started_machine, devices, "-incoming", "defer"),
            partial(self._moved, devices),
            partial(self._path, ""),
        )

    def migrate(self, devices: Sequence[VhostUserDevice], *, timeout: float = 120.0) -> None:
        """Move the guest, which goes on meanwhile, into another QEMU on this host, and end the one it was in.

        Args:
            devices: as for `migration`.
            timeout: seconds that may take, or GuestTimeoutError; GuestError: it failed, and the guest stays.
        """
        with self.migration(devices) as migration:
            migration.start()
            migration.finish(timeout)

    # -- inside

    def _answer(self, number: int, command: str, timeout: float) -> CommandResult:
        with self._evidence_added(f"\nguest command: {command}"):
            return self._ready_channel().answer(number, Deadline(timeout))

    def _launch(self) -> None:
        kernel = self._kernel or locate_kernel()
        modules = [name for device in self.devices for name in device.modules]
        initramfs = build_initramfs(
            kernel, ["virtio_pci", *modules, *self._modules], self._programs, self._files
        )
        if self._given_folder is None:
            self._folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="guest-")))
        else:
            self._folder = Path(self._given_folder)
            self._folder.mkdir(parents=True, exist_ok=True)
        for name in ("console.log", "qemu.log"):
            self._path(name).write_bytes(b"")
        self._path("initramfs").write_bytes(initramfs)
        self._kernel = kernel
        self._machine = self._started_machine(self.devices)
        self._channel = CommandChannel(self._machine.channel, self._check_health)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name

    def _started_machine(self, devices: Sequence[VhostUserDevice], *more: str) -> Machine:
        machine = Machine(partial(self._arguments, devices, more), self._path("qemu.log"), self._qemu_program)
        try:
            with self._evidence_added():
                machine.negotiate(self.boot_timeout)
        except BaseException:
            machine.close()
            raise
        return machine

    def _moved(self, devices: Sequence[VhostUserDevice], machine: Machine) -> None:
        """The guest runs there now."""
        self._ready_channel().move(machine.channel)
        self._running().close()
        self._machine = machine
        self.devices = tuple(devices)

    def _arguments(
        self, devices: Sequence[VhostUserDevice], more: Sequence[str], channel: int, qmp: int
    ) -> list[str]:
        assert self._kernel is not None
        return [
            *machine(self.memory, self.cpus),
            *boot(self._kernel.image, self._path("initramfs"), self._kernel_arguments),
            *connections(self._path("console.log"), channel, qmp),
            *attached(devices, self.reconnect),
            *self._qemu_arguments,
            *more,
        ]

    def _running(self) -> Machine:
        if self._machine is None:
            raise GuestError("the guest is not running: use it as a context manager, or call boot()")
        return self._machine

    def _ready_channel(self) -> CommandChannel:
        self._running()
        assert self._channel is not None
        return self._channel

    def _check_health(self, grace: float) -> None:
        """Raise when the guest cannot answer any more; wait up to `grace` seconds for QEMU's end."""
        self._running().check_health(grace)
        if "Kernel panic" in self.console:
            raise GuestError("the guest's kernel panicked")

    def _log(self, name: str) -> str:
        if self._folder is None or not (self._folder / name).exists():
            return ""
        return (self._folder / name).read_text(errors="replace")

    def _evidence(self) -> str:
        """Return the ends of both logs, to stand at the end of an error's message."""
        parts = []
        for title, name in (("guest's console", "console.log"), ("QEMU's output", "qemu.log")):
            lines = [line.rstrip() for line in self._log(name).splitlines()[-25:]]
            if lines:
                parts.append(f"\n--- end of the {title} ---\n" + "\n".join(lines))
        return "".join(parts)

    @contextlib.contextmanager
    def _evidence_added(self, prefix: str = "") -> Iterator[None]:
        try:
            yield
        except (GuestCommandError, GuestUnavailableError):
            raise
        except GuestError as error:
            if "\n--- end of the " in str(error):
                raise
            raise type(error)(f"{error}{prefix}{self._evidence()}") from error
