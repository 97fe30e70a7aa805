"""What fast paths were called before: the old names go on working, each with a warning."""

from __future__ import annotations

import pytest

from tests.engine.pair import MakePair
from vhost_user.devices.storage import MemoryStorage, Storage
from vhost_user.engine.blk import accelerator as old
from vhost_user.engine.blk.fast_path import BlockFastPath, MemoryFastPath
from vhost_user.engine.blk.file_fast_path import FileFastPath
from vhost_user.engine.device.fast_path import FastPath
from vhost_user.engine.device.vring import Vring


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("Accelerator", FastPath),
        ("BlockAccelerator", BlockFastPath),
        ("MemoryBlock", MemoryFastPath),
        ("FileBlock", FileFastPath),
    ],
)
def test_classes(name: str, now: type) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is now called {now.__name__}") as seen:
        assert getattr(old, name) is now
    assert seen[0].filename == __file__


def test_a_name_that_never_was() -> None:
    with pytest.raises(AttributeError, match="Turbo"):
        old.Turbo  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("method", [Vring.process, Vring.process_batch])
def test_the_argument_of_process(make_pair: MakePair, method: object) -> None:
    pair = make_pair()
    fast_path = MemoryFastPath(bytearray(4096))
    pair.add([(0).to_bytes(16, "little")], [513])
    with pytest.warns(DeprecationWarning, match="is now called fast_path") as seen:
        assert method(pair.vring, lambda _: None, accelerator=fast_path) == 1  # type: ignore[operator]
    assert seen[0].filename == __file__
    assert fast_path.accepted == 1
    fast_path.close()


def test_the_method_of_a_storage() -> None:
    storage = MemoryStorage(4096)
    with pytest.warns(DeprecationWarning, match="is now called fast_path"):
        fast_path = storage.accelerator(read_only=False)
    assert isinstance(fast_path, MemoryFastPath)
    fast_path.close()


def test_a_storage_that_has_the_old_method() -> None:
    asked = []

    with pytest.warns(DeprecationWarning, match=r"Mine\.accelerator is now called fast_path"):

        class Mine(Storage):
            def accelerator(self, *, read_only: bool) -> BlockFastPath | None:
                asked.append(read_only)
                return None

    assert Mine.fast_path(object(), read_only=True) is None  # type: ignore[arg-type]
    assert asked == [True]
