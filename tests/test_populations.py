"""Who belongs to a dataset-wide stage's population, and what becomes of those who lack something."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation.dataset_stage import DatasetStage
from curation.errors import ConfigError, ContractError
from curation.execution import population
from curation.execution.cluster.joining.connection import connect
from curation.execution.cluster.tasks import Spread, in_process, on_cluster
from curation.execution.dataset_wide import bind, bind_step, dataset_steps, filters_behind, measure_step
from curation.execution.plan import plan_pass, plan_probes
from curation.execution.worker.metrics import Metrics
from curation.execution.worker.worker import UnitWorker
from curation.ingest.listing import list_inputs
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.ledger.unit_state import RecomputePolicy, SampleVerdict
from curation.pipeline import Pipeline
from curation.registry import STAGES
from curation.report.summary.summary import summarize
from curation.stages.duplicates import DuplicatesStage
from curation.storage import open_storage
from datasets_media import built, config_data, write_photo, write_video
from one_by_one import scan_verdicts


def run_here(
    data: dict[str, Any], recompute: RecomputePolicy | None = None, spread: Spread = in_process
) -> tuple[Pipeline, Ledger, Metrics]:
    """A run in this process: the passes of `curation.execution.run` without Ray."""
    recompute = recompute or RecomputePolicy()
    config, pipeline = built(data)
    ledger, metrics = Ledger(open_storage(config.general.output)), Metrics()
    worker = UnitWorker(pipeline)

    def work(tasks: Any) -> None:
        for task in tasks:
            metrics.add(worker.work(task).metrics)

    listing = list_inputs(config)
    remember_listing(ledger.storage, listing.sources)
    work(plan_probes(ledger, listing, config))
    work(list(plan_pass(ledger, pipeline, "filter", filters_behind(pipeline, None), recompute=recompute)))
    for kind, step in dataset_steps(pipeline):
        pipeline, population = bind_step(pipeline, ledger, kind, step)
        worker.use(pipeline)
        bound = pipeline.step_of(step.key)
        assert bound is not None
        if not population.num_waiting:
            metrics.add(measure_step(pipeline, ledger, bound, population, recompute, spread))
        work(
            list(
                plan_pass(ledger, pipeline, "filter", filters_behind(pipeline, step.key), recompute=recompute)
            )
        )
    return pipeline, ledger, metrics


def samples(pipeline: Pipeline, ledger: Ledger) -> dict[str, list[SampleVerdict]]:
    return {
        source.source.uri.rpartition("/")[2]: list(source.samples)
        for _, judged in scan_verdicts(ledger, pipeline)
        for source in judged
    }


def outcomes(pipeline: Pipeline, ledger: Ledger) -> dict[str, list[str]]:
    return {
        name: [f"{sample.verdict.outcome} {sample.verdict.reason or ''}".strip() for sample in found]
        for name, found in samples(pipeline, ledger).items()
    }


def data_for(folder: Path, branch: str, rule: dict[str, Any]) -> dict[str, Any]:
    data = config_data(folder / "in", folder / "out", folder / "none")
    for key in ("images", "videos", "captions", "tokens", "shards"):
        del data[key]
    return data | {branch: rule}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, a copy of the first, and a file that is none."""
    (tmp_path / "in").mkdir()
    for seed in range(2):
        write_photo(tmp_path / f"in/photo{seed}.jpg", seed)
    shutil.copy(tmp_path / "in/photo0.jpg", tmp_path / "in/photo2.jpg")
    (tmp_path / "in/broken.jpg").write_bytes(b"this is no picture")
    return tmp_path


COPIES = {"filters": ["phash", "duplicates"]}


def test_clips_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/a.mp4", [(30, 1), (30, 2)])
    write_video(tmp_path / "in/b.mp4", [(30, 2), (20, 5)])
    shutil.copy(tmp_path / "in/a.mp4", tmp_path / "in/c.mp4")
    pipeline, ledger, _ = run_here(data_for(tmp_path, "videos", {"filters": ["phash", "duplicates"]}))
    found = outcomes(pipeline, ledger)
    counts = {name: [outcome.split()[0] for outcome in clips].count("kept") for name, clips in found.items()}
    # Of a and c, which have the same bytes, one has both its clips kept or lost; b's first clip shows the
    # scene that is their second.
    assert sum(counts.values()) == 3
    clips = {clip.sample.sample_id: clip for name in found for clip in samples(pipeline, ledger)[name]}
    exact = [clip for clip in clips.values() if clip.rows["videos.duplicates"].values["is_exact_copy"]]
    assert len(exact) == 2
    for clip in exact:
        other = clips[clip.rows["videos.duplicates"].values["duplicate_of"]]
        assert (other.sample.start_s, other.sample.end_s) == (clip.sample.start_s, clip.sample.end_s)
        assert other.sample.source_id != clip.sample.source_id
    summarize(ledger, pipeline)


