"""Nothing that is read can become code: what no module of ours calls, or only in a safe way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curation.errors import CurationError
from datasets_media import ROOT

PACKAGES = ("curation", "stages", "captioner", "tokenize_shards")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
READS_CODE = {
    "pickle": "pickles run code",
    "marshal": "as pickles do",
    "shelve": "as pickles do",
    "dill": "as pickles do",
    "joblib": "as pickles do",
    "xml": "expands entities",
    "lxml": "expands entities",
}
"""Modules that nothing read from outside may go through."""
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
ONLY_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_no_module_imports_what_runs_code() -> None:
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(path.name, name) for name in names if name.partition(".")[0] in READS_CODE}
    assert found == set()


def test_files_are_loaded_as_data() -> None:
    wrong = []
    for path, node, name in calls():
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if (
            name in NEVER
            or given.get("shell") == "True"
            or given.get("trust_remote_code", "False") != "False"
        ):
            wrong.append(f"{path.name}:{node.lineno} {name}")
        if name in ONLY_WITH and given.get(ONLY_WITH[name][0]) != str(ONLY_WITH[name][1]):
            wrong.append(f"{path.name}:{node.lineno} {name} without {ONLY_WITH[name][0]}")
    assert wrong == []


def test_weights_that_bring_code_are_refused(tmp_path: Path) -> None:
    """A head of the aesthetic predictor with a pickled call in it."""
    from curation.stages.aesthetic import load_head

    hit = tmp_path / "hit"

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (hit,)

    path = tmp_path / "head.pth"
    torch.save({"weight": Bomb()}, path)
    with pytest.raises(CurationError):
        load_head(path)
    assert not hit.exists()


def test_a_pickled_array_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(path, allow_pickle=False)
