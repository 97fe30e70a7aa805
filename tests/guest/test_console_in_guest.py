"""A console in a real guest, by the generic device of a newer QEMU: boot, log in, run, assert."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_end import until
from vhost_user.devices import Console, Port
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.expect import CommandError, Expect
from vhost_user.testing.guest import Guest

pytestmark = pytest.mark.guest

# The password is "sesame".
SHADOW = "$6$abcdefgh$Bk2D4uYVcw0FbFPsWa0iJZ1DNfy8v6OjKcRcuBfMkWD1KdADPVnmQf5cr0O8HfAYpq1XrrjdgIRINkwgSKJ8/1"
ACCOUNTS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "/etc/group": b"root:x:0:\n",
    "/etc/shadow": f"root:{SHADOW}:19000:0:99999:7:::\n".encode(),
    "/etc/issue": b"\n",
}
GETTY = "setsid sh -c 'while :; do getty -L 0 {} vt100; done' </dev/null >/dev/null 2>&1 &"


async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every line, as a guest agent's other side does."""
    async for line in reader:
        writer.write(b"heard " + line)
        await writer.drain()


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def made(packed: bool, *ports: Any, **options: Any) -> Console:
    console = Console(*ports, **options)
    console.packed = packed  # QEMU's generic device hands on what the back-end offers
    return console


def names(guest: Guest) -> list[str]:
    return guest.run("cat /sys/class/virtio-ports/*/name 2>/dev/null || true").split()


def talk(guest: Guest, word: str) -> str:
    """Say a word to the agent. The guest learns of its ports by and by, also after it has booted."""
    until(lambda: "org.agent" in names(guest), "the port appears")
    guest.run(f"exec 5<>/dev/vport0p1; echo {word} >&5; head -n1 <&5 >/answer")
    return guest.run("cat /answer")


def test_boot_log_in_run_assert(virtio_guest: BootGuest, packed: bool) -> None:
    terminal = Expect()
    console = made(packed, terminal, cols=100, rows=37)
    guest = virtio_guest(console, files=ACCOUNTS, kernel_arguments="console=hvc0")
    guest.run("echo all is up >/dev/kmsg; dmesg -n 1")  # afterwards the kernel does not talk into the shell
    terminal.expect(r"\[ *\d+\.\d+\] all is up")
    guest.run(GETTY.format("hvc0"))
    terminal.log_in("root", "sesame")
    assert terminal.run("uname -s") == "Linux\n"
    assert terminal.run("tty") == "/dev/hvc0\n"
    assert terminal.run("stty size") == "37 100\n"
    console.resize(132, 50)
    until(lambda: terminal.run("stty size") == "50 132\n", "stty size follows")
    with pytest.raises(CommandError, match="status 2"):
        terminal.run("sh -c 'echo not found; exit 2'")
    # More than all buffers of the ring, both ways.
    terminal.run("seq 1 3000 >/tmp/numbers")
    assert terminal.run("cat /tmp/numbers") == "".join(f"{number}\n" for number in range(1, 3001))
    guest.reboot()
    guest.run("dmesg -n 1; " + GETTY.format("hvc0"))
    terminal.log_in("root", "sesame")
    assert terminal.run("echo $((6*7))") == "42\n"


def test_ports_have_names_and_talk(virtio_guest: BootGuest, packed: bool, tmp_path: Path) -> None:
    terminal, log = Expect(), tmp_path / "guest.log"
    console = made(
        packed, terminal, Port(agent, name="org.agent", console=False), max_ports=4, cols=90, rows=30
    )
    console.plug(Port(f"file:{log}", name="log", console=False))
    guest = virtio_guest(console)
    until(lambda: names(guest) == ["org.agent", "log"], "the ports appear")
    assert talk(guest, "hello") == "heard hello\n"
    guest.run("seq 1 5000 >/dev/vport0p2")
    until(lambda: log.read_text().endswith("5000\n"), "the file has it all")
    assert log.read_text() == "".join(f"{number}\n" for number in range(1, 5001))
    guest.run("setsid getty -n -l /bin/sh -L 0 hvc0 vt100 </dev/null >/dev/null 2>&1 &")
    terminal.expect("# $")
    assert terminal.run("stty size") == "30 90\n"
    console.resize(132, 50)
    until(lambda: terminal.run("stty size") == "50 132\n", "stty size follows")
    added = console.plug(Port(agent, name="late", console=False))
    until(lambda: "late" in names(guest), "the port appears")
    console.unplug(added)
    until(lambda: "late" not in names(guest), "the port goes")
    guest.reboot()
    assert talk(guest, "again") == "heard again\n"


def test_C054_a_vm_pauses_while_nobody_reads_its_console(virtio_guest: BootGuest, packed: bool) -> None:
    reading = asyncio.Event()
    got = bytearray()

    async def slow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reading.wait()
        while data := await reader.read(65536):
            got.extend(data)

    console = made(packed, Port(slow, name="slow", console=False))
    guest = virtio_guest(console)
    until(lambda: names(guest) == ["slow"], "the port appears")
    command = guest.start("seq 1 20000 >/dev/vport0p0")
    for _ in range(3):
        guest.qmp("stop")
        guest.qmp("cont")
    console.loop.call_soon_threadsafe(reading.set)
    assert command.wait().status == 0
    wanted = "".join(f"{number}\n" for number in range(1, 20001)).encode()
    until(lambda: len(got) >= len(wanted), "all of it")
    assert got == wanted
