"""Who may import whom."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from curation.registry import STAGES
from datasets_media import ROOT

PACKAGES = ("curation", "stages", "captioner", "tokenize_shards")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OWNERS = {
    "ray": {
        f"curation/execution/{name}.py"
        for name in (
            "cluster/joining/address",
            "cluster/joining/connection",
            "cluster/joining/head",
            "cluster/joining/logs",
            "cluster/joining/own_ray",
            "cluster/placement",
            "cluster/processes",
            "cluster/results",
            "cluster/joining/shared",
            "cluster/tasks",
            "cluster/watch",
            "driver/actor",
            "driver/decode_workers",
            "driver/exported",
            "driver/pool",
            "models/actor",
            "models/client",
            "models/notes",
            "models/pools",
            "services",
        )
    },
    "av": {
        "curation/doctor/decoders.py",
        "curation/doctor/golden.py",
        "curation/media/decode.py",
        "curation/media/pictures/filters.py",
        "curation/media/pictures/orientation.py",
        "curation/media/skipping.py",
    },
    "decord": {"curation/media/decord.py"},
    "obstore": {f"curation/storage/buckets/{name}.py" for name in ("connection", "credentials", "retries")},
    "faiss": {"stages/clusters.py", "stages/duplicates.py"},
    "lance": {"tokenize_shards/shards/exports/lance.py"},
    "pillow_heif": {"curation/media/image.py"},
    "PIL": {
        "curation/doctor/decoders.py",
        "curation/doctor/golden.py",
        "curation/media/image.py",
        "curation/media/resize.py",
        "curation/whatif/contact_sheet.py",
        "stages/thumbnail.py",
        "stages/clip/squares.py",
        "stages/phash.py",
        "captioner/engines/chat.py",
        "captioner/engines/vllm.py",
        "captioner/labels.py",
    },
    "scenedetect": {"stages/scenes/detection.py"},
    "rapidocr": {"stages/text.py"},
    "open_clip": {"stages/clip/tower.py", "stages/hps.py"},
    "transformers": {"tokenize_shards/vision/emu3.py", "tokenize_shards/vision/checkpoint.py"},
    "vl_convert": {"curation/report/page/vega.py", "curation/whatif/plot.py"},
    "tiktoken": {"tokenize_shards/documents/text.py"},
    "tokenizers": {"tokenize_shards/documents/text.py"},
    "vllm": {"captioner/engines/vllm.py"},
    "httpx2": {"captioner/engines/chat.py", "captioner/server.py"},
    "torch": {
        "curation/doctor/machine.py",
        "curation/pipeline/precision.py",
        "curation/pipeline/weights.py",
        "stages/aesthetic.py",
        "stages/clip/tower.py",
        "stages/flow.py",
        "stages/hps.py",
        "stages/scenes/transnet.py",
        "tokenize_shards/vision/emu3.py",
        "tokenize_shards/vision/arithmetic.py",
        "tokenize_shards/vision/spatial.py",
        "tokenize_shards/vision/layers/norm.py",
        "tokenize_shards/vision/layers/products.py",
        "tokenize_shards/vision/layers/substitute.py",
        "tokenize_shards/vision/layers/threefold.py",
        "tokenize_shards/vision/layers/winograd.py",
        "tokenize_shards/vision/checkpoint.py",
        "tokenize_shards/shards/loader.py",
        "tokenize_shards/shards/exports/emu3.py",
    },
    "huggingface_hub": {
        "curation/pipeline/fetching.py",
        "curation/pipeline/models.py",
        "curation/report/cards/header.py",
        *(f"curation/storage/hub/{name}.py" for name in ("faults", "place", "repository", "upload")),
    },
}
"""Heavy libraries, and the modules that may import them."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its place in the repository."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {place_of(name) for name in found}


def place_of(module: str) -> str:
    """`curation.stages.color` is `stages.color`: `curation/stages` is a link."""
    inner = module.removeprefix("curation.")
    return inner if inner.partition(".")[0] in PACKAGES[1:] else module


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_stay_with_their_owners(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    foreign = {name for name in tops(path) & set(OWNERS) if here not in OWNERS[name]}
    assert not foreign


MODULES_OF_STAGES = {
    ".".join(place_of(target.partition(":")[0]).split(".")[:2]) for target in STAGES.built_in.values()
}
"""Such as `curation.stages.color`; of a stage that is a package, the package."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_core_knows_no_stage_and_stages_know_no_stage(path: Path) -> None:
    """What stages share, such as CLIP, is in a package without a stage, and knows no stage either."""
    package = path.relative_to(ROOT).parts[0]
    assert tops(path) & set(PACKAGES) <= {"curation", package}
    if package == "stages":
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
        imported = {".".join(name.split(".")[:2]) for name in imports(path)}
        assert imported & MODULES_OF_STAGES <= {own}


ROOMS = (
    "version",
    "errors",
    "records",
    "storage",
    "stage",
    "registry",
    "media",
    "splitter",
    "dataset_stage",
    "config",
    "ingest",
    "pipeline",
    "ledger",
    "report",
    "execution",
    "estimate",
    "doctor",
    "whatif",
    "cli",
    "api",
)
"""What `curation/` holds. Each imports only from itself and from what stands before it."""
ROOMS_FOLDER = ROOT / "curation"


def test_rooms_of_the_core_build_on_each_other_in_order() -> None:
    found = {
        path.stem
        for path in ROOMS_FOLDER.iterdir()
        if not path.is_symlink() and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert found - {"__init__", "__main__"} == set(ROOMS)
    upward = []
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "curation" or parts[1] not in ROOMS:
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "curation" and room and ROOMS.index(room) > ROOMS.index(parts[1]):
                upward.append(f"{'/'.join(parts)} imports {name}")
    assert not upward


def test_no_module_imports_another_in_a_circle() -> None:
    """Imports for the type checker alone, and those inside of functions, count."""
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imported_modules(path)
        for path in FILES
        if path.name != "__init__.py"
    }
    circles = [name for name in graph if name in reachable(graph, name)]
    assert not circles


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """The modules that one leads to by one import or more."""
    found: set[str] = set()
    todo = graph[start] & set(graph)
    while todo:
        found |= todo
        todo = set().union(*(graph[name] for name in todo)) & set(graph) - found
    return found


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, or imports names from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {place_of(name) for name in found}


def test_there_is_one_namespace() -> None:
    """`import stages` would find somebody else's package of that name, or a second copy of ours."""
    for package in PACKAGES[1:]:
        link = ROOT / "curation" / package
        assert link.is_symlink()
        assert link.resolve() == ROOT / package
    tests = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    split = []
    for path in [*FILES, *tests]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            split += [f"{path}: {name}" for name in names if name.partition(".")[0] in PACKAGES[1:]]
    assert not split


def test_one_broad_except_in_the_project() -> None:
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert [place.partition(":")[0] for place in broad] == ["curation/errors/isolation.py"]


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


def test_no_two_classes_share_a_name() -> None:
    """Private ones neither: who reads a name should know what is meant."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_two_test_files_share_a_name() -> None:
    """pytest would import the first of them for both, and refuse to run anything."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, number in names.items() if number > 1]
