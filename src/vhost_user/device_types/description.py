"""``DeviceType``: one description of a device type, which everything that works with device types reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

from vhost_user.device_types.errors import BrokenDeviceTypeError, OptionError
from vhost_user.device_types.identity import capability_type, device_id
from vhost_user.device_types.options import made

Version = tuple[int, int]
"""Major and minor number of a VMM."""
EVER: Version = (0, 0)
NEVER: Version = (1 << 16, 0)


class HasQueues(Protocol):
    """What a command line must know of a device: ``VhostUserBackend`` has all of it."""

    def num_queues(self) -> int:
        """Number of virtqueues."""

    def max_queue_size(self) -> int:
        """Descriptors of the largest ring."""

    def protocol_features(self) -> int:
        """Whether there is a configuration space, among others."""


def _no_properties(_device: HasQueues) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class QemuDevice:
    """A device of QEMU, and what is to be known about it from version to version."""

    driver: str
    """Its name after ``-device``."""
    _: KW_ONLY
    since: Version = EVER
    """The first version that has it, as far as it is newer than what anybody still runs."""
    reconnect_since: Version = NEVER
    """The first version whose device starts on a chardev that may still be connecting.

    A chardev with ``reconnect``, and one that listens with ``wait=off``, connects after QEMU has started.
    Such a device waits for that by itself. All others talk to the back-end while QEMU builds them, on a
    chardev that has no connection yet, and end QEMU: "Failed to set msg fds".
    """
    reconnect_before: Version = NEVER
    """The first version whose device does so no more."""
    kvm_before: Version = EVER
    """Up to this version the device refuses to start without KVM ("requires kvm")."""
    packed: bool = False
    """Its property ``packed`` may be on: it asks the back-end whether that has packed rings."""
    properties: Callable[[HasQueues], Sequence[str]] = _no_properties
    """Properties besides ``chardev``, each as ``name=value``."""
    arguments: Callable[[HasQueues, str], list[str]] | None = None
    """All arguments, out of the device and the name of the chardev.

    For a device that takes more than one ``-device``.
    """

    def connects_later(self, version: Version) -> bool:
        """Whether QEMU of this version starts with it while its chardev has no connection yet."""
        return self.reconnect_since <= version < self.reconnect_before


@dataclass(frozen=True, kw_only=True)
class HarmlessRequest:
    """A request that does no harm and is surely answered, so that rings can be seen at work.

    The conformance suite and the fuzzer make it: they try any back-end of the type, not only ours.
    """

    queue: int = 0
    """The queue that takes it."""
    every_queue: bool = False
    """Each other queue takes it, too."""
    readable: Callable[[], bytes] = bytes
    """What the device reads."""
    writable: Callable[[], int] = int
    """Bytes that the device may write."""
    wrong: Callable[[bytes, int], str | None] = lambda _data, _length: None
    """What is wrong with an answer, in words, or None.

    Out of the whole writable part and the length that the device says it wrote.
    """
    larger: Callable[[int], int] = int
    """The size of a writable part of at least so many bytes that such a request may have as well."""


@dataclass(frozen=True, kw_only=True)
class DeviceType:
    """One device type, described for everybody: command, programs, JSON files, tests, guests, conformance.

    The module it stands in imports ``vhost_user.spec`` and ``vhost_user.device_types``, the standard library,
    and nothing heavy: it is read for ``--help`` and by programs that never serve the device.
    """

    name: str
    """The word after ``vhost-user serve``; its file or its entry point has the same."""
    title: str
    """Half a sentence for lists."""
    virtio_id: int | None = None
    """The type's number (virtio 1.4, section 5); by default that of ``name``."""
    device: str = ""
    """``module:Class`` of the device; none for a type that is only described."""
    options: type[Any] | None = None
    """A dataclass whose fields are made by ``option``.

    Without it the arguments of the class are the options.
    """
    build: Callable[[Any], Any] | None = None
    """Makes the device out of the options; by default the class, called with them as keywords.

    Raises OptionError for options that do not go together, ValueError or OSError for what cannot be served.
    """
    features: Sequence[str] = ()
    """What ``--print-capabilities`` lists (C141)."""
    capability: str = ""
    """The type in the conventions of back-end programs (C141, C145); by default that of ``name``."""
    examples: Sequence[str] = ()
    """Options that show what can be done, each to follow the name of the program."""
    notes: str = ""
    """A few lines for the end of ``--help``."""
    qemu: QemuDevice | None = None
    """QEMU's device for the type; none: the generic one."""
    other_vmms: Mapping[str, str] = field(default_factory=dict)
    """What plugs it into a guest of other VMMs, by their names; ``{socket}`` stands for the socket's path."""
    guest_modules: Sequence[str] = ()
    """Modules of the Linux kernel that a guest's driver needs; what these need is found."""
    queues: int = 1
    """How many queues a driver sets up at least."""
    config_space: bool = False
    """A back-end that offers no configuration space is not of this type, whatever it resembles."""
    harmless: HarmlessRequest | None = None
    """A request to see its rings at work by."""
    resembles: Callable[[int, int], bool] | None = None
    """Whether feature bits and a number of queues that are offered look like this type.

    The protocol does not tell the type of a device.
    """

    @property
    def can_be_served(self) -> bool:
        """Whether there is a device, not only a description."""
        return bool(self.device or self.build)

    @property
    def number(self) -> int | None:
        """The virtio id, if there is one."""
        return self.virtio_id if self.virtio_id is not None else device_id(self.name)

    @property
    def capability_type(self) -> str:
        """The type in the conventions of back-end programs (C141)."""
        return self.capability or capability_type(self.name)

    def load(self) -> type[Any]:
        """The class of the device: queues and configuration space stand there. Imports it.

        Raises BrokenDeviceTypeError when it is not there or cannot be imported.
        """
        module, _, name = self.device.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:
            raise BrokenDeviceTypeError(
                f"{self.device!r}, the class of device {self.name}, cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, type):
            raise BrokenDeviceTypeError(f"{self.device!r} of device {self.name} is {found!r} and not a class")
        return found

    def build_from(self, options: Any) -> Any:
        """The device, out of an object of ``options``."""
        if self.build is not None:
            return self.build(options)
        return self.load()(**vars(options))

    def make(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        """The device, out of options by name: ``find("rng").make(seed=7)``.

        Raises OptionError for options that there are not or that exclude each other, and what ``build``
        raises.
        """
        given = {**(values or {}), **more}
        if not self.can_be_served:
            raise OptionError(f"{self.name} is described and has no device: write one")
        if self.options is None:
            return self.load()(**given)
        return self.build_from(made(self.options, given))
