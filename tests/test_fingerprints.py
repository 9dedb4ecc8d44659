"""Fingerprints of the shipped configurations, as they were when the outputs of today were measured.

One that changes here makes every output of its stage be measured anew. Where the numbers changed, the stage's
`version` was raised, and the fingerprint in fingerprints.json is to be replaced; else the change is a fault.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curation.config import load_config
from curation.pipeline import build_pipeline
from datasets_media import ROOT

KNOWN: dict[str, dict[str, str]] = json.loads((ROOT / "tests/fingerprints.json").read_text())
"""Configuration and overrides -> step -> fingerprint."""
COMMIT = "0" * 40


def fingerprints(asked: str) -> dict[str, str]:
    """Step -> fingerprint of a configuration in configs/ with overrides behind it.

    Repositories stand for a commit that the output was begun with, so that the hub is not asked.
    """
    name, *overrides = asked.split(" ")
    config = load_config(str(ROOT / "configs" / name), overrides)
    refs = [ref for choice in config.choices() for ref in choice.build().models() if ref.is_on_hub]
    recorded: list[dict[str, Any]] = [
        {"name": ref.name, "asked": ref.revision, "role": ref.role, "revision": COMMIT} for ref in refs
    ]
    return {step.key: step.fingerprint for step in build_pipeline(config, recorded).steps()}


@pytest.fixture
def demo_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in place of those that `curation demo` fetches; a fingerprint takes their digest alone."""
    (tmp_path / "demo").mkdir()
    for part in ("det", "rec"):
        (tmp_path / f"demo/ch_PP-OCRv4_{part}_infer.onnx").write_text(part)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("demo_models")
@pytest.mark.parametrize("asked", KNOWN)
def test_no_fingerprint_changes_unnoticed(asked: str) -> None:
    assert fingerprints(asked) == KNOWN[asked]


def test_every_shipped_configuration_is_watched() -> None:
    shipped = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert shipped == {asked.partition(" ")[0] for asked in KNOWN}
