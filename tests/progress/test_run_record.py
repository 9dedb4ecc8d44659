"""run.json: when a run began and ended, on what, and what it says of the run before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curation.config import parse_config
from curation.errors.redaction import redact_command
from curation.execution.record.changes import changes_of, step_reasons
from curation.execution.record.recorder import Recorder, record_now
from curation.execution.record.run_record import read_run
from curation.execution.worker.metrics import Metrics
from curation.ledger.unit_state import PROBE
from curation.pipeline import Pipeline, build_pipeline
from curation.storage import Storage, open_storage

NOTHING = {"new": 0, "gone": 0}
OUTCOMES = {"images": {"in": 3, "kept": 2, "rejected": 1, "failed": 0, "pending": 0}}


def pipeline_of(output: Path, **color: Any) -> Pipeline:
    data = {
        "name": "few",
        "input": ["in"],
        "output": str(output),
        "images": {"filters": ["color"], "color": color},
    }
    return build_pipeline(parse_config(data))


def measured(**rows: int) -> Metrics:
    metrics = Metrics()
    for key, number in rows.items():
        metrics.record(f"images.{key}", rows=number, seconds=1.0)
    return metrics


def do_run(
    storage: Storage, pipeline: Pipeline, metrics: Metrics, outcomes: Any = OUTCOMES
) -> dict[str, Any]:
    recorder = Recorder(storage, "curation run -c few.yaml")
    recorder.begin(pipeline, None, NOTHING)
    if metrics.rows:
        recorder.working()
    return recorder.end(pipeline, outcomes, metrics, 1.5)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def test_run_that_changes_nothing_leaves_the_record(storage: Storage, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path / "out")
    do_run(storage, pipeline, measured(color=3))
    path = tmp_path / "out/run.json"
    before = path.read_bytes(), path.stat().st_mtime_ns
    do_run(storage, pipeline, Metrics())
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_moved_threshold_is_told_beside_what_was_before(storage: Storage, tmp_path: Path) -> None:
    do_run(storage, pipeline_of(tmp_path / "out", min_colorfulness=5.0), measured(color=3))
    others = {"images": {**OUTCOMES["images"], "kept": 1, "rejected": 2}}
    record = do_run(storage, pipeline_of(tmp_path / "out", min_colorfulness=9.0), Metrics(), others)
    assert record == read_run(storage)
    assert record["outcomes"] == others
    assert record["previous"]["outcomes"] == OUTCOMES
    assert record["previous"]["thresholds"]["images.color"]["min_colorfulness"] == 5.0
    assert record["thresholds"]["images.color"]["min_colorfulness"] == 9.0
    assert record["measured_again"] == []
    assert record["started"] <= record["ended"]


def test_run_that_was_broken_off_is_no_run_before(storage: Storage, tmp_path: Path) -> None:
    do_run(storage, pipeline_of(tmp_path / "out", min_colorfulness=5.0), measured(color=3))
    pipeline = pipeline_of(tmp_path / "out", min_colorfulness=9.0)
    broken_off = Recorder(storage, None)
    broken_off.begin(pipeline, None, {"new": 2, "gone": 1})
    broken_off.working()
    assert read_run(storage)["ended"] is None
    record = do_run(storage, pipeline, measured(color=2))
    assert record["last_work"]["resumed_from"] == read_run(storage)["started"]
    assert record["previous"]["thresholds"]["images.color"]["min_colorfulness"] == 5.0
    assert record["sources"] == {"new": 2, "gone": 1}
    assert do_run(storage, pipeline, measured(color=1))["last_work"]["resumed_from"] is None


def test_run_that_finds_nothing_left_of_one_that_was_broken_off_ends_it(
    storage: Storage, tmp_path: Path
) -> None:
    pipeline = pipeline_of(tmp_path / "out")
    do_run(storage, pipeline, measured(color=3))
    Recorder(storage, None).begin(pipeline_of(tmp_path / "out", min_colorfulness=9.0), None, NOTHING)
    assert read_run(storage)["ended"] is None
    record = do_run(storage, pipeline_of(tmp_path / "out", min_colorfulness=9.0), Metrics())
    assert record["ended"] is not None
    assert record["previous"]["thresholds"]["images.color"]["min_colorfulness"] == 5.0


def test_report_of_other_settings_compares_with_the_last_run(storage: Storage, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path / "out", min_colorfulness=5.0)
    written = do_run(storage, pipeline, measured(color=3))
    assert record_now(storage, pipeline, OUTCOMES) == written
    other = record_now(storage, pipeline_of(tmp_path / "out", min_colorfulness=9.0), OUTCOMES)
    assert other["ended"] is None
    assert other["previous"]["ended"] == written["ended"]
    assert read_run(storage) == written


def test_record_of_an_older_version_stays_readable(storage: Storage, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path / "out")
    record = do_run(storage, pipeline, measured(color=3))
    for name in ("started", "ended", "host", "command", "outcomes", "sources", "previous", "parts"):
        del record[name]
    record["fingerprints"]["images.color"] = "0" * 20
    storage.write("run.json", json.dumps(record).encode())
    record = do_run(storage, pipeline, measured(color=3))
    assert record["last_work"]["resumed_from"] is None
    (again,) = record["measured_again"]
    assert again["text"] == (
        "images.color: another version, setting or model; the run before did not record which (3 rows)"
    )


def record_of(**parts: Any) -> dict[str, Any]:
    """A record of one step, `text`, whose fingerprint is another one for other parts."""
    whole = {"stage": "text", "version": 1, "columns": [], "settings": {}, "models": {}, "pixels": []}
    found = {**whole, **parts, "splits": False}
    return {"fingerprints": {"text": json.dumps(found)}, "parts": {"text": found}}


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({"version": 1}, {"version": 2}, "version 1 -> 2 of the stage"),
        (
            {"settings": {"min_box_px": 10, "rate": 1}},
            {"settings": {"min_box_px": 12, "rate": 1}},
            "setting min_box_px 10 -> 12",
        ),
        (
            {"models": {"detector": "a1b2" + 36 * "0"}},
            {"models": {"detector": "c3d4" + 60 * "0"}},
            "detector model revision a1b200000000 -> c3d400000000",
        ),
        ({"pixels": []}, {"pixels": ["hdr not tone-mapped"]}, "pixels made another way"),
    ],
)
def test_other_part_of_a_fingerprint_is_named(before: Any, now: Any, reason: str) -> None:
    assert step_reasons(record_of(**before), record_of(**now)) == {"text": [reason]}
    assert step_reasons(record_of(**now), record_of(**now)) == {}


def test_clips_cut_anew_are_why_their_steps_measure(tmp_path: Path) -> None:
    def record(threshold: float) -> dict[str, Any]:
        scenes = {**record_of(settings={"threshold": threshold})["parts"]["text"], "splits": True}
        parts = {"videos.scenes": scenes, "videos.text": {}, "images.text": {}, "captions": {}}
        parts = {key: part or {**scenes, "splits": False, "settings": {}} for key, part in parts.items()}
        return {"fingerprints": {key: json.dumps(part) for key, part in parts.items()}, "parts": parts}

    reasons = step_reasons(record(3.0), record(4.0))
    assert reasons == {
        "videos.scenes": ["setting threshold 3.0 -> 4.0"],
        "videos.text": ["videos.scenes cuts other clips"],
        "captions": ["videos.scenes cuts other clips"],
    }
    texts = [change.text for change in changes_of(record(3.0), record(4.0), measured_of("captions", 1))]
    assert texts == ["captions: videos.scenes cuts other clips (1 row)"]


def measured_of(key: str, rows: int) -> Metrics:
    metrics = Metrics()
    metrics.record(key, rows=rows)
    return metrics


def test_sources_that_are_read_again_are_counted_by_cause() -> None:
    metrics = Metrics()
    metrics.causes[PROBE, "same bytes"] = 18
    metrics.causes["images.color", "failed before"] = 5
    texts = [change.text for change in changes_of({}, record_of(), metrics)]
    assert texts == [
        "18 sources: new modification time, same bytes; hashed again, nothing measured",
        "images.color: failed before, tried again (5 rows)",
    ]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["run", "-c", "a b.yaml"], "run -c 'a b.yaml'"),
        (["--set", "captions.api_key=hush"], "--set 'captions.api_key=***'"),
        (["--set=captions.hf_token=hush"], "'--set=captions.hf_token=***'"),
        (["--set", "captions={api_key: hush}"], "--set 'captions=***'"),
        (["--input", "https://me:hush@host/a?sig=hush"], "--input 'https://***@host/a?sig=***'"),
        (["--set", "run.workers=2"], "--set run.workers=2"),
    ],
)
def test_command_line_is_kept_without_secrets(arguments: list[str], shown: str) -> None:
    assert redact_command(arguments) == shown
