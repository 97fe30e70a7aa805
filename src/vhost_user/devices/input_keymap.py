"""Which keys a character takes on a keyboard with the usual layout of the USA, and the names of keys."""

from __future__ import annotations

from typing import TypeAlias

from vhost_user.spec.input_keys import Key

KeyLike: TypeAlias = "Key | int | str"
"""A key: its code, its name in Linux with or without ``KEY_`` (``"enter"``), or ``"ctrl"``, ``"shift"`` …"""

_PLAIN = {
    "\n": Key.KEY_ENTER,
    "\t": Key.KEY_TAB,
    "\b": Key.KEY_BACKSPACE,
    "\x1b": Key.KEY_ESC,
    " ": Key.KEY_SPACE,
    "-": Key.KEY_MINUS,
    "=": Key.KEY_EQUAL,
    "[": Key.KEY_LEFTBRACE,
    "]": Key.KEY_RIGHTBRACE,
    ";": Key.KEY_SEMICOLON,
    "'": Key.KEY_APOSTROPHE,
    "`": Key.KEY_GRAVE,
    "\\": Key.KEY_BACKSLASH,
    ",": Key.KEY_COMMA,
    ".": Key.KEY_DOT,
    "/": Key.KEY_SLASH,
    **{each: Key[f"KEY_{each.upper()}"] for each in "abcdefghijklmnopqrstuvwxyz0123456789"},
}
_ABOVE = dict(zip('_+{}:"~|<>?)!@#$%^&*(', "-=[];'`\\,./0123456789", strict=True))
"""The character on the same key without shift."""
_SHORT = {
    "ctrl": Key.KEY_LEFTCTRL,
    "shift": Key.KEY_LEFTSHIFT,
    "alt": Key.KEY_LEFTALT,
    "altgr": Key.KEY_RIGHTALT,
    "meta": Key.KEY_LEFTMETA,
    "super": Key.KEY_LEFTMETA,
    "return": Key.KEY_ENTER,
    "escape": Key.KEY_ESC,
}
_MOST = 0x3FF


def keys_for(character: str) -> tuple[Key, ...]:
    """The keys to be held, the last one last. Raises ValueError for a character that takes none."""
    if character in _PLAIN:
        return (_PLAIN[character],)
    below = character.lower() if character.isascii() and character.isupper() else _ABOVE.get(character)
    if below is None:
        raise ValueError(f"no key of this keyboard types {character!r}: press the keys that do")
    return (Key.KEY_LEFTSHIFT, _PLAIN[below])


def key_code(key: KeyLike) -> int:
    """The code of a key. Raises ValueError for a name that no key has."""
    if isinstance(key, int):
        if not 0 < key <= _MOST:
            raise ValueError(f"{key} is not the code of a key: it must be 1 to {_MOST}")
        return key
    if key in _PLAIN:
        return _PLAIN[key]
    name = key.upper()
    for word in (name, f"KEY_{name}", f"BTN_{name}"):
        if word in Key.__members__:
            return Key[word]
    if key.lower() in _SHORT:
        return _SHORT[key.lower()]
    raise ValueError(f"{key!r} is not the name of a key, such as 'a', 'enter', 'ctrl' or 'KEY_F1'")