def test_it_may_stand_in_a_branch_and_sees_what_reaches_it(photos: Path) -> None:
    rule = {
        "filters": ["phash", {"any_of": ["color", "duplicates"]}],
        "color": {"min_colorfulness": 199.0},
    }
    pipeline, ledger, metrics = run_here(data_for(photos, "images", rule))
    assert metrics.rows["images.duplicates"] == 3  # the broken one is no sample
    found = outcomes(pipeline, ledger)
    reason = "rejected colorfulness_below_min+duplicate_of"
    assert sorted((*found["photo0.jpg"], *found["photo2.jpg"])) == ["kept", reason]
    assert found["photo1.jpg"] == ["kept"]
    rule["color"] = {"min_colorfulness": 0.0}
    pipeline, ledger, metrics = run_here(data_for(photos, "images", rule))
    assert metrics.rows["images.duplicates"] == 0
    assert {outcome for name in found for outcome in outcomes(pipeline, ledger)[name]} == {"kept"}


def test_sample_that_lacks_what_is_read_is_failed(photos: Path) -> None:
    rule = {
        "filters": [{"any_of": ["aesthetic", "color"]}, "clusters"],
        "aesthetic": {"from_column": "score", "min_score": 5.0},
    }
    pipeline, ledger, metrics = run_here(data_for(photos, "images", rule))
    found = samples(pipeline, ledger)
    for name in ("photo0.jpg", "photo1.jpg", "photo2.jpg"):
        (sample,) = found[name]
        assert sample.rows["images.clusters"].error == "there is no embedding of it"
        assert sample.verdict.outcome == "failed"
    assert metrics.failed["images.clusters"] == 3
    summary = summarize(ledger, pipeline)
    assert summary.outcome_totals()["images"]["failed"] == 3
    # Tried again, and nothing waits for ever.
    stages = frozenset({"aesthetic", "clusters"})
    pipeline, ledger, again = run_here(data_for(photos, "images", rule), RecomputePolicy(stages))
    assert again.rows["images.clusters"] == 3
    verdicts = [sample.verdict.outcome for name in found for sample in samples(pipeline, ledger)[name]]
    assert verdicts == ["failed"] * 3


def test_nothing_is_computed_twice_and_the_ledger_alone_tells_the_population(photos: Path) -> None:
    data = data_for(photos, "images", COPIES)
    pipeline, ledger, metrics = run_here(data)
    assert metrics.rows["images.duplicates"] == 3
    again, _, nothing = run_here(data)
    assert nothing.rows.total() == 0
    rebound = bind(built(data)[1], ledger)
    fingerprints = [
        {step.key: step.fingerprint for step in one.steps()} for one in (pipeline, again, rebound)
    ]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]


def _unit_of(file: Path) -> int:
    return int(file.stem.removeprefix("unit-"))


