"""Log in to a guest over its console, run a command, look at what it prints. A test: run it with pytest."""

from vhost_user.devices import Console
from vhost_user.testing.booting import BootGuest
from vhost_user.testing.expect import Expect

# The password is "sesame".
PASSWORD = (
    "$6$abcdefgh$Bk2D4uYVcw0FbFPsWa0iJZ1DNfy8v6OjKcRcuBfMkWD1KdADPVnmQf5cr0O8HfAYpq1XrrjdgIRINkwgSKJ8/1"  # noqa: S105
)
FILES = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "/etc/group": b"root:x:0:\n",
    "/etc/shadow": f"root:{PASSWORD}:19000:0:99999:7:::\n".encode(),
}


def test_login(virtio_guest: BootGuest) -> None:
    terminal = Expect()
    console = Console(terminal, cols=100, rows=37)
    guest = virtio_guest(console, files=FILES)
    guest.run("while ! test -c /dev/hvc0; do sleep 0.1; done")  # the guest learns of its ports by and by
    guest.run("setsid getty -L 0 hvc0 vt100 </dev/null >/dev/null 2>&1 &")
    terminal.log_in("root", "sesame")
    assert terminal.run("uname -s") == "Linux\n"
    assert terminal.run("stty size") == "37 100\n"
