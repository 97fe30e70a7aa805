"""``Jack``: a socket that something is plugged into, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from vhost_user.spec.sound import Direction, JackFeature, JackInfo

JackKind = Literal["line-out", "speaker", "headphone", "spdif-out", "line-in", "aux", "mic", "spdif-in"]
KINDS: tuple[JackKind, ...] = get_args(JackKind)

# "Default device" of a pin's default configuration (High Definition Audio, 7.3.3.31).
_DEFAULT_DEVICE: dict[JackKind, int] = {
    "line-out": 0x0,
    "speaker": 0x1,
    "headphone": 0x2,
    "spdif-out": 0x4,
    "line-in": 0x8,
    "aux": 0x9,
    "mic": 0xA,
    "spdif-in": 0xC,
}
_INPUTS = 0x8
"""From this one on they are inputs."""
# Pin capabilities (7.3.4.9).
_PRESENCE, _HEADPHONE, _OUTPUT, _INPUT = 1 << 2, 1 << 3, 1 << 4, 1 << 5
MOST = 15
"""The largest association, and the largest sequence."""


class Jack:
    """A jack of a sound device: ``Sound(jacks=[Jack("headphone")])``.

    With ``remap`` the driver may say which association and sequence it belongs to. Raises ValueError for a
    kind that there is not.
    """

    def __init__(self, kind: JackKind = "headphone", *, connected: bool = True, remap: bool = False) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a jack: there are {', '.join(KINDS)}")
        self.kind: JackKind = kind
        self.connected = connected
        """Something is plugged in."""
        self.remap = remap
        self.association = 1
        self.sequence = 0
        self._tell: Callable[[Jack], object] | None = None

    @property
    def direction(self) -> Direction:
        """Which way the sound goes, as the guest sees it."""
        return Direction.INPUT if _DEFAULT_DEVICE[self.kind] >= _INPUTS else Direction.OUTPUT

    def plug(self) -> None:
        """Plug something in; from any thread. The guest is told."""
        self._set(True)

    def unplug(self) -> None:
        """Take it out; from any thread. The guest is told."""
        self._set(False)

    def _set(self, connected: bool) -> None:
        if self.connected != connected:
            self.connected = connected
            if self._tell is not None:
                self._tell(self)

    def belong_to(self, tell: Callable[[Jack], object]) -> None:
        """Call ``tell`` after each change. Raises ValueError when it belongs to a device already."""
        if self._tell is not None:
            raise ValueError(f"{self!r} belongs to a device already")
        self._tell = tell

    def info(self) -> JackInfo:
        """What the driver is told when it asks."""
        configuration = _DEFAULT_DEVICE[self.kind] << 20 | self.association << 4 | self.sequence
        capabilities = _PRESENCE | (_INPUT if self.direction is Direction.INPUT else _OUTPUT)
        if self.kind == "headphone":
            capabilities |= _HEADPHONE
        features = JackFeature.REMAP if self.remap else 0
        return JackInfo(0, features, configuration, capabilities, int(self.connected))

    def __repr__(self) -> str:
        return f"<Jack {self.kind}, {'connected' if self.connected else 'empty'}>"
