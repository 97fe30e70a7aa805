"""What QEMU is told of a guest on its command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vhost_user.testing.guest_devices import VhostUserDevice, option

_MACHINE = "q35,memory-backend=mem,accel=tcg,hpet=off,smbus=off,sata=off,usb=off,vmport=off,i8042=on"
# Leaves out what takes time at boot and serves nobody here. On a panic the kernel stays where it is, so that
# the console can be read.
_KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=0 nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests "
    "i8042.noaux i8042.nopnp i8042.dumbkbd random.trust_cpu=on"
)


def machine(memory: str, cpus: int) -> list[str]:
    """Return the arguments for the machine: no device but what Linux needs to boot, and memory to share."""
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", _MACHINE),
        *("-cpu", "qemu64,+rdrand", "-smp", str(cpus), "-m", memory),
        *("-object", f"memory-backend-memfd,id=mem,size={memory},share=on"),
    ]


def boot(kernel: Path, initramfs: Path, more: str) -> list[str]:
    """Return the arguments for what it boots; ``more`` is added to the kernel's own command line."""
    command_line = f"{_KERNEL_ARGUMENTS} {more}".strip()
    return ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", command_line]


def connections(console: Path, channel: int, qmp: int) -> list[str]:
    """Return the arguments for the console's file, and for the descriptors of the command channel and QMP."""
    return [
        *("-chardev", f"file,id=console,append=on,path={option(console)}"),
        *("-chardev", f"socket,id=channel,fd={channel}", "-chardev", f"socket,id=qmp,fd={qmp}"),
        *("-serial", "chardev:console", "-serial", "chardev:channel", "-mon", "chardev=qmp,mode=control"),
    ]


def attached(devices: Sequence[VhostUserDevice], reconnect: int | None) -> list[str]:
    """Return the arguments for the devices, device0 and following; ``reconnect`` as for `Guest`."""
    return [
        argument
        for number, device in enumerate(devices)
        for argument in device.arguments(f"device{number}", reconnect)
    ]
