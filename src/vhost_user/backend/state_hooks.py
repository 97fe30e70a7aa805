"""The part of the trait that is about the state of a device: what a migration and an upgrade carry along."""

from __future__ import annotations

from typing import Any


class StateHooks:
    """What a device overrides to say what its state is; :class:`VhostUserBackend` has these methods."""

    state_version: int = 1
    """The version of what ``save_state`` returns; a state of a later one is refused before ``load_state``."""
    state_name: str = ""
    """By what a saved state is known as this device's; the name of the class unless this says else."""

    def save_state(self) -> object:
        """The state of the device, for a migration or an upgrade: bytes, or plain data.

        Plain data is None, booleans, numbers, text, bytes, and lists, tuples and mappings (with text for
        keys) of them. All rings are stopped, nothing is in flight. Change nothing: the device may go on
        here. Called in the control thread. Overridden together with ``load_state``; a device that has
        nothing to carry along and says so by returning None is one that can be migrated, one that does not
        override it is not.
        """
        raise NotImplementedError(f"{type(self).__name__} must define save_state()")

    def load_state(self, state: Any, version: int) -> None:
        """Go on with what ``save_state`` returned elsewhere, in its ``version`` (``state_version`` there).

        The state may come from an attacker: look at every type, length and number. Tuples are lists now.
        Whatever is raised refuses the state (C125), and the device is reset. All rings are stopped. Called
        in the control thread.
        """
        del state, version
        raise NotImplementedError(f"{type(self).__name__} must define load_state(state, version)")

    @property
    def has_state(self) -> bool:
        """Whether the device defines ``save_state`` and ``load_state``."""
        return (
            type(self).save_state is not StateHooks.save_state
            and type(self).load_state is not StateHooks.load_state
        )

    def framework_state(self) -> dict[str, object]:
        """What the framework itself keeps for the device and carries along with its state; plain data."""
        return {}

    def load_framework_state(self, parts: dict[str, Any]) -> None:
        """Take ``framework_state`` of elsewhere, which may be an attacker's. ``load_state`` comes after."""
        del parts