def test_rows_that_a_kill_left_behind_are_not_mixed_with_new_ones(photos: Path) -> None:
    data = data_for(photos, "images", COPIES)
    data["run"] |= {"unit_images": 1}
    pipeline, ledger, _ = run_here(data)
    step = pipeline.step_of("images.duplicates")
    assert step is not None
    before = {unit: ledger.rows(step.name, step.fingerprint, unit) for unit in ledger.units()}
    files = sorted((photos / f"out/ledger/duplicates/{step.fingerprint}").glob("*.parquet"))
    assert len(files) == 3
    files[0].unlink()
    # What is left could be of another machine, with other last digits.
    unit, (row,) = next((unit, rows) for unit, rows in before.items() if rows and unit != _unit_of(files[0]))
    other = replace(row, values={**row.values, "duplicate_distance": 0.25})
    ledger.commit(step.name, step.fingerprint, unit, [other], step.stage.columns, replaces=[row.sample_id])
    _, _, metrics = run_here(data)
    assert metrics.rows["images.duplicates"] == 3
    after = {unit: ledger.rows(step.name, step.fingerprint, unit) for unit in ledger.units()}
    values = [
        {unit: [(row.sample_id, row.values) for row in rows] for unit, rows in found.items()}
        for found in (before, after)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"duplicate_of": ["a"] * 3}, "declares other columns than it returned: duplicate_distance"),
        ({"duplicate_distance": [float("nan")] * 3}, "not finite"),
        ({"duplicate_distance": ["far"] * 3}, "do not fit the declared columns"),
        ({"duplicate_of": ["a"] * 2}, "returned 2 rows for 3 samples"),
    ],
)
def test_stage_that_breaks_its_contract_stops_the_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], words: str
) -> None:
    number = len(next(iter(columns.values())))
    whole = {"duplicate_of": [None], "duplicate_distance": [0.5], "is_exact_copy": [True]}
    full = {name: values * number for name, values in whole.items()} | columns
    table = pa.table(columns if "other columns" in words else full)
    monkeypatch.setattr(DuplicatesStage, "measure_parts", lambda self, population, parts, spread: table)
    with pytest.raises(ContractError, match=words):
        run_here(data_for(photos, "images", COPIES))


def test_column_that_nobody_measures_is_named_before_anything_is_read(photos: Path) -> None:
    rule = {"filters": ["clusters", "aesthetic", "representatives"]}
    with pytest.raises(ConfigError) as caught:
        built(data_for(photos, "images", rule))
    assert "images.clusters: needs the column embedding; put aesthetic before it" in str(caught.value)
    rule = {"filters": ["representatives"], "representatives": {"by": "no_such"}}
    with pytest.raises(ConfigError) as caught:
        built(data_for(photos, "images", rule))
    assert "images.representatives: needs the column cluster_id; put clusters before it" in str(caught.value)
    assert "images.representatives: needs the column no_such; no stage has it" in str(caught.value)


# Populations of an odd kind, through every stage that looks at all samples at once

AESTHETIC = {"weights": "stand-in", "head": "stand-in", "head_sha256": None, "min_score": None}
RULES: dict[str, list[str]] = {
    "clusters": ["aesthetic"],
    "duplicates": ["phash"],
    "mean_score": ["aesthetic"],
    "representatives": ["aesthetic", "clusters"],
}
"""Stage -> what must stand before it."""
DATASET_WIDE = sorted(name for name in STAGES.built_in if issubclass(STAGES.load(name), DatasetStage))


def none_left(folder: Path) -> None:
    write_photo(folder / "too_small.jpg", 0, size=(20, 20))


def one(folder: Path) -> None:
    write_photo(folder / "a.jpg", 0)


def all_alike(folder: Path) -> None:
    one(folder)
    for name in "bcd":
        shutil.copy(folder / "a.jpg", folder / f"{name}.jpg")


def all_failed(folder: Path) -> None:
    for seed in range(3):
        write_photo(folder / f"{seed}.jpg", seed, size=(300, 300))
        (folder / f"{seed}.jpg").write_bytes((folder / f"{seed}.jpg").read_bytes()[:900])


def nothing_alike(folder: Path) -> None:
    for seed in range(4):
        write_photo(folder / f"{seed}.jpg", seed)


@pytest.mark.parametrize(
    ("fill", "num_rows"), [(none_left, 0), (one, 1), (all_alike, 4), (all_failed, 0), (nothing_alike, 4)]
)
@pytest.mark.parametrize("name", DATASET_WIDE)
def test_no_population_is_too_odd(
    tmp_path: Path, name: str, fill: Callable[[Path], None], num_rows: int
) -> None:
    """A row for every sample that reaches the stage, none of them failed, and counts that add up."""
    (tmp_path / "in").mkdir()
    fill(tmp_path / "in")
    rule: dict[str, Any] = {
        "filters": ["resolution", *RULES[name], name],
        "resolution": {"min_width": 64, "min_height": 64},
    }
    off = {"aesthetic": AESTHETIC, "clusters": {"min_semantic_distance": None}}
    rule |= {before: off[before] for before in RULES[name] if before in off}
    pipeline, ledger, metrics = run_here(data_for(tmp_path, "images", rule))
    assert metrics.rows[f"images.{name}"] == num_rows
    assert metrics.failed[f"images.{name}"] == 0
    totals = summarize(ledger, pipeline).outcome_totals()["image sources"]
    assert totals["pending"] == 0
    assert totals["kept"] + totals["rejected"] >= num_rows


