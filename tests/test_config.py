"""Configurations: what is refused, and how it is said."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.config import load_config, parse_config
from curation.config.config import WorkerRange
from curation.errors import ConfigError
from curation.pipeline import build_pipeline
from datasets_media import ROOT, config_data


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
    assert "drop images.color (by --set images.color=null" in message


def test_sections_that_an_override_leaves_over_are_named_and_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    images = {"filters": ["resolution", "color"], "color": {}, "resolution": {"min_width": 5}}
    path.write_text(yaml.safe_dump(minimal(images=images)))
    with pytest.raises(ConfigError, match=r"drop images\.color"):
        load_config(str(path), ["images.filters=[resolution]"])
    config = load_config(str(path), ["images.filters=[resolution]", "images.color=null"])
    assert config.images is not None
    assert list(config.images.stages) == ["images.resolution"]
    with pytest.raises(ConfigError, match=r"drop images\.text"):
        load_config(str(path), ["images.text.max_text_coverage=0.2"])
    # A setting's null is a value.
    config = load_config(str(path), ["images.resolution.min_width=null"])
    assert config.images is not None
    assert config.images.stages["images.resolution"].settings.model_dump()["min_width"] is None


def test_stage_that_does_not_measure_a_kind_is_refused_with_those_that_do() -> None:
    message = problems(minimal(images={"filters": [{"any_of": ["color", "flow"]}]}))
    (line,) = (line for line in message.splitlines() if "flow" in line)
    assert line.strip().startswith("images.filters: flow measures no images; aesthetic, clusters, color,")
    assert "text, thumbnail do" in line
    assert "scenes" not in line
    assert parse_config(minimal(videos={"filters": ["color", "flow"]})).videos


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


@pytest.mark.parametrize(
    ("workers", "problem"),
    [
        ("2", "run.workers: must be a number from 1 on, or min and max, not '2'"),
        (0, "run.workers: must be a number from 1 on, or min and max, not 0"),
        (True, "run.workers: must be a number from 1 on, or min and max, not True"),
        ([1, 2], "run.workers: must be a number from 1 on, or min and max, not [1, 2]"),
        ({"min": 0}, "run.workers.min: "),
        ({"max": 2.5}, "run.workers.max: "),
        ({"min": 3, "max": 2}, "run.workers: min 3 is above max 2"),
        ({"most": 2}, "run.workers.most: unknown; known are max, min"),
    ],
)
def test_workers_that_are_no_range(workers: object, problem: str) -> None:
    assert problem in problems(minimal(run={"workers": workers}))


@pytest.mark.parametrize(
    ("workers", "in_cluster", "alone"),
    [  # wanted with 0, 4 and 16 CPUs: by a cluster of others that may grow, by this machine alone
        (None, [1, 4, 16], [1, 4, 16]),
        (3, [3, 3, 3], [3, 3, 3]),
        ({"min": 6}, [6, 6, 16], [6, 6, 16]),
        ({"max": 6}, [6, 6, 6], [1, 4, 6]),
        ({"min": 2, "max": 6}, [6, 6, 6], [2, 4, 6]),
    ],
)
def test_workers_that_are_wanted(workers: object, in_cluster: list[int], alone: list[int]) -> None:
    found = parse_config(minimal(run={"workers": workers})).run.workers
    assert [found.wanted(cpus, can_grow=True) for cpus in (0, 4, 16)] == in_cluster
    assert [found.wanted(cpus, can_grow=False) for cpus in (0, 4, 16)] == alone


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
    assert config.run.workers == WorkerRange(min=3, max=3)
    assert config.general.output == "elsewhere"


@pytest.mark.parametrize(
    "override",
    [
        *("images.text", "name.x=3", "run.workers=[1", "=3", ".=3", "images..x=3", "images.text=", "run.=1"),
        *("images.filters.0=color", "run={workers: 1, workers: 2}", "name=!!python/name:os.system", "a=\x00"),
    ],
)
def test_malformed_overrides_are_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(minimal()))
    with pytest.raises(ConfigError, match="--set"):
        load_config(str(path), [override])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "must hold a mapping of settings, not nothing"),
        (b"# nothing\n", "must hold a mapping of settings, not nothing"),
        (b"[1, 2]", "must hold a mapping of settings, not a list"),
        (b"just words", "must hold a mapping of settings, not 'just words'"),
        (b"a: [", "is not valid YAML"),
        (b"a:\n\tb: 1", "is not valid YAML"),
        (b"a: \x00", "is not valid YAML"),
        (b"a: " + b"[" * 5000, "is not valid YAML"),
        (b"a: 1\n---\nb: 2", "is not valid YAML"),
        (b"a: 2024-99-99", "is not valid YAML"),
        (b"a: *b", "is not valid YAML"),
        (b"? [1, 2]\n: 3", "is not valid YAML"),
        ("name: \xe9".encode("latin-1"), "is not a text in UTF-8"),
        ("name: x".encode("utf-16"), "is not a text in UTF-8"),
        (b"run: {workers: 1, workers: 2}", "the key 'workers' stands there twice"),
        (b"name: a\ninput: [b]\nname: c", r"the key 'name' stands there twice\s+.*line 3"),
    ],
)
def test_files_that_hold_no_settings_are_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)


def test_byte_order_mark_is_no_part_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(minimal()).encode())
    assert load_config(str(path)).general.name == "t"


@pytest.mark.parametrize(
    "odd",
    [{1: 2}, {None: 1}, {True: {}}, {"images": {1: 2, "filters": []}}, {"run": {2: 3}}, {"stages": {1: 2}}],
)
def test_keys_that_are_no_names_are_named(odd: dict[Any, Any]) -> None:
    assert "problem" in problems(minimal() | odd)


def test_settings_go_to_the_run_record_as_json(tmp_path: Path) -> None:
    """YAML has dates and sets, which JSON has not."""
    captions = {"engine": "vllm", "model": "m", "engine_args": {"some_date": date(2024, 1, 1)}}
    assert "captions.engine_args.some_date" in problems(minimal(captions=captions))


class TestPaths:
    """`~`, `$NAME` and `${NAME}` in every setting that names a file, a folder, a model or a URL."""

    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("WHERE", "/data")
        monkeypatch.delenv("NOWHERE", raising=False)

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("~/x", "/home/me/x"),
            ("~", "/home/me"),
            ("$WHERE/x", "/data/x"),
            ("${WHERE}x/~", "/datax/~"),
            ("a$$b/x~", "a$b/x~"),
            ("./~/x", "./~/x"),
            ("https://h/~me/x", "https://h/~me/x"),
        ],
    )
    def test_home_and_variables(self, text: str, path: str) -> None:
        general = parse_config(minimal(input=[text], output=text)).general
        assert general.input == [path]
        assert general.output == path

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("$NOWHERE/x", "the environment variable NOWHERE is not set"),
            ("a${NOWHERE}", "the environment variable NOWHERE is not set"),
            ("a$", "a $ without a variable's name"),
            ("${", "a $ without a variable's name"),
            ("~no_such_user/x", "whose home folder that is is not known"),
            ("", "at least 1 character"),
        ],
    )
    def test_what_stands_for_nothing_is_refused_by_name(self, text: str, problem: str) -> None:
        message = problems(minimal(input=["a", text], output=text))
        assert re.search(rf"input\.1: .*{re.escape(problem)}", message)
        assert re.search(rf"output: .*{re.escape(problem)}", message)

    def test_every_setting_that_names_a_place(self) -> None:
        """Each in its own way wrong, so that none is forgotten."""
        wrong = {"weights": "$NOWHERE/w"}
        message = problems(
            minimal(
                images={
                    "filters": ["aesthetic", "hps", "text"],
                    "aesthetic": wrong | {"head": "$NOWHERE/h"},
                    "hps": wrong,
                    "text": {"detector": "$NOWHERE/d"},
                },
                videos={"filters": ["flow"], "flow": wrong},
                captions={
                    "engine": "openai",
                    "model": "$NOWHERE/m",
                    "url": "http://$NOWHERE/v1",
                    "prompts": "$NOWHERE/p",
                    "serve": {"python": "$NOWHERE/python"},
                },
                tokens=wrong,
                shards={"vocabulary": "$NOWHERE/v"},
            )
        )
        assert message.count("the environment variable NOWHERE is not set") == 11


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
    config = parse_config(
        minimal(stages={"mine": "curation.stages.color:ColorStage"}, images={"filters": ["mine"]})
    )
    assert config.images is not None
    assert list(config.images.stages) == ["images.mine"]
    assert "stages.mine: cannot load 'no.such:Stage'" in problems(minimal(stages={"mine": "no.such:Stage"}))
    for target in ("os:path", "curation.config.config:Config", "json:dumps"):
        assert f"stages.mine: {target} is no stage" in problems(minimal(stages={"mine": target}))


def test_stage_that_adds_something_has_a_section_of_its_own() -> None:
    """In the order of the registry, whatever the order in the file; a configuration's own come last."""
    depth = {"stages": {"depth": "fault_stages:Depth"}, "depth": {"area": 4096, "weights": "stand-in"}}
    tokens = {"tokens": {"area": 4096, "weights": "stand-in"}, "captions": {"engine": "stand-in"}}
    config = parse_config(minimal(**depth, **tokens, stand_ins="allow"))
    assert list(config.additions) == ["captions", "tokens", "depth"]
    assert [choice.key for choice in config.choices()][-3:] == ["captions", "tokens", "depth"]
    assert build_pipeline(config).producer("depth_codes").key == "depth"
    message = problems(minimal(**depth, images={"filters": ["depth"]}, stand_ins="allow"))
    assert "images.filters.depth: unknown" in message
    assert "depht: unknown; did you mean 'depth'?" in problems(minimal(**{**depth, "depht": {}}))
    assert "color: unknown" in problems(minimal(color={}))


