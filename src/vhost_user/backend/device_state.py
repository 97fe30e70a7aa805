"""The state of a device as bytes, and out of them: what a migration and an upgrade carry along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.protocol.errors import RequestRefused
from vhost_user.protocol.state_format import StateFormatError, decode_state, encode_state

if TYPE_CHECKING:
    from vhost_user.backend.backend import VhostUserBackend

_OWN, _PARTS = "device", "framework"


def state_name(backend: VhostUserBackend) -> str:
    """By what a state is known as this device's: what the class says, or its name."""
    return backend.state_name or type(backend).__name__


def save(backend: VhostUserBackend) -> bytes:
    """The state of a device whose rings are all stopped. Changes nothing of it.

    Raises RequestRefused in words when it cannot be saved, and what the device raises.
    """
    with backend.guard:
        body: dict[str, object] = {_PARTS: backend.framework_state()}
        if backend.has_state:
            body[_OWN] = backend.save_state()
        version = backend.state_version
    try:
        return encode_state(state_name(backend), version, body)
    except StateFormatError as error:
        raise RequestRefused(f"{type(backend).__name__}.save_state: {error}", rule="C125") from error


def load(backend: VhostUserBackend, data: bytes) -> None:
    """Give a device, whose rings are all stopped, the state that ``data`` is.

    What is not a state of this device is refused before the device hears of it (C127). A device that refuses
    it halfway is reset: it is as new, and alive. Raises RequestRefused in words.
    """
    try:
        body, version = decode_state(data, state_name(backend), backend.state_version)
    except StateFormatError as error:
        raise RequestRefused(str(error), rule="C127") from error
    if not isinstance(body, dict) or not isinstance(body.get(_PARTS), dict):
        raise RequestRefused("the state has none of the parts that every state has", rule="C127")
    if (_OWN in body) is not backend.has_state:
        saved = "was saved by a device that had one" if _OWN in body else "has nothing for it"
        raise RequestRefused(
            f"{type(backend).__name__} {'loads' if backend.has_state else 'has no load_state for'} a state "
            f"of its own, and this one {saved}",
            rule="C127",
        )
    with backend.guard:
        try:
            backend.load_framework_state(body[_PARTS])
            if backend.has_state:
                backend.load_state(body[_OWN], version)
        except BaseException as error:
            backend.reset_device()
            if isinstance(error, RequestRefused):
                raise
            raise RequestRefused(
                f"{type(backend).__name__}.load_state did not take it: {type(error).__name__}: {error}",
                rule="C127",
            ) from error
