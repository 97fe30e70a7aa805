"""Boots two real Linux guests with devices served from Python.

One has a disk and a source of dice throws, the other a terminal and a thermometer.
Started by ./demo, which installs what this needs.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from serial_login import FILES  # type: ignore[import-not-found]  # beside this file
from temperature_sensor import TMP102  # type: ignore[import-not-found]  # as well

from vhost_user import Device
from vhost_user.device_types.qemu import qemu_device
from vhost_user.devices import Console, I2c
from vhost_user.testing import booting
from vhost_user.testing.expect import Expect, ExpectError
from vhost_user.testing.guest import Guest, GuestError, VhostUserBlk, VhostUserDevice, VhostUserRng
from vhost_user.testing.guest_backend import BackendError, BackendProcess
from vhost_user.testing.guest_drivers import locate_driver_kernel
from vhost_user.testing.guest_initramfs import find_program
from vhost_user.testing.guest_qemu import GENERIC_SINCE, locate_qemu

COMMAND = Path(sys.executable).parent / "vhost-user"
DICE = Path(__file__).parent / "dice.py"
FACES = dict(enumerate("⚀⚁⚂⚃⚄⚅", 1))
MIB = 1 << 20
HOST, GUEST, PYTHON, TERMINAL = "host $", "guest #", "python >>>", "~ #"

HOST_GREETING = "Hello from the host. This file was put into the image before the guest existed.\n"
GUEST_GREETING = "Hello from the guest. I wrote this on a disk that is a Python program.\n"


class Story:
    """Prints what happens: the steps with the time at which they began, and what each of them shows."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bold, self._dim, self._plain = (
            ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("",) * 3
        )

    def step(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        print(f"\n{self._dim}{seconds:5.1f} s{self._plain}  {self._bold}{text}{self._plain}", flush=True)

    def show(self, text: str) -> None:
        for line in text.rstrip("\n").splitlines():
            print(f"           {line}", flush=True)

    def typed(self, prompt: str, command: str, output: str = "") -> None:
        self.show(f"{self._dim}{prompt} {command}{self._plain}\n{output}")


def make_image(image: Path, folder: Path) -> None:
    """Make an ext4 file system of 64 MiB in a file, with one file in it."""
    files = folder / "files"
    files.mkdir()
    (files / "from-host.txt").write_text(HOST_GREETING)
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    command = [str(find_program("mkfs.ext4")), "-q", "-d", str(files), str(image)]
    subprocess.run(command, check=True)  # noqa: S603  (a fixed command)


def read_from_image(image: Path, name: str) -> bytes:
    """Return a file of an ext4 image, read on the host without mounting it."""
    command = [str(find_program("debugfs")), "-R", f"cat /{name}", str(image)]
    return subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603  (a fixed command)


def disk_and_dice(story: Story, folder: Path) -> None:
    image = folder / "disk.img"
    disk_socket, dice_socket = folder / "disk.sock", folder / "dice.sock"

    story.step("The host makes a disk image: 64 MiB, ext4, one file in it")
    make_image(image, folder)
    story.typed(
        HOST, "debugfs -R 'cat /from-host.txt' disk.img", read_from_image(image, "from-host.txt").decode()
    )

    story.step("Two back-ends start, each a Python process that serves a virtio device on a socket")
    serve_disk: list[str | Path] = [
        COMMAND,
        "serve",
        "blk",
        f"--socket-path={disk_socket}",
        f"--blk-file={image}",
        "--num-queues=2",
    ]
    serve_dice: list[str | Path] = [sys.executable, DICE, f"--socket-path={dice_socket}"]
    disk = BackendProcess(serve_disk, disk_socket, folder / "disk.log", announcement="listening")
    dice = BackendProcess(serve_dice, dice_socket, folder / "dice.log", announcement="listening")
    with disk, dice:
        story.typed(HOST, "vhost-user serve blk --socket-path=disk.sock --blk-file=disk.img --num-queues=2")
        story.typed(HOST, "python3 examples/dice.py --socket-path=dice.sock")

        story.step(
            "QEMU boots Debian's kernel, unchanged, with both devices plugged in (emulated CPU, no KVM)"
        )
        with Guest(devices=[VhostUserBlk(disk_socket, num_queues=2), VhostUserRng(dice_socket)]) as guest:

            def run(command: str) -> str:
                output = guest.run(command)
                story.typed(GUEST, command, output)
                return output

            run("uname -sr")
            run("grep . /sys/block/vda/size /sys/class/misc/hw_random/rng_current")

            story.step("The guest mounts the disk, reads the host's file and writes one of its own")
            run("mount /dev/vda /mnt && cat /mnt/from-host.txt")
            run(f"echo '{GUEST_GREETING.rstrip()}' >/mnt/from-guest.txt")
            run("cat /mnt/from-guest.txt")
            run("dd if=/dev/urandom of=/mnt/random bs=1M count=16 conv=fsync 2>/dev/null")
            checksum = run("sha256sum /mnt/random").split()[0]

            story.step(
                "The guest throws the dice: its hardware random number generator is a few lines of Python"
            )
            thrown = bytes.fromhex(guest.run("head -c 600 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'"))
            story.typed(GUEST, "head -c 600 /dev/hwrng | hexdump")
            story.show(" ".join(str(value) for value in thrown[:30]) + " ...")
            counts = Counter(thrown)
            story.show("  ".join(f"{FACES.get(value, value)} {counts[value]}" for value in sorted(counts)))
            if set(thrown) != set(range(1, 7)):
                raise GuestError(f"these are no dice: {sorted(counts)}")

            story.step("The guest unmounts the disk and powers off; the back-ends are told to end")
            guest.run("umount /mnt")
            guest.shutdown()

    story.step("Back on the host, the image holds what the guest wrote")
    greeting = read_from_image(image, "from-guest.txt").decode()
    story.typed(HOST, "debugfs -R 'cat /from-guest.txt' disk.img", greeting)
    on_host = hashlib.sha256(read_from_image(image, "random")).hexdigest()
    story.typed(HOST, "debugfs -R 'cat /random' disk.img | sha256sum", on_host)
    if greeting != GUEST_GREETING or on_host != checksum:
        raise GuestError("the image does not hold what the guest wrote")
    story.step("Same text, same checksum. Those were two virtio devices in Python under a real Linux guest")


def terminal_and_thermometer(story: Story, folder: Path) -> None:
    story.step("Hardware that does not exist: a terminal and a thermometer, in this process")
    terminal, sensor = Expect(), TMP102()
    sensor.is_at(21.5)
    story.typed(PYTHON, "terminal, sensor = Expect(), TMP102()     # examples/temperature_sensor.py")
    story.typed(PYTHON, "sensor.is_at(21.5)")
    story.typed(PYTHON, "Console(terminal, cols=100, rows=37).start('console.sock')")
    story.typed(PYTHON, "I2c({0x48: sensor}).start('i2c.sock')")
    with ExitStack() as stack:

        def plugged_in(device: Device, name: str) -> VhostUserDevice:
            socket = str(folder / f"{name}.sock")
            device.start(socket)
            stack.callback(device.stop)
            arguments = qemu_device(device, device.device_type, version=GENERIC_SINCE)
            return booting.qemu_device(device, socket, arguments)

        devices = [
            plugged_in(Console(terminal, cols=100, rows=37), "console"),
            plugged_in(I2c({0x48: sensor}), "i2c"),
        ]
        story.step("A second guest boots with both; the drivers are the kernel's own: virtio_console, tmp102")
        guest = stack.enter_context(
            Guest(
                devices=devices,
                kernel=locate_driver_kernel(),
                qemu=locate_qemu(),
                modules=["i2c-dev", "tmp102"],
                files=FILES,
            )
        )
        guest.run("while ! test -c /dev/hvc0; do sleep 0.1; done")
        guest.run("setsid getty -L 0 hvc0 vt100 </dev/null >/dev/null 2>&1 &")

        story.step("Python sits down at the guest's terminal and logs in")
        terminal.log_in("root", "sesame")
        story.typed(PYTHON, "terminal.log_in('root', 'sesame')")
        story.show("box login: root\nPassword:")

        def type_in(command: str) -> str:
            output = terminal.run(command)
            story.typed(TERMINAL, command, output)
            return output

        type_in("tty; stty size")
        type_in("echo tmp102 0x48 >$(dirname $(grep -l virtio /sys/class/i2c-adapter/*/name))/new_device")

        story.step("There the thermometer is read, as any program in the guest would do it")
        for degrees in (21.5, -10.25):
            if degrees != sensor.degrees:
                sensor.is_at(degrees)
                story.typed(PYTHON, f"sensor.is_at({degrees})")
            read = type_in("sleep 1; cat /sys/class/hwmon/hwmon*/temp1_input")
            if read != f"{degrees * 1000:.0f}\n":
                raise GuestError(f"the guest reads {read!r} where it has {degrees} degrees")
        guest.shutdown()
    story.step("That is how a test has hardware that nobody has: examples/ has it in 40 lines each")


def demonstrate(story: Story, folder: Path) -> None:
    disk_and_dice(story, folder)
    terminal_and_thermometer(story, folder)


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has dice
    story = Story()
    try:
        with tempfile.TemporaryDirectory(prefix="demo-") as folder:
            demonstrate(story, Path(folder))
    except KeyboardInterrupt:
        print("\nstopped; guests and back-ends are gone", file=sys.stderr)
        return 130
    except (GuestError, BackendError, ExpectError, subprocess.CalledProcessError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
