"""Device types as the suite sees them: with a request that is harmless and surely answered, if one is known.

What a type's request is stands in its description (``vhost_user.device_types``), not here, and not in the
code of a device: the suite knows no back-end of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from vhost_user.conformance.findings import Deviation
from vhost_user.device_types import DeviceType, UnknownDeviceTypeError, everything, find, names
from vhost_user.device_types.described_only import DESCRIBED_ONLY
from vhost_user.spec.features import ProtocolFeature

NET_HEADER = 12


@dataclass(frozen=True, slots=True)
class Profile:
    """A device type as the suite sees it.

    ``readable()`` and ``writable()`` make a request (bytes, and sizes in bytes of what is to be written),
    ``verify(data, length)`` raises Deviation when the answer is wrong: ``data`` is the whole writable part,
    ``length`` what used.len says. ``larger(n)`` is the size of a writable part of at least n bytes that such
    a request may have as well. ``queue`` takes such requests, ``queues`` are needed at least; with
    ``every_queue`` each other takes them, too.
    """

    name: str
    works: bool = True
    queue: int = 0
    queues: int = 1
    queue_size: int = 64
    readable: Callable[[], bytes] = bytes
    writable: Callable[[], int] = int
    verify: Callable[[bytes, int], None] = lambda _data, _length: None
    larger: Callable[[int], int] = int
    every_queue: bool = False


def blk_request(kind: int, sector: int = 0) -> bytes:
    """The header of a block request."""
    return struct.pack("<IIQ", kind, 0, sector)


def profile_of(description: DeviceType) -> Profile:
    """The profile of a described device type; without a harmless request its rings cannot be seen at work."""
    harmless = description.harmless
    if harmless is None:
        return Profile(description.name, works=False, queues=description.queues)

    def verify(data: bytes, length: int) -> None:
        wrong = harmless.wrong(data, length)
        if wrong is not None:
            raise Deviation(wrong)

    return Profile(
        description.name,
        queue=harmless.queue,
        queues=description.queues,
        readable=harmless.readable,
        writable=harmless.writable,
        verify=verify,
        larger=harmless.larger,
        every_queue=harmless.every_queue,
    )


GENERIC = Profile("generic", works=False)
_MORE = {
    profile.name: profile
    for profile in (
        GENERIC,
        # If somebody takes every packet that the guest sends, sending one is a request without an answer.
        Profile("net-receiving", queue=1, queues=2, readable=lambda: bytes(NET_HEADER + 60)),
    )
}


class _Profiles(Mapping[str, Profile]):
    """All profiles by name. A description is loaded when its profile is asked for, not for the names.

    A description that cannot be used raises BrokenDeviceTypeError.
    """

    def __getitem__(self, name: str) -> Profile:
        if name in _MORE:
            return _MORE[name]
        try:
            return profile_of(find(name))
        except UnknownDeviceTypeError:
            return profile_of(DESCRIBED_ONLY[name])

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*_MORE, *names(), *DESCRIBED_ONLY]))

    def __len__(self) -> int:
        return len(list(iter(self)))


PROFILES: Mapping[str, Profile] = _Profiles()


def candidates(features: int, num_queues: int, protocol_features: int = 0) -> list[str]:
    """The device types that the offered features look like; the protocol itself does not tell.

    Where several look alike, as a clock and sensors do, only their answers tell. Those that need a
    configuration space come first: others refuse their harmless request, and not the other way round (entropy
    is given to whoever asks in whatever words).
    """
    has_config = bool(protocol_features & ProtocolFeature.CONFIG)
    found = [
        description
        for description in (*everything().types, *DESCRIBED_ONLY.values())
        if description.resembles is not None
        and description.resembles(features, num_queues)
        and (has_config or not description.config_space)
    ]
    return [each.name for each in sorted(found, key=lambda each: not each.config_space)]


def guess(features: int, num_queues: int, protocol_features: int = 0) -> str:
    """The device type that the offered features look like, unless there are several: ``generic``."""
    found = candidates(features, num_queues, protocol_features)
    return found[0] if len(found) == 1 else GENERIC.name
