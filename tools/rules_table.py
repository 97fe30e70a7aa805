"""Writes docs/rules.md: which test file tests which rule.

Found by the rule ids in the names of the tests.

Run it after adding or renaming tests: ``.venv/bin/python tools/rules_table.py``. ``--check`` only says
whether the file is current. The rules themselves, one a line, stand in tools/rules.tsv.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "rules.md"
RULE_ID = re.compile(r"(?<![A-Za-z0-9])([CVH])(\d{2,3})(?![0-9A-Za-z])")

SECTIONS = (
    ("C", "Conformance: messages, memory, ring life cycle, programs"),
    ("V", "Virtqueue rules"),
    ("H", "Hostile input"),
)

INTRODUCTION = """\
# Rules and the tests that hold them

Made by `tools/rules_table.py` from the names of the tests; do not edit. Code and tests cite these ids.
A dash means that no test carries the id: the rule is not tested under its name, or what it is
about does not exist here yet.
"""


def rules() -> dict[str, str]:
    """Every rule id with its text, in the order of tools/rules.tsv."""
    lines = (ROOT / "tools" / "rules.tsv").read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines if line)


def ids_in(text: str) -> Iterator[str]:
    """The rule ids in a name such as ``test_C035_C037_overlap`` or in a parametrize id."""
    for kind, number in RULE_ID.findall(text.replace("_", " ")):
        yield f"{kind}{int(number):0{2 if kind == 'H' else 3}d}"


def names_in(tree: ast.AST) -> Iterator[str]:
    """The names of test functions and classes.

    And the ids of parametrized cases (``id="C071 misaligned"``).
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.lower().startswith("test"):
                yield node.name
        elif isinstance(node, ast.keyword) and node.arg in ("id", "ids"):
            for value in ast.walk(node.value):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def tested() -> dict[str, set[str]]:
    """For each rule id the test files, relative to the root, that carry it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in names_in(ast.parse(path.read_text(), str(path))):
            for rule in ids_in(name):
                found[rule].add(path.relative_to(ROOT).as_posix())
    return dict(found)


def text() -> str:
    """The whole of docs/rules.md."""
    known, files = rules(), tested()
    parts = [INTRODUCTION]
    for kind, title in SECTIONS:
        mine = {rule: sentence for rule, sentence in known.items() if rule[0] == kind}
        covered = sum(rule in files for rule in mine)
        parts.append(
            f"## {title}\n\n{covered} of {len(mine)} rules are tested by name.\n\n"
            "| id | rule | tests |\n|---|---|---|\n"
        )
        for rule, sentence in mine.items():
            links = ", ".join(
                f"[{path.removeprefix('tests/')}](../{path})" for path in sorted(files.get(rule, ()))
            )
            parts.append(
                f"| {rule} | {sentence.replace('|', '&#124;').replace('<', '&lt;')} | {links or '-'} |\n"
            )
        parts.append("\n")
    return "\n".join(parts[:1]) + "\n" + "".join(parts[1:]).rstrip("\n") + "\n"


def unknown() -> dict[str, set[str]]:
    """Ids that tests carry and no rule has: most likely typing errors."""
    known = rules()
    return {rule: files for rule, files in tested().items() if rule not in known}


def main(arguments: list[str]) -> int:
    """Write the table, or check it."""
    for rule, files in unknown().items():
        sys.stderr.write(f"there is no rule {rule}: {', '.join(sorted(files))}\n")
        return 1
    new = text()
    if "--check" in arguments:
        current = TABLE.exists() and TABLE.read_text() == new
        if not current:
            sys.stderr.write("docs/rules.md is not current: run .venv/bin/python tools/rules_table.py\n")
        return 0 if current else 1
    TABLE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
