"""QEMU's network card on a back-end of ours: the guest pings us, and we ping the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.front_end import until
from tests.support.net_device import PingHost
from vhost_user import Listener, VhostUserDaemon
from vhost_user.testing.guest import Guest, VhostUserNet

pytestmark = pytest.mark.guest


def test_C024_a_guest_pings_and_is_pinged_through_split_and_packed_rings(tmp_path: Path) -> None:
    hosts = [PingHost("10.0.2.2"), PingHost("10.0.3.2")]
    with (
        Listener.bind(tmp_path / "split") as split,
        Listener.bind(tmp_path / "packed") as packed,
        VhostUserDaemon("split", hosts[0]) as first,
        VhostUserDaemon("packed", hosts[1]) as second,
    ):
        first.start(split)
        second.start(packed)
        devices = [VhostUserNet(tmp_path / "split"), VhostUserNet(tmp_path / "packed", packed=True)]
        with Guest(devices=devices, modules=["af_packet"]) as guest:
            for card, subnet in (("eth0", 2), ("eth1", 3)):
                features = guest.run(f"cat /sys/class/net/{card}/device/features")
                assert features[34] == str(int(card == "eth1")), f"{card} has the wrong kind of ring"
                guest.run(f"ip addr add 10.0.{subnet}.15/24 dev {card} && ip link set {card} up")
                # Small ones, and as many as fill both rings more than once with the largest that fit a frame.
                guest.run(f"ping -c 3 -i 0.01 -W 10 10.0.{subnet}.2")
                guest.run(f"ping -c 300 -i 0.001 -s 1472 -W 10 10.0.{subnet}.2")
                # What came, the kernel knows: where the guest has little time, ping's own socket overflows.
                assert echo_replies(guest) == 303 * (subnet - 1)
            for host in hosts:
                assert host.answered == 303
                for number in range(300):
                    host.ping(b"ping %d " % number * 100)
                    if number % 50 == 49:
                        settled(host, number + 1)
                assert set(host.replies.values()) == {1}
            guest.shutdown()
    assert [host.dropped for host in hosts] == [0, 0]


def echo_replies(guest: Guest) -> int:
    """How many answers to its pings the guest's kernel has received (RFC 2011, icmpInEchoReps)."""
    names, values = (line.split() for line in guest.run("grep ^Icmp: /proc/net/snmp").splitlines())
    return int(values[names.index("InEchoReps")])


def settled(host: PingHost, expected: int) -> None:
    """Wait until so many pings of ours were answered."""
    until(lambda: len(host.replies) >= expected, f"answer {expected}", 20)