def test_two_stages_that_add_the_same_are_refused() -> None:
    twice = {"captions": {"engine": "sidecar"}, "mine": {"engine": "sidecar"}}
    message = problems(minimal(stages={"mine": "fault_stages:NotingCaptions"}, **twice))
    assert "mine: adds the caption, as captions does; drop one of them" in message


def test_shards_name_what_adds_what_they_lack() -> None:
    shards = {"shards": {"vocabulary": "v"}}
    message = problems(minimal(captions={"engine": "sidecar"}, **shards))
    assert "shards: needs tokens, which the configuration does not have; add it or drop shards" in message
    assert "needs captions" not in message


def test_another_splitter_can_be_named() -> None:
    stages = {"stages": {"mine": "fault_stages:AssertingScenes"}}
    own = minimal(videos={"filters": ["flow"], "mine": {"min_clip_s": 3.0}}, **stages)
    config = parse_config(own)
    assert config.videos is not None
    assert config.videos.splitter is not None
    assert (config.videos.splitter.key, config.videos.splitter.settings.min_clip_s) == ("videos.mine", 3.0)
    both = problems(minimal(videos={"filters": [], "mine": {}, "scenes": {}}, **stages))
    assert "videos: mine and scenes both split; keep one of them" in both
    assert "images.mine: unknown" in problems(minimal(images={"filters": [], "mine": {}}, **stages))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path) -> None:
    assert load_config(str(path)).general.name == path.stem


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("tokens", "precision", "foo"),
        ("tokens", "fps", [1]),
        ("captions", "engine_args", 3),
        ("images.phash", "unknown", 1),
    ],
)
def test_wrong_setting_is_one_problem_and_not_also_that_the_section_is_missing(
    section: str, setting: str, value: object
) -> None:
    """Shards need tokens and captions, duplicates the column that phash adds."""
    data = config_data(Path("in"), Path("out"), Path("v"))
    data["images"] = {"filters": ["phash", "duplicates"], "phash": {}}
    place = data
    for name in section.split("."):
        place = place[name]
    place[setting] = value
    with pytest.raises(ConfigError) as found:
        parse_config(data)
    assert str(found.value).startswith(f"configuration: 1 problem\n  {section}.{setting}: ")
