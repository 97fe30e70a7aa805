"""The first device: an entropy source that rolls dice. Run it with --socket-path=/tmp/dice.sock."""

import random

from vhost_user import Device, Request, serve


class Dice(Device, type="rng"):
    def handle(self, request: Request) -> None:
        request.write(bytes(random.choices(range(1, 7), k=request.writable)))


if __name__ == "__main__":
    serve(Dice())
