"""What every registered stage must keep to. A new stage is covered by its line in the registry."""

from __future__ import annotations

import ast
import math
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.dataset_stage import GIVEN_COLUMNS, DatasetStage
from curation.execution.worker.measure import isolate
from curation.media.halvings import Halvings
from curation.pipeline.models import STAND_IN, resolve_revision
from curation.records import Sample, Source
from curation.registry import STAGES
from curation.splitter import Splitter
from curation.stage import GRID_FPS, KeepMax, Media, Setup, Stage, StageConfig, View
from datasets_media import ROOT
from generated import population

REQUIRED: dict[str, dict[str, Any]] = {
    "aesthetic": {"weights": STAND_IN, "head": STAND_IN, "head_sha256": None},
    "captions": {"engine": STAND_IN},
    "hps": {"weights": STAND_IN},
    "tokens": {"weights": STAND_IN, "area": 64 * 64},
}
"""Settings without which a stage can't run here; everything else is tried with its defaults."""

HEAVY = {
    "torch",
    "cv2",
    "av",
    "ray",
    "transformers",
    "vllm",
    "open_clip",
    "rapidocr",
    "scenedetect",
    "onnxruntime",
    "faiss",
}

MEASURING = sorted(
    name for name in STAGES.built_in if not issubclass(STAGES.load(name), Splitter | DatasetStage)
)
DATASET_WIDE = sorted(name for name in STAGES.built_in if issubclass(STAGES.load(name), DatasetStage))


def build(name: str, **changes: Any) -> Stage[Any]:
    stage = STAGES.load(name)
    return stage(stage.Config(**REQUIRED.get(name, {}), **changes))


def ready(name: str) -> Stage[Any]:
    stage = build(name)
    stage.setup(Setup("cpu", {ref.role: resolve_revision(ref) for ref in stage.models()}))
    return stage


def example(kind: str, seed: int) -> tuple[Sample, Source]:
    video = kind == "clip"
    source = Source(
        source_id=f"source{seed}",
        uri=f"{seed}.any",
        kind="video" if video else "image",
        size_bytes=1,
        etag="e",
        width=160,
        height=96,
        metadata={"caption": "a picture of noise"},
    )
    if video:
        return Sample.of_span(source.source_id, 0.0, 3.0), source
    return Sample.of_image(source), source


