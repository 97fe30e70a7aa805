"""docs/rules.md says what the tests say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "rules_table.py"


@pytest.fixture
def rules_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules_table", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_is_current(rules_table: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert rules_table.main(["--check"]) == 0, capsys.readouterr().err


def test_ids_are_found_in_names_and_parameters(rules_table: ModuleType) -> None:
    tree = rules_table.ast.parse(
        "def test_C035_C037_overlap(): ...\n"
        "async def test_H5_index(): ...\n"
        "def helper_C999(): ...\n"
        "x = pytest.param(1, id='V009 one byte')\n"
    )
    found = [rule for name in rules_table.names_in(tree) for rule in rules_table.ids_in(name)]
    assert sorted(found) == ["C035", "C037", "V009"]


def test_every_rule_is_listed_once(rules_table: ModuleType) -> None:
    table = rules_table.text()
    for rule in rules_table.rules():
        assert table.count(f"\n| {rule} | ") == 1
