"""A console (virtio 1.4, 5.3) that answers every line in capitals, and can be resized."""

from vhost_user import U16, U32, BufferQueue, Config, Device, Queue, Request, serve


class ConsoleConfig(Config):
    cols = U16(80)
    rows = U16(25)
    max_nr_ports = U32(1)
    emerg_wr = U32(writable=True)


class Terminal(Device, type="console", device_features=1 << 0):  # VIRTIO_CONSOLE_F_SIZE
    config = ConsoleConfig()
    to_guest = BufferQueue(0, stream=True)
    from_guest = Queue(1)

    @from_guest.handler
    def typed(self, request: Request) -> None:
        self.to_guest.post(request.read(4096).upper())

    def resize(self, cols: int, rows: int) -> None:
        """From any thread: the driver is told once."""
        with self.config.changing():
            self.config.cols, self.config.rows = cols, rows


if __name__ == "__main__":
    serve(Terminal())
