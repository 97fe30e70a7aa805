"""The ``virtio`` fixture: devices under test, each with a driver that is up at its first use."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from vhost_user.backend import VhostUserBackend, VhostUserDaemon
from vhost_user.device_types import find
from vhost_user.frontend import BlockDriver, Frontend, Queue, RngDriver, VirtioDriver
from vhost_user.frontend.queue import Readable, Writable
from vhost_user.protocol.listener import Listener
from vhost_user.testing.guest_backend import BackendError, BackendProcess
from vhost_user.testing.leaks import Resources

RETRY_SECONDS = 5.0
USUAL_QUEUE_SIZE = 256
"""Descriptors: the ring of a driver that is not told otherwise."""
MAX_FOLDER = 60
"""Characters: a socket's path has 107 at most."""

AnyDriver = TypeVar("AnyDriver", bound=VirtioDriver)


class VirtioDevice:
    """A device under test, in this process or behind a socket, and the driver that drives it.

    The driver is brought up when it is first needed, with the options given to ``attach``, ``connect`` or
    ``start``: those of :class:`vhost_user.frontend.VirtioDriver`.
    """

    def __init__(
        self,
        name: str,
        socket: str,
        options: dict[str, Any],
        *,
        backend: VhostUserBackend | None = None,
        daemon: VhostUserDaemon | None = None,
        process: BackendProcess | None = None,
    ) -> None:
        self.name = name
        self.socket = socket
        """Path of the back-end's socket."""
        self.backend = backend
        """The device itself when it runs in this process."""
        self.daemon = daemon
        """What serves it when it runs in this process."""
        self.process = process
        """The program when it is one that the fixture started."""
        self._options = options
        self._driver: VirtioDriver | None = None
        self._frontend: Frontend | None = None

    @property
    def driver(self) -> VirtioDriver:
        """The driver; brought up now if there is none yet."""
        if self._driver is None:
            return self.drive(VirtioDriver)
        return self._driver

    def drive(self, driver: Callable[..., AnyDriver], **options: Any) -> AnyDriver:
        """Bring the device up with a driver of this class, which takes the place of the one before.

        ``options`` are added to those the device was given with.
        """
        self.disconnect()
        made = driver(self._open(), **{**self._options, **options})
        self._driver = made if made.queues else made.bring_up()
        return made

    def block(self, **options: Any) -> BlockDriver:
        """A block driver: ``disk.block().read(0, 8)``."""
        if isinstance(self._driver, BlockDriver) and not options:
            return self._driver
        return self.drive(BlockDriver, **options)

    def rng(self, **options: Any) -> RngDriver:
        """A driver for an entropy device: ``device.rng().read(64)``."""
        if isinstance(self._driver, RngDriver) and not options:
            return self._driver
        return self.drive(RngDriver, **options)

    @property
    def frontend(self) -> Frontend:
        """The front-end's side of the connection: that of the driver if it is up, else a fresh one.

        A fresh one has sent nothing yet and is for tests of the messages themselves.
        """
        if self._frontend is None:
            self._open()
        assert self._frontend is not None
        return self._frontend

    def _open(self) -> Frontend:
        if self._frontend is None or self._frontend.closed:
            timeout = float(self._options.get("timeout", 10.0))
            self._frontend = Frontend.connect(self.socket, timeout=timeout, retry_seconds=RETRY_SECONDS)
        return self._frontend

    def queue(self, index: int = 0) -> Queue:
        """A queue of the driver: ``queue(0).request(readable=b"…", writable=100)``."""
        return self.driver.queue(index)

    def request(self, readable: Readable = b"", writable: Writable = 0, *, queue: int = 0) -> bytes:
        """One request on one queue: what the device wrote."""
        return self.queue(queue).request(readable, writable)

    def read_config(self, offset: int = 0, size: int = 256) -> bytes:
        """Read the device's configuration space."""
        return self.driver.read_config(offset, size)

    def disconnect(self) -> None:
        """Take the driver down and close the connection, as a VMM that ends; the next use connects again."""
        driver, self._driver = self._driver, None
        frontend, self._frontend = self._frontend, None
        if driver is not None:
            driver.close()
        if frontend is not None:
            frontend.close()

    def describe(self) -> str:
        """What failure output shows: messages, rings, what the program printed."""
        parts = []
        if self._driver is not None:
            parts.append(self._driver.describe())
        elif self._frontend is not None:
            parts += ["last messages:", *(f"  {line}" for line in self._frontend.trace.lines())]
        if self.process is not None:
            parts += ["output of the program:", self.process.log[-4000:]]
        return "\n".join(parts) or "not connected"


