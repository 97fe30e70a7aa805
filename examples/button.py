"""Two GPIO lines (virtio 1.4, 5.18): a button that the guest waits for, and an LED that it switches."""

import errno

from vhost_user import U16, U32, BufferQueue, Config, Device, Queue, Refuse, Request, serve

GET_DIRECTION, SET_DIRECTION, GET_VALUE, SET_VALUE, SET_IRQ_TYPE = range(2, 7)
OUT, IN, EDGE_RISING, EDGE_BOTH = 1, 2, 1, 3


class GpioConfig(Config):
    ngpio = U16(2)
    gpio_names_size = U32(at=4)


class Board(Device, type="gpio", device_features=1 << 0):  # VIRTIO_GPIO_F_IRQ
    config = GpioConfig()
    requests = Queue(0, header="<HHI")
    events = BufferQueue(1, header="<H")

    def __init__(self) -> None:
        self.levels, self.directions, self.irq_types = [0, 0], [IN, OUT], [0, 0]

    @requests.handler
    def request(self, request: Request) -> None:
        kind, line, value = request.header
        table = {GET_DIRECTION: self.directions, SET_DIRECTION: self.directions, GET_VALUE: self.levels,
                 SET_VALUE: self.levels, SET_IRQ_TYPE: self.irq_types}.get(kind)  # fmt: skip
        if table is None or line >= len(table):
            raise Refuse(errno.EINVAL, f"no request {kind} for line {line}")
        if kind in {GET_DIRECTION, GET_VALUE}:
            request.write(bytes((0, table[line])))
        else:
            table[line] = value
            request.write(b"\0\0")

    def fail(self, request: Request, exception: BaseException) -> None:
        request.write(b"\1\0")  # VIRTIO_GPIO_STATUS_ERR
        request.complete()

    def press(self, down: bool = True) -> None:
        """From any thread: the level of line 0 changes, and whoever waits for that hears of it."""
        self.levels[0] = int(down)
        if self.irq_types[0] in ({EDGE_RISING, EDGE_BOTH} if down else {EDGE_BOTH}):
            buffer = self.events.take_where(lambda buffer: buffer.header[0] == 0)
            if buffer is not None:
                buffer.write(b"\1")  # VIRTIO_GPIO_IRQ_STATUS_VALID
                buffer.complete()


if __name__ == "__main__":
    serve(Board())