def frames_for(view: View | None, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the view asks for them: smooth noise that moves."""
    if view is None:
        return np.empty((0, 0, 0, 3), np.uint8), np.empty(0)
    number = 1 if kind == "image" else view.count or math.ceil(3 * (view.fps or GRID_FPS))
    height, width = (64, 64) if view.sizing else (96, 160)
    base = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    still = base.repeat(8, 0).repeat(8, 1)
    return np.stack([np.roll(still, 3 * step, axis=1) for step in range(number)]), np.arange(number) / 4


def media_of(stage: Stage[Any], kind: str, seeds: Sequence[int]) -> tuple[list[Sample], list[Media]]:
    samples, media = [], []
    for seed in seeds:
        sample, source = example(kind, seed)
        pixels, times = frames_for(stage.view(sample.kind), kind, seed)
        pixels.setflags(write=False)
        samples.append(sample)
        media.append(Media(source, pixels, times, [Halvings(frame) for frame in pixels]))
    return samples, media


KINDS = [(name, kind) for name in MEASURING for kind in sorted(STAGES.load(name).kinds)]
OTHER_KINDS = [(name, kind) for name in MEASURING for kind in {"image", "clip"} - STAGES.load(name).kinds]


@pytest.mark.parametrize("name", STAGES.built_in)
def test_name_in_the_registry_is_the_stages_own(name: str) -> None:
    assert STAGES.load(name).name == name


@pytest.mark.parametrize("name", STAGES.built_in)
def test_pickles_before_setup(name: str) -> None:
    stage = build(name)
    again = pickle.loads(pickle.dumps(stage))
    assert again.config == stage.config


@pytest.mark.parametrize("name", STAGES.built_in)
def test_module_imports_nothing_heavy(name: str) -> None:
    path = ROOT / (STAGES.built_in[name].partition(":")[0].replace(".", "/") + ".py")
    top_level = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in top_level if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top_level if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize("name", STAGES.built_in)
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        build(name, no_such_setting=1)


@pytest.mark.parametrize("name", STAGES.built_in)
def test_settings_are_frozen(name: str) -> None:
    config = build(name).config
    assert type(config).model_config["frozen"]
    for field in type(config).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, field, None)


@pytest.mark.parametrize("name", STAGES.built_in)
def test_every_setting_says_what_it_is(name: str) -> None:
    """A string follows each field, as the house style asks."""
    config = STAGES.load(name).Config
    path = Path(sys.modules[config.__module__].__file__ or "")
    body = next(
        node.body
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), f"{ast.unparse(field.target)} has no docstring"


@pytest.mark.parametrize("name", STAGES.built_in)
def test_every_column_is_explained_in_a_sentence(name: str) -> None:
    for column, declared in STAGES.load(name).columns.items():
        assert declared.meaning.endswith("."), f"{column}: {declared.meaning}"
        assert "|" not in declared.meaning.replace("`", ""), "the card's table has it as a cell"


@pytest.mark.parametrize("name", STAGES.built_in)
def test_bytes_that_no_decision_needs_are_large(name: str) -> None:
    """Of a picture more than a hash of a few bytes per frame."""
    columns = STAGES.load(name).columns
    assert {column for column in columns if columns[column].type == pa.binary()} - {"phash"} == {
        column for column in columns if columns[column].large
    }


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_rows_hold_exactly_the_declared_columns(name: str, kind: str) -> None:
    stage = ready(name)
    samples, media = media_of(stage, kind, [1, 2, 3])
    rows = isolate(stage, samples, lambda sample, _: media[samples.index(sample)])
    assert [row.error for row in rows] == [None, None, None]
    assert all(set(row.values) == set(stage.columns) for row in rows)


@pytest.mark.parametrize("name", STAGES.built_in)
def test_kinds_are_some_of_those_that_there_are(name: str) -> None:
    assert STAGES.load(name).kinds
    assert STAGES.load(name).kinds <= {"image", "clip"}


@pytest.mark.parametrize(("name", "kind"), OTHER_KINDS)
def test_other_kinds_than_declared_cannot_be_measured(name: str, kind: str) -> None:
    stage = ready(name)
    samples, media = media_of(stage, kind, [1])
    (row,) = isolate(stage, samples, lambda sample, _: media[samples.index(sample)])
    assert not row.ok


@pytest.mark.parametrize("name", ["captions", "tokens"])
def test_what_all_kept_samples_go_through_takes_every_kind(name: str) -> None:
    assert STAGES.load(name).kinds == {"image", "clip"}


def test_splitters_make_clips() -> None:
    for name in STAGES.built_in:
        if issubclass(STAGES.load(name), Splitter):
            assert STAGES.load(name).kinds == {"clip"}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_preparing_needs_no_setup_and_keeps_times_and_source(name: str, kind: str) -> None:
    """Nor may it write into pixels that other stages look at: those are read-only here."""
    stage = build(name)
    _, media = media_of(stage, kind, [1])
    (item,) = media
    again = pickle.loads(pickle.dumps(stage)).prepare(item)
    for prepared in (stage.prepare(item), again):
        assert prepared.source == item.source
        assert prepared.pts_s.tolist() == item.pts_s.tolist()
        assert len(prepared.pixels) == len(item.pixels)
        assert prepared.halvings == item.halvings
        assert prepared.pixels.dtype == np.uint8


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_batch_equals_singles(name: str, kind: str) -> None:
    stage = ready(name)
    samples, pixels = media_of(stage, kind, [1, 2, 3])
    media = [stage.prepare(item) for item in pixels]
    singles = [stage.measure([sample], [item])[0] for sample, item in zip(samples, media, strict=True)]
    assert stage.measure(samples, media) == singles


THRESHOLDS = [(name, setting) for name in STAGES.built_in for setting in STAGES.load(name).thresholds()]


@pytest.mark.parametrize(("name", "setting"), THRESHOLDS)
def test_threshold_keeps_its_own_value_rejects_beyond_and_can_be_off(name: str, setting: str) -> None:
    stage_type = STAGES.load(name)
    mark = stage_type.thresholds()[setting]
    others = dict.fromkeys(set(stage_type.thresholds()) - {setting})
    value, step = (1, 1) if pa.types.is_integer(stage_type.columns[mark.column].type) else (0.5, 0.01)
    beyond = step if isinstance(mark, KeepMax) else -step
    assert mark.column in stage_type.columns
    stage = build(name, **others, **{setting: value})
    row = dict.fromkeys(stage.columns)
    assert stage.reject_reason(row | {mark.column: value}) is None
    assert stage.reject_reason(row | {mark.column: value + beyond}) == mark.reason
    assert build(name, **others, **{setting: None}).reject_reason(row | {mark.column: value + beyond}) is None


@pytest.mark.parametrize(("name", "setting"), THRESHOLDS)
def test_threshold_is_no_measure_setting(name: str, setting: str) -> None:
    assert setting not in build(name).measure_settings()


# Dataset-wide stages


def population_for(stage: DatasetStage[Any], number: int) -> pa.Table:
    """Random samples with what the stage reads; every tenth looks like the one before it."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(number, 16))
    vectors[10::10] = vectors[9:-1:10] + 0.001
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = random.integers(0, 256, (number, 8), np.uint8)
    codes[10::10] = codes[9:-1:10]
    known = {
        "embedding": [row.astype("<f2").tobytes() for row in vectors],
        "phash": [row.tobytes() for row in codes],
        "aesthetic_score": random.uniform(1, 10, number),
        "cluster_id": random.integers(0, 5, number),
        "cluster_distance": random.uniform(0, 1, number),
    }
    wanted = {*stage.inputs(), *stage.optional_inputs()} - set(GIVEN_COLUMNS)
    return population(number, **{name: known[name] for name in sorted(wanted)})


def dataset_stage(name: str) -> DatasetStage[Any]:
    stage = ready(name)
    assert isinstance(stage, DatasetStage)
    return stage


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_dataset_wide_stage_gives_its_columns_for_every_sample(name: str) -> None:
    stage = dataset_stage(name)
    for number in (1, 2, 101):
        measured = stage.measure_all(population_for(stage, number))
        assert measured.num_rows == number
        assert set(measured.column_names) == set(stage.columns)
        declared = [(name, column.type) for name, column in stage.columns.items()]
        measured.select(list(stage.columns)).cast(pa.schema(declared))


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_dataset_wide_stage_gives_the_same_again(name: str) -> None:
    stage = dataset_stage(name)
    table = population_for(stage, 101)
    again = dataset_stage(name)
    assert stage.measure_all(table).equals(again.measure_all(table.combine_chunks()))


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_dataset_wide_stage_needs_none_of_its_optional_inputs(name: str) -> None:
    stage = dataset_stage(name)
    table = population_for(stage, 20).drop_columns([*stage.optional_inputs()])
    assert stage.measure_all(table).num_rows == 20


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_dataset_wide_stage_takes_optional_inputs_that_nobody_measured(name: str) -> None:
    """A stage in one branch of a rule leaves nulls for the samples that another branch kept."""
    stage = dataset_stage(name)
    table = population_for(stage, 20)
    for column in stage.optional_inputs():
        kind = table.schema.field(column).type
        table = table.set_column(table.column_names.index(column), column, pa.nulls(20, kind))
    without = table.drop_columns([*stage.optional_inputs()])
    assert stage.measure_all(table).equals(stage.measure_all(without))


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_dataset_wide_stage_takes_samples_that_are_all_alike(name: str) -> None:
    stage = dataset_stage(name)
    ids = population_for(stage, 20)["sample_id"]
    table = pa.concat_tables([population_for(stage, 1)] * 20).set_column(0, "sample_id", ids)
    rows = stage.measure_all(table).to_pylist()
    assert len(rows) == 20
    assert any(stage.reject_reason(row) is None for row in rows)


@pytest.mark.parametrize("name", DATASET_WIDE)
def test_some_threshold_of_a_dataset_wide_stage_rejects_something(name: str) -> None:
    stage = dataset_stage(name)
    rows = stage.measure_all(population_for(stage, 101)).to_pylist()
    assert 0 < sum(stage.reject_reason(row) is not None for row in rows) < 101


def test_configs_base_is_strict() -> None:
    assert StageConfig.model_config["extra"] == "forbid"
    assert StageConfig.model_config["strict"] is True
