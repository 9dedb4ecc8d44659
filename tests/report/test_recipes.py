"""Reports of all configurations that come along and of all that the documentation shows, with stand-ins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.execution.run import write_report
from datasets_media import ROOT, worked, write_media, write_vocabulary

TINY: dict[str, dict[str, Any]] = {
    "aesthetic": {"weights": "stand-in", "head": "stand-in", "head_sha256": None},
    "hps": {"weights": "stand-in"},
    "text": {"detector": None, "recognizer": None},
}
"""What stands in for the models of a filter; None takes the setting away, so that its default holds."""
LOOK = re.compile(r'<button type="button" class="look[^>]*aria-label="([^"]*)">(.*?)</button>', re.DOTALL)


def recipes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of each; one with a stage that its reader writes is tested elsewhere."""
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        yield path.name, yaml.safe_load(path.read_text())
    for path in sorted((ROOT / "docs/recipes").glob("*.md")):
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL):
            data = yaml.safe_load(block)
            if {"name", "input", "output"} <= data.keys() and "stages" not in data:
                yield path.name, data


RECIPES = dict(recipes())


def with_stand_ins(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same steps and rules over generated media, without a model that has to be fetched."""
    found = data | {
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "stand_ins": "allow",
        "run": {"max_failed_fraction": 0.9},
    }
    for kind in ("images", "videos"):
        if kind not in data:
            continue
        text = str(data[kind]["filters"])
        section = dict(data[kind])
        for name, changes in TINY.items():
            if name in text:
                settings = section.get(name, {}) | changes
                section[name] = {key: value for key, value in settings.items() if value is not None}
        found[kind] = section
    if data.get("captions", {}).get("engine") not in (None, "sidecar"):
        found["captions"] = {"engine": "stand-in"}
    if "tokens" in data:
        found["tokens"] = {"weights": "stand-in", "area": 4096, "fps": 1, "max_frames": 8}
    if "shards" in data:
        found["shards"] = data["shards"] | {"vocabulary": str(write_vocabulary(folder / "v.tiktoken"))}
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_report_of_a_recipe_shows_a_picture_of_every_sample(name: str, tmp_path: Path) -> None:
    media = write_media(tmp_path / "in")
    for path in media.glob("*.jpg"):
        path.with_suffix(".txt").write_text("a picture")
    pipeline, ledger, _ = worked(with_stand_ins(RECIPES[name], tmp_path))
    page = Path(write_report(pipeline, ledger)[1]).read_text()
    looks = LOOK.findall(page)
    assert len({label for label, _ in looks}) > 1
    without = {label for label, content in looks if "<img" not in content and "failed" not in label}
    assert all(label.startswith("cut_off.jpg") for label in without)  # rejected by its header
    assert "<span><strong>images</strong> </span>" not in page
