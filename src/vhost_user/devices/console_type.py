"""The console, described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.device_types import DeviceType, HarmlessRequest, OptionError, option
from vhost_user.spec.console import ConsoleFeature

if TYPE_CHECKING:
    from vhost_user.devices.console import Console

_DEVICE_BITS = (1 << 24) - 1


@dataclass(frozen=True)
class ConsoleOptions:
    """The options of ``vhost-user serve console``."""

    end: str = option("stdio", help="what is at the other end of the first port", metavar="END")
    ports: str | None = option(
        None, help="more ports, each a plain line between programs", metavar="NAME=END[,NAME=END…]"
    )
    tcp_port: int | None = option(None, help="the same as --end=tcp-listen:N", minimum=1, maximum=0xFFFF)
    cols: int = option(80, help="columns of the first port", minimum=1, maximum=0xFFFF)
    rows: int = option(25, help="its rows", minimum=1, maximum=0xFFFF)
    max_ports: int | None = option(
        None, help="how many ports there may be in the end", minimum=1, shown_default="those that are given"
    )


def _build(options: ConsoleOptions) -> Console:
    # A description is read without the device.
    from vhost_user.devices.console import Console  # noqa: PLC0415
    from vhost_user.devices.console_port import Port  # noqa: PLC0415

    if options.tcp_port is not None and options.end != "stdio":
        raise OptionError("--end and --tcp-port exclude each other")
    end = options.end if options.tcp_port is None else f"tcp-listen:{options.tcp_port}"
    more = []
    for word in options.ports.split(",") if options.ports else []:
        name, equals, other_end = word.partition("=")
        if not (name and equals):
            raise OptionError(f"--ports: {word!r} is not NAME=END, such as log=file:guest.log")
        more.append(Port(other_end, name=name, console=False))
    return Console(end, *more, cols=options.cols, rows=options.rows, max_ports=options.max_ports)


def _resembles(features: int, queues: int) -> bool:
    known = ConsoleFeature.SIZE | ConsoleFeature.EMERG_WRITE
    others = _DEVICE_BITS & ~(known | ConsoleFeature.MULTIPORT)
    return features & known == known and not features & others and queues % 2 == 0


DEVICE_TYPE = DeviceType(
    name="console",
    title="lines to the guest: a terminal, a socket, a file, a serial line",
    device="vhost_user.devices.console:Console",
    options=ConsoleOptions,
    build=_build,
    examples=(
        "--socket-path=/tmp/console.sock",
        "--socket-path=/tmp/console.sock --end=pty:/tmp/guest",
        "--socket-path=/tmp/console.sock --tcp-port=5000 --ports=log=file:guest.log",
    ),
    notes="""END is one of
  stdio                    the terminal this runs in; Ctrl-] ends it
  pty[:LINK]               a new pseudo-terminal, and a symbolic link to it
  tcp:HOST:PORT            a connection, made again when it breaks
  unix:PATH                the same to a Unix socket
  tcp-listen:[HOST:]PORT   one client after the other
  unix-listen:PATH         the same on a Unix socket
  file:PATH                a file that gets what the guest writes
  serial:URL[,BAUD]        a serial line, /dev/ttyUSB0 or any URL of pyserial
  null                     nobody""",
    other_vmms={
        "Cloud Hypervisor 52": "--memory size=1G,shared=on "
        "--generic-vhost-user socket={socket},device_type=console,queue_sizes=[256,256]",
        "crosvm": "--vhost-user type=console,socket={socket}",
        "User Mode Linux": "virtio_uml.device={socket}:3",
    },
    guest_modules=("virtio_console",),
    queues=2,
    harmless=HarmlessRequest(queue=1, readable=lambda: b"\r\n\r\n"),
    resembles=_resembles,
)
