"""docs/security.md: every promise names a test, and the tests are there."""

from __future__ import annotations

import ast
import re

from datasets_media import ROOT

PAGE = (ROOT / "docs/security.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(\w+)`", PAGE)


def names_in(path: str) -> set[tuple[str, str]]:
    """Class, or "", and name of each test of a file."""
    found = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(("", node.name))
        elif isinstance(node, ast.ClassDef):
            found |= {(node.name, inner.name) for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_named_test_is_there() -> None:
    assert len(NAMED) > 40
    assert [name for path, owner, name in NAMED if (owner, name) not in names_in(path)] == []


def test_every_row_names_a_test() -> None:
    promises = PAGE.partition("## Promises")[2]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(rows) > 25
    assert [row for row in rows if "::test_" not in row] == []
