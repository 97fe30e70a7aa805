"""A back-end that crashes, hangs and leaks, each on one message: ``python fragile.py SOCKET``."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from tests.conformance.yes_man import FACTS, REQUEST, YesMan  # noqa: E402  # after the path
from vhost_user.spec.features import ProtocolFeature  # noqa: E402  # after the path

PROTOCOL = int(ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK)


class Fragile(YesMan):
    """Dies of the base 0x77, hangs on a ring of 13, forgets a descriptor for each SET_LOG_FD."""

    def _answer(self, connection: object, request: int, flags: int, payload: bytes) -> bool:
        value = int.from_bytes(payload[:8], "little")
        if request == REQUEST.SET_VRING_BASE and value >> 32 == 0x77:
            os.kill(os.getpid(), signal.SIGSEGV)
        if request == REQUEST.SET_VRING_NUM and value >> 32 == 13:
            time.sleep(3600)
        if request == REQUEST.SET_LOG_FD:
            os.dup(0)
        for fd in self.kept:
            os.close(fd)
        self.kept.clear()
        return super()._answer(connection, request, flags, payload)  # type: ignore[arg-type]  # a socket


if __name__ == "__main__":
    Fragile(Path(sys.argv[1]), facts=replace(FACTS, protocol_features=PROTOCOL))
