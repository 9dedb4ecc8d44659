"""What is asked: which text a sample gets, and what changes with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from curation.captioner.prompt import drawn_length, load_prompts
from curation.captioner.settings import CaptionConfig
from curation.captioner.stage import CaptionStage
from curation.captioner.structure import NAMES, Parts, parse, schema
from curation.errors import ConfigError

ALL = {"short": 1.0, "medium": 1.0, "long": 1.0}


@pytest.mark.parametrize("kind", ["image", "clip"])
@pytest.mark.parametrize("length", ["short", "medium", "long"])
def test_every_kind_and_length_has_a_text_of_its_own(kind: str, length: str) -> None:
    prompts = load_prompts(None, ALL, structured=True)
    text = prompts.text(kind, length, structured=False, num_frames=12, seconds=9.87, language="Thai")
    assert "{" not in text
    assert "in Thai" in text
    assert ("12 frames" in text and "9.9 seconds" in text) == (kind == "clip")
    assert len(set(prompts.texts.values())) == 7


def test_structured_prompt_names_every_part() -> None:
    prompts = load_prompts(None, {"long": 1.0}, structured=True)
    text = prompts.text("image", "long", structured=True, num_frames=1, seconds=0.0, language="English")
    assert all(f'"{name}"' in text for name in NAMES)
    assert text.startswith("Describe this image")


def test_lengths_are_drawn_by_weight_and_stay_with_the_sample() -> None:
    ids = [f"sample{number}" for number in range(4000)]
    drawn = [drawn_length(name, {"short": 1.0, "medium": 1.0, "long": 2.0}, 0) for name in ids]
    counts = Counter(drawn)
    # Four standard deviations of a binomial draw: sqrt(4000 * 0.5 * 0.5) = 32, of a quarter 27.
    assert abs(counts["long"] - 2000) < 128
    assert abs(counts["short"] - 1000) < 110
    assert drawn == [drawn_length(name, {"long": 2.0, "medium": 1.0, "short": 1.0}, 0) for name in ids]
    assert drawn != [drawn_length(name, {"short": 1.0, "medium": 1.0, "long": 2.0}, 1) for name in ids]


def test_length_without_weight_is_never_drawn() -> None:
    assert {drawn_length(str(n), {"short": 0.0, "long": 0.1}, 0) for n in range(500)} == {"long"}


def test_own_prompts_take_the_place_of_those_that_come_along(tmp_path: Path) -> None:
    for kind in ("image", "clip"):
        (tmp_path / f"{kind}-long.txt").write_text(f"{kind} in {{language}}?\n")
    prompts = load_prompts(str(tmp_path), {"long": 1.0}, structured=False)
    assert prompts.text("clip", "long", structured=False, language="Greek") == "clip in Greek?"


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the prompt .*image-long\.txt"):
        load_prompts(str(tmp_path), {"long": 1.0}, structured=False)
    for kind in ("image", "clip"):
        (tmp_path / f"{kind}-long.txt").write_text("{frames}")
    with pytest.raises(ConfigError, match=r"image-long\.txt can't be filled in: it may use {num_frames}"):
        load_prompts(str(tmp_path), {"long": 1.0}, structured=False)


def test_every_letter_of_a_prompt_counts_and_its_place_does_not(tmp_path: Path) -> None:
    def settings(folder: str, text: str) -> object:
        place = tmp_path / folder
        place.mkdir()
        for kind in ("image", "clip"):
            (place / f"{kind}-long.txt").write_text(text)
        config = CaptionConfig(engine="stand-in", prompts=str(place), lengths={"long": 1.0})
        return CaptionStage(config).measure_settings()

    assert settings("a", "What?") == settings("b", "What?") != settings("c", "What")


def test_parts_become_one_caption() -> None:
    parts = parse('{"subject": "A dog", "motion": "It runs.", "camera": " ", "style": "film\\n noir"}')
    assert parts is not None
    assert parts.caption == "A dog. It runs. film noir."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A dog.",
        "{}",
        '{"subject": "A dog"}',
        '{"subject": 1, "motion": "", "camera": "", "style": ""}',
        "[]",
    ],
)
def test_what_does_not_follow_the_schema_has_no_parts(text: str) -> None:
    assert parse(text) is None


def test_schema_asks_for_every_part_and_nothing_else() -> None:
    asked = schema()
    assert asked["required"] == ["subject", "motion", "camera", "style"] == list(Parts.model_fields)
    assert asked["additionalProperties"] is False
    assert asked["properties"]["camera"] == {"type": "string", "maxLength": 1200}
