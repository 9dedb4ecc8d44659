"""Arrow reads on the thread that asks: a process that ends while its readers are about is aborted."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from datasets_media import ROOT

FOLDERS = ("curation", "stages", "captioner", "tokenize_shards")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
READERS = {"iter_batches", "read_row_group", "read_row_groups", "read_table", "read_json", "read_csv"}


def readers_in(code: str) -> Iterator[ast.Call]:
    """Calls that read on several threads unless they are told not to."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
            yield node


def stays_here(call: ast.Call) -> bool:
    """Whether it, or the options that it is given, say `use_threads=False`."""
    given = [keyword for node in ast.walk(call) if isinstance(node, ast.Call) for keyword in node.keywords]
    return any(
        keyword.arg == "use_threads"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
        for keyword in given
    )


def test_files_are_read_on_one_thread() -> None:
    calls = [(path.relative_to(ROOT), call) for path in FILES for call in readers_in(path.read_text())]
    assert len(calls) > 10
    assert not [f"{path}:{call.lineno}" for path, call in calls if not stays_here(call)]


def test_calls_are_told_apart() -> None:
    code = "pq.read_table(f)\nt.iter_batches(use_threads=False)\npj.read_json(f, O(use_threads=False))"
    assert [stays_here(call) for call in readers_in(code)] == [False, True, True]