def test_of_photos_that_are_not_alike_none_is_a_duplicate(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nothing_alike(tmp_path / "in")
    pipeline, ledger, _ = run_here(data_for(tmp_path, "images", COPIES))
    found = [sample for clips in samples(pipeline, ledger).values() for sample in clips]
    assert [sample.verdict.outcome for sample in found] == ["kept"] * 4
    values = [sample.rows["images.duplicates"].values for sample in found]
    assert {(row["duplicate_of"], row["duplicate_distance"]) for row in values} == {(None, None)}


def test_what_an_optional_input_lacks_of_all_samples_is_null(photos: Path) -> None:
    """All that reach `duplicates` came by the branch without hashes, so only equal bytes are found."""
    rule = {
        "filters": [{"any_of": ["color", "phash"]}, "duplicates"],
        "color": {"min_colorfulness": None, "min_untinted_colorfulness": None},
    }
    pipeline, ledger, _ = run_here(data_for(photos, "images", rule))
    found = outcomes(pipeline, ledger)
    assert sorted((*found["photo0.jpg"], *found["photo2.jpg"])) == ["kept", "rejected duplicate_of"]
    assert found["photo1.jpg"] == ["kept"]


def test_what_is_computed_from_captions_follows_them(tmp_path: Path) -> None:
    """A score against the caption that came along, and the mean of it, which looks at all samples."""
    media = tmp_path / "in"
    media.mkdir()
    for seed in range(3):
        write_photo(media / f"{seed}.jpg", seed)
        (media / f"{seed}.txt").write_text(f"a picture with number {seed}")
    data = config_data(media, tmp_path / "out", tmp_path / "none")
    data["images"] = {
        "filters": ["hps", "mean_score"],
        "hps": {"weights": "stand-in", "min_score": None},
        "mean_score": {"scores": ["hps_score"], "scale": "own", "min_score": None},
    }
    del data["videos"], data["captions"], data["tokens"], data["shards"]

    def means() -> list[float]:
        pipeline, ledger, _ = run_here(data)
        return [
            found[0].rows["images.mean_score"].values["mean_score"]
            for found in samples(pipeline, ledger).values()
        ]

    before = means()
    (media / "1.txt").write_text("something else altogether, in many more words than before")
    _, _, metrics = run_here(data)
    assert {key: number for key, number in metrics.rows.items() if number} == {
        "images.hps": 1,
        "images.mean_score": 3,
    }
    assert [now == then for now, then in zip(means(), before, strict=True)] == [True, False, True]
    assert run_here(data)[2].rows.total() == 0


@pytest.mark.slow
def test_two_workers_come_to_the_rows_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column of every sample, whatever units and parts they lie in and whoever reads them."""
    (tmp_path / "in").mkdir()
    for seed in range(7):
        write_photo(tmp_path / f"in/{seed}.jpg", seed)
    shutil.copy(tmp_path / "in/0.jpg", tmp_path / "in/7.jpg")
    rule: dict[str, Any] = {
        "filters": ["phash", "aesthetic", "duplicates", "clusters"],
        "aesthetic": AESTHETIC,
        "duplicates": {"min_distance": None},
        "clusters": {"num_clusters": 2, "min_semantic_distance": None, "max_recorded": 2.0},
    }

    def found(name: str, unit_images: int, spread: Spread) -> dict[str, list[Any]]:
        data = data_for(tmp_path, "images", rule)
        data |= {"output": str(tmp_path / name), "run": data["run"] | {"unit_images": unit_images}}
        pipeline, ledger, _ = run_here(data, spread=spread)
        assert {step.key for _, step in dataset_steps(pipeline)} == {"images.duplicates", "images.clusters"}
        return {
            uri: [clips[0].rows[f"images.{stage}"].values for stage in ("duplicates", "clusters")]
            for uri, clips in samples(pipeline, ledger).items()
        }

    whole = found("whole", 100, in_process)
    assert len({rows[1]["cluster_id"] for rows in whole.values()}) == 2
    monkeypatch.setattr(population, "PART_ROWS", 3)
    connection = connect(None, 2)
    try:
        assert (
            found("spread", 2, partial(on_cluster, limit=lambda: 2, check=lambda: None, timeout_s=60))
            == whole
        )
    finally:
        connection.close()