class _ErrorLog(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._messages.append(text)


class Virtio:
    """What the ``virtio`` fixture gives to a test."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        """Errors that devices in this process logged. The test fails in the end if there is any left here.

        A test that provokes errors looks at them and clears the list.
        """
        self.check_leaks = True
        """Whether the test fails when file descriptors, mappings or threads are left behind."""
        self.devices: list[VirtioDevice] = []
        self._before = Resources.now()
        self._resources = ExitStack()
        self._folder: Path | None = None
        self._handler = _ErrorLog(self.errors)
        logging.getLogger("vhost_user").addHandler(self._handler)

    @property
    def folder(self) -> Path:
        """Where the sockets are; a short path, removed in the end."""
        if self._folder is None:
            place = tempfile.gettempdir()
            self._folder = Path(
                tempfile.mkdtemp(prefix="virtio-", dir=place if len(place) < MAX_FOLDER else "/tmp")  # noqa: S108
            )
        return self._folder

    def attach(self, device: VhostUserBackend, **options: Any) -> VirtioDevice:
        """Serve ``device`` from threads of this process, on a socket of its own.

        ``options`` are those of ``VirtioDriver``; the driver takes all queues of the device unless they say
        ``num_queues``, and rings as large as it has unless they say ``queue_size``, but not larger than 256.
        The device's ``close`` is called in the end.
        """
        name = f"virtio-{len(self.devices)}-{type(device).__name__}"
        path = self.folder / f"{len(self.devices)}.sock"
        daemon = self._resources.enter_context(VhostUserDaemon(name, device))
        listener = self._resources.enter_context(Listener.bind(path))
        self._resources.callback(daemon.wait)
        self._resources.callback(daemon.stop)
        daemon.start(listener)
        options.setdefault("num_queues", device.num_queues())
        sizes = [device.max_queue_size_of(queue) for queue in range(device.num_queues())]
        options.setdefault("queue_size", min(USUAL_QUEUE_SIZE, *sizes))
        return self._add(VirtioDevice(name, str(path), options, backend=device, daemon=daemon))

    def make(self, device_type: str, **options: Any) -> VhostUserBackend:
        """A device by the name of its type: ``virtio.attach(virtio.make("rng", seed=7))``.

        ``options`` are those of ``vhost-user serve``, with ``_`` for ``-``. Any type that is installed can be
        named, of whichever package. Raises UnknownDeviceTypeError, OptionError, and what making it raises.
        """
        device = find(device_type).make(options)
        assert isinstance(device, VhostUserBackend)
        return device

    def connect(self, socket: str | os.PathLike[str], **options: Any) -> VirtioDevice:
        """Use the back-end that listens at ``socket``, whatever it is written in.

        ``options`` are those of ``VirtioDriver``; the driver takes one queue unless they say ``num_queues``.
        """
        return self._add(VirtioDevice(f"virtio-{len(self.devices)}", os.fspath(socket), options))

    def start(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> VirtioDevice:
        """Start a back-end program; ``{socket}`` in its words stands for the socket it is to listen at.

        It gets SIGTERM in the end, and the test fails if it does not end with status 0. Raises BackendError.
        """
        path = self.folder / f"{len(self.devices)}.sock"
        words = [os.fspath(word).replace("{socket}", str(path)) for word in command]
        if words == [os.fspath(word) for word in command]:
            raise ValueError(f"{words}: no word of the command contains {{socket}}")
        process = BackendProcess(words, path, self.folder / f"{len(self.devices)}.log")
        process.start()
        self._resources.callback(process.kill)
        return self._add(VirtioDevice(f"virtio-{len(self.devices)}", str(path), options, process=process))

    def frontend(self, socket: str | os.PathLike[str], *, timeout: float = 10.0) -> Frontend:
        """A bare front-end on the back-end at ``socket``, for tests of the messages themselves."""
        frontend = Frontend.connect(socket, timeout=timeout, retry_seconds=RETRY_SECONDS)
        self._resources.callback(frontend.close)
        return frontend

    def _add(self, device: VirtioDevice) -> VirtioDevice:
        self.devices.append(device)
        self._resources.callback(device.disconnect)
        return device

    def describe(self) -> list[tuple[str, str]]:
        """Title and text for each device, for the report of a failed test."""
        return [(f"vhost-user {device.name}", device.describe()) for device in self.devices]

    def close(self, *, failed: bool = False) -> list[str]:
        """Close everything, newest first. Returns what is wrong, a sentence each.

        After a failure nothing is looked for: the traceback keeps objects alive, and one report is enough.
        """
        problems = [] if failed else self._stop_programs()
        try:
            self._resources.close()
        finally:
            logging.getLogger("vhost_user").removeHandler(self._handler)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
        if failed:
            return []
        problems += [f"a device logged an error: {error}" for error in self.errors]
        names = tuple(device.name for device in self.devices if device.daemon is not None)
        self.devices.clear()
        if self.check_leaks:
            problems += self._before.left_behind((*names, "vhost-user back channel"))
        return problems

    def _stop_programs(self) -> list[str]:
        problems = []
        for device in self.devices:
            if device.process is not None:
                device.disconnect()
                try:
                    device.process.stop()
                except BackendError as error:
                    problems.append(str(error))
        return problems
