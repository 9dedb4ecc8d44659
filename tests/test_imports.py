"""Who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from datasets_media import ROOT

PACKAGES = ("curation", "stages", "captioner", "tokenize_shards")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OWNERS = {
    "ray": {"curation/pool.py"},
    "av": {
        "curation/media/decode.py",
        "curation/media/pictures/filters.py",
        "curation/media/pictures/orientation.py",
    },
    "decord": {"curation/media/decord.py"},
    "faiss": {"stages/clusters.py", "stages/duplicates.py"},
    "pillow_heif": {"curation/media/image.py"},
    "PIL": {
        "curation/media/image.py",
        "stages/thumbnail.py",
        "stages/aesthetic.py",
        "stages/hps.py",
        "stages/phash.py",
        "captioner/engines/openai.py",
        "captioner/engines/vllm.py",
        "captioner/labels.py",
    },
    "scenedetect": {"stages/scenes/detection.py"},
    "rapidocr": {"stages/text.py"},
    "open_clip": {"stages/aesthetic.py", "stages/hps.py"},
    "transformers": {"tokenize_shards/emu3.py", "tokenize_shards/checkpoint.py"},
    "tiktoken": {"tokenize_shards/text.py"},
    "tokenizers": {"tokenize_shards/text.py"},
    "vllm": {"captioner/engines/vllm.py"},
    "httpx2": {"captioner/engines/openai.py", "captioner/server.py"},
    "torch": {
        "stages/aesthetic.py",
        "stages/flow.py",
        "stages/hps.py",
        "stages/scenes/transnet.py",
        "tokenize_shards/emu3.py",
        "tokenize_shards/winograd.py",
        "tokenize_shards/checkpoint.py",
        "tokenize_shards/loader.py",
        "tokenize_shards/export.py",
    },
    "huggingface_hub": {"curation/models.py"},
}
"""Heavy libraries, and the modules that may import them."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_stay_with_their_owners(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    foreign = {name for name in tops(path) & set(OWNERS) if here not in OWNERS[name]}
    assert not foreign


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_core_knows_no_stage_and_stages_know_no_stage(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert tops(path) & set(PACKAGES) <= {"curation", package}
    if package == "stages":
        own = ".".join(path.relative_to(ROOT).parts[:2])
        others = {name for name in imports(path) if name.startswith("stages") and not name.startswith(own)}
        assert not others


def test_modules_of_the_core_do_not_import_each_other_in_a_circle() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {
            name for name in top_level_imports(path) if name.startswith("curation.")
        }
        for path in FILES
        if path.name != "__init__.py"
    }
    done: set[str] = set()
    while ready := {
        name for name, needs in graph.items() if name not in done and not (needs & set(graph)) - done
    }:
        done |= ready
    assert not set(graph) - done


def top_level_imports(path: Path) -> set[str]:
    """Imports that run when the module is imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_one_broad_except_in_the_project() -> None:
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert [place.partition(":")[0] for place in broad] == ["curation/isolation.py"]


def test_every_import_is_declared() -> None:
    declared = (ROOT / "pyproject.toml").read_text().lower().replace("-", "_")
    names = {
        "PIL": "pillow",
        "faiss": "faiss_cpu",
        "cv2": "opencv_python_headless",
        "yaml": "pyyaml",
        "scenedetect": "scenedetect_headless",
    }
    names |= {"open_clip": "open_clip_torch"}
    used = set().union(*(tops(path) for path in FILES)) - set(sys.stdlib_module_names) - set(PACKAGES)
    assert not {name for name in used if f'"{names.get(name, name)}' not in declared}
