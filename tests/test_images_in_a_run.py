"""Images in a run: what stages see of them, and that nothing else has a say in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.pipeline import pipeline
from datasets_media import Bench, built, write_photo


def fingerprints(data: dict[str, Any]) -> dict[str, str]:
    return {step.key: step.fingerprint for step in built(data)[1].steps()}


def test_what_is_measured_of_halves_is_measured_anew_when_these_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {
        "name": "halves",
        "input": ["in"],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution", "color", "phash", "thumbnail"]},
        "videos": {"filters": ["phash", "thumbnail"]},
    }
    before = fingerprints(data)
    monkeypatch.setattr(pipeline, "HALVINGS_VERSION", 10**6)
    after = fingerprints(data)
    assert {key for key in before if before[key] != after[key]} == {
        "images.color",
        "images.phash",
        "images.thumbnail",
    }


def test_what_is_measured_does_not_depend_on_the_other_filters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, size in enumerate([(901, 700), (640, 480), (200, 90)]):
        write_photo(tmp_path / f"in/{number}.jpg", number, size=size)

    def rows(*filters: str) -> dict[str, Any]:
        loose = {"color": {"min_colorfulness": None, "min_untinted_colorfulness": None}}
        images = {name: settings for name, settings in loose.items() if name in filters}
        data = {
            "name": "alone",
            "input": [str(tmp_path / "in")],
            "output": str(tmp_path / "-".join(filters)),
            "images": {"filters": list(filters), **images},
        }
        bench = Bench(data)
        bench.run()
        return {name: bench.rows(f"images.{name}") for name in filters}

    names = ("thumbnail", "color", "phash")
    together = rows(*names)
    assert together == {name: rows(name)[name] for name in names}
    assert together == rows(*reversed(names))
