"""Troubles of the machine: the run stops with exit 3, and no row says that a source is to blame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_stages import SETUP_TROUBLES, UNLOADABLE, UnloadableColor

from curation.errors import EnvironmentFault
from datasets_media import Bench, contents, curation, write_config


def color_only(folder: Path, output: Path, stage: str = "color", **run: Any) -> dict[str, Any]:
    """One filter on images and videos: the color stage, or a stage of `fault_stages`."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stage).lstrip("_")
    settings = {"min_colorfulness": None, "min_untinted_colorfulness": None}
    data: dict[str, Any] = {
        "name": "troubles",
        "input": [str(folder)],
        "output": str(output),
        "images": {"filters": [name], name: settings},
        "videos": {"filters": [name], name: settings, "scenes": {"min_clip_s": 0.5}},
        "run": {"workers": 1, "unit_images": 3, "max_failed_fraction": 1.0, **run},
    }
    return data if stage == "color" else data | {"stages": {name: f"fault_stages:{stage}"}}


def said_of_sources(output: Path) -> list[str]:
    """Files of the ledger that hold what was found out about sources."""
    return [name for name in contents(output) if name.startswith(("sources/", "ledger/"))]


# A stage that can't be set up


@pytest.mark.parametrize("trouble", SETUP_TROUBLES)
def test_stage_that_cannot_be_set_up_stops_the_run_and_is_named(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv(UNLOADABLE, trouble)
    bench = Bench(color_only(media, tmp_path / "out", UnloadableColor.__name__))
    with pytest.raises(EnvironmentFault, match=r"^(images|videos)\.unloadable_color can't be set up: \w+"):
        bench.run()
    assert not list((tmp_path / "out").glob("ledger/*/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["damaged library", "sys.exit", "worker's error"])
def test_worker_that_cannot_set_up_a_stage_ends_the_run_at_once(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv(UNLOADABLE, trouble)
    config = write_config(tmp_path / "c.yaml", color_only(media, tmp_path / "out", UnloadableColor.__name__))
    said = curation("run", "-c", config, code=3)
    assert "EnvironmentFault: images.unloadable_color can't be set up: " in said
    assert "Traceback" not in said
    assert not said_of_sources(tmp_path / "out")
