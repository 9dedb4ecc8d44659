"""Configurations: what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.config import load_config, parse_config
from curation.errors import ConfigError
from datasets_media import ROOT


def minimal(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": "t",
        "input": ["in"],
        "output": "out",
        "images": {"filters": ["resolution", {"any_of": ["color", "text"]}]},
    }
    return config | changes


def problems(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    return str(caught.value)


@pytest.mark.parametrize("name", ["demo.yaml", "emu3.yaml", "understanding.yaml"])
def test_shipped_configurations_are_valid(name: str) -> None:
    assert load_config(str(ROOT / "configs" / name)).general.name == name.removesuffix(".yaml")


def test_every_problem_is_named_at_once_with_a_suggestion() -> None:
    message = problems(
        minimal(
            nam="x",
            run={"wrokers": 2, "unit_images": 0},
            images={
                "filters": ["resolution", "colour", "text"],
                "text": {"max_text_coverage": 1.5, "fps": "two"},
                "resolution": {"min_widht": 3},
            },
        )
    )
    for part in (
        "7 problems",
        "nam: unknown; did you mean 'name'?",
        "run.wrokers: unknown; did you mean 'workers'?",
        "run.unit_images: input should be greater than or equal to 1",
        "images.filters.colour: unknown; did you mean 'color'?",
        "images.text.max_text_coverage: input should be less than or equal to 1, not 1.5",
        "images.text.fps: input should be a valid number, not 'two'",
        "images.resolution.min_widht: unknown; did you mean 'min_width'?",
    ):
        assert part in message
    assert len(message.splitlines()) == 8


def test_settings_of_a_stage_that_does_not_run_are_refused() -> None:
    message = problems(minimal(images={"filters": ["resolution"], "color": {"min_colorfulness": 3.0}}))
    assert "images.color: has settings but does not stand in images.filters" in message


def test_stage_listed_twice_is_refused() -> None:
    assert "color stands there twice" in problems(
        minimal(images={"filters": ["color", {"any_of": ["color"]}]})
    )


@pytest.mark.parametrize("filters", ["resolution", [{"one_of": ["color"]}], [3]])
def test_malformed_rules_are_refused(filters: Any) -> None:
    assert "images.filters" in problems(minimal(images={"filters": filters}))


def test_branch_without_a_stage_is_refused() -> None:
    assert "images.filters: any_of is empty" in problems(minimal(images={"filters": [{"any_of": []}]}))


def test_missing_settings_are_named() -> None:
    message = problems({"images": {"filters": []}, "shards": {}})
    assert "name: is required" in message
    assert "shards.vocabulary: is required" in message
    assert "shards: needs captions" in message


def test_strings_are_not_taken_for_numbers() -> None:
    assert "run.workers" in problems(minimal(run={"workers": "2"}))


def test_stand_ins_are_refused_unless_allowed() -> None:
    images = {"filters": ["aesthetic"], "aesthetic": {"weights": "stand-in", "head": "stand-in"}}
    message = problems(
        minimal(images=images, captions={"engine": "stand-in"}, tokens={"weights": "stand-in"})
    )
    for key in ("images.aesthetic", "captions", "tokens"):
        assert f"{key}: names a stand-in model" in message
    assert parse_config(minimal(images=images, stand_ins="allow")).images


def test_emu3_refuses_stand_ins() -> None:
    with pytest.raises(ConfigError, match="captions: names a stand-in model"):
        load_config(str(ROOT / "configs/emu3.yaml"), ["captions.engine=stand-in"])


def test_half_a_stand_in_is_refused() -> None:
    images = {"filters": ["aesthetic"], "aesthetic": {"weights": "stand-in"}}
    assert "both be stand-ins" in problems(minimal(images=images, stand_ins="allow"))


def test_overrides_replace_nested_settings(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    config = load_config(
        str(path), ["images.text.max_text_coverage=0.5", "run.workers=3"], output="elsewhere"
    )
    assert config.images is not None
    assert config.images.stages["images.text"].settings.model_dump()["max_text_coverage"] == 0.5
    assert config.run.workers == 3
    assert config.general.output == "elsewhere"


@pytest.mark.parametrize("override", ["images.text", "name.x=3", "run.workers=[1"])
def test_malformed_overrides_are_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    with pytest.raises(ConfigError, match="--set"):
        load_config(str(path), [override])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_files_that_hold_no_settings_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        load_config(str(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(str(tmp_path / "none.yaml"))


def test_templates_with_unknown_fields_are_refused(tmp_path: Path) -> None:
    for name in ("image-short", "clip-short"):
        (tmp_path / f"{name}.txt").write_text("{frames} frames")
    message = problems(
        minimal(
            captions={"engine": "stand-in", "prompts": str(tmp_path), "lengths": {"short": 1.0}},
            tokens={"weights": "stand-in"},
            shards={"vocabulary": "v", "clip_meta": "{rows}x{columns}"},
            stand_ins="allow",
        )
    )
    assert "image-short.txt can't be filled in: it may use {num_frames}, {seconds}, {language}" in message
    assert "clip_meta can't be filled in: it may use {rows}, {cols}, {frames}, {fps}, {seconds}" in message


def test_settings_inside_of_others_have_their_own_suggestions() -> None:
    captions = {"engine": "stand-in", "gate": {"min_word": 3}, "serve": {"prot": 8000}}
    message = problems(minimal(captions=captions, stand_ins="allow"))
    assert "captions.gate.min_word: unknown; did you mean 'min_words'?" in message
    assert "captions.serve.prot: unknown; did you mean 'port'?" in message


def test_own_stage_can_be_named_and_a_wrong_target_is_refused() -> None:
    config = parse_config(minimal(stages={"mine": "stages.color:ColorStage"}, images={"filters": ["mine"]}))
    assert config.images is not None
    assert list(config.images.stages) == ["images.mine"]
    assert "stages.mine: cannot load 'no.such:Stage'" in problems(minimal(stages={"mine": "no.such:Stage"}))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    assert load_config(str(path)).general.name == path.stem
