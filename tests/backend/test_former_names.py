"""Names that changed are still found, and say what they are called now."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "former", "name"),
    [
        ("vhost_user", "Backend", "BackChannel"),
        ("vhost_user.backend", "Backend", "BackChannel"),
        ("vhost_user.protocol.responder", "Request", "ReceivedMessage"),
        ("vhost_user.conformance", "Bench", "CheckContext"),
    ],
)
def test_a_former_name_is_the_new_one_with_a_warning(module: str, former: str, name: str) -> None:
    where = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{former} is now called {name}"):
        found = getattr(where, former)
    assert found is getattr(where, name)


@pytest.mark.parametrize("module", ["vhost_user", "vhost_user.backend", "vhost_user.protocol.responder"])
def test_a_name_that_never_was_is_not_found(module: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing
