"""Random ledgers, as a run that was stopped anywhere might have left them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.config import parse_config
from curation.execution.record.recorder import Recorder
from curation.execution.worker.metrics import Metrics
from curation.ingest.listed import LISTED, ListedSources
from curation.ledger import Ledger
from curation.ledger.present import remember_listing
from curation.pipeline import Pipeline, build_pipeline
from curation.pipeline.rules import Step
from curation.records import Row, Sample, Source, stable_id
from curation.splitter import Span, span_row
from curation.storage import open_storage
from datasets_media import built, config_data, write_vocabulary

NUM_UNITS = 3
SOURCES_A_UNIT = 12
NAMES = ["caption", "width", "score", "huge", "text", "flag", "carried_width", "list"]
VALUES = [1, 0.5, 2**70, "text", True, ["a", "b"]]
ERRORS = ["why", "empty, refused; the last answer: 'x'"]


def a_pipeline(tmp_path: Path, **changes: Any) -> Pipeline:
    vocabulary = write_vocabulary(tmp_path / "vocabulary.tiktoken")
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    return built(config_data(media, tmp_path / "out", vocabulary, **changes))[1]


def with_settings(pipeline: Pipeline, settings: Mapping[str, Any]) -> Pipeline:
    """The pipeline of the same configuration with other settings of stages, built anew."""
    data: dict[str, Any] = dict(pipeline.config.resolved)
    for key, value in settings.items():
        section, stage, name = key.split(".")
        data[section] = {**data[section], stage: {**data[section].get(stage, {}), name: value}}
    return build_pipeline(parse_config(data))


def random_ledger(pipeline: Pipeline, folder: Path, seed: int, *, contradictions: bool = True) -> Ledger:
    """Sources, clips and rows as a run that was stopped anywhere might have left them.

    With `contradictions`, splitters may have failed sources that have clips all the same.
    """
    draw = random.Random(seed)
    ledger = Ledger(open_storage(str(folder)))
    for unit in range(NUM_UNITS):
        sources = [a_source(draw, f"{unit}-{number}") for number in range(SOURCES_A_UNIT)]
        ledger.commit_sources(unit, sources)
        for kind, branch in pipeline.branches.items():
            of_kind = [source for source in sources if source.kind == kind]
            samples = [Sample.of_image(source) for source in of_kind if source.ok]
            if branch.splitter:
                samples = commit_spans(draw, ledger, unit, branch.splitter, of_kind, contradictions)
            windows = [window for sample in samples for window in pipeline.windows(sample)]
            for step in pipeline.steps():
                if step.key.startswith(f"{kind}s.") and step is not branch.splitter:
                    commit_rows(draw, ledger, unit, step, samples)
                elif "." not in step.key:
                    commit_rows(draw, ledger, unit, step, windows)
    return ledger


def a_source(draw: random.Random, name: str) -> Source:
    kind = draw.choice(["image", "video", "container"])
    broken = kind == "container" or draw.random() < 0.1
    return Source(
        source_id=stable_id(name),
        uri="twice.jpg" if draw.random() < 0.1 else name,
        kind=kind,  # type: ignore[arg-type]
        size_bytes=1,
        etag=name,
        width=draw.choice([None, 640]),
        duration_s=draw.choice([None, 12.5]),
        metadata={name: draw.choice(VALUES) for name in NAMES if draw.random() < 0.3},
        color_transfer=draw.choice(["bt709", "smpte2084", "arib-std-b67", None]),
        error_type=draw.choice(["ProbeError", "PoisonSource"]) if broken else None,
        error="the header's" if broken else None,
    )


def commit_spans(
    draw: random.Random,
    ledger: Ledger,
    unit: int,
    splitter: Step,
    sources: list[Source],
    contradictions: bool,
) -> list[Sample]:
    clips, rows = [], []
    for source in sources:
        if draw.random() < 0.2:
            rows.append(Row(source.source_id, {}, "DecodeError", "the splitter's"))
            if not contradictions:
                continue
        for start_s in range(0, draw.randrange(4) * 50, 50):
            span = Span(
                start_s=start_s, end_s=start_s + draw.choice([0.2, 3.0, 45.0]), start_frame=0, end_frame=1
            )
            clip = Sample.of_span(source.source_id, span.start_s, span.end_s)
            clips.append(clip)
            rows.append(Row(clip.sample_id, span_row(clip, span)))
    draw.shuffle(rows)
    ledger.commit(splitter.name, splitter.fingerprint, unit, rows, splitter.stage.columns)
    return clips


def commit_rows(draw: random.Random, ledger: Ledger, unit: int, step: Step, samples: list[Sample]) -> None:
    """Rows of some of the samples; of none at all now and then, so that the unit has no file."""
    if draw.random() < 0.05:
        return
    rows = [
        Row(sample.sample_id, {}, draw.choice(["DecodeError", "CaptionError"]), draw.choice(ERRORS))
        if draw.random() < 0.15
        else Row(sample.sample_id, values(draw, step))
        for sample in samples
        if draw.random() < 0.9
    ]
    ledger.commit(step.name, step.fingerprint, unit, rows, step.stage.columns)


def values(draw: random.Random, step: Step) -> dict[str, Any]:
    """Numbers around every threshold, and anything elsewhere."""
    found = {name: a_value(draw, column.type) for name, column in step.stage.columns.items()}
    for name, mark in step.stage.thresholds().items():
        bound = getattr(step.stage.config, name) or 0
        kind = step.stage.columns[mark.column].type
        found[mark.column] = (
            pa.scalar(draw.choice([bound] * 4 + [bound + 1, max(0, bound - 1)])).cast(kind).as_py()
        )
    return found


def a_value(draw: random.Random, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [a_value(draw, kind.value_type) for _ in range(draw.randrange(3))]
    if pa.types.is_string(kind):
        return draw.choice(["ok", "long"])
    if pa.types.is_boolean(kind):
        return draw.random() < 0.5
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return draw.randbytes(2)
    return draw.randrange(5)


def write_record(ledger: Ledger, pipeline: Pipeline) -> None:
    """run.json, as a run leaves it."""
    recorder = Recorder(ledger.storage, None)
    recorder.begin(pipeline, None, {"new": 0, "gone": 0})
    recorder.end(pipeline, {}, Metrics(), 0.0)


def list_units(ledger: Ledger, *units: int) -> None:
    """The last listing had the sources of these units; those of all others are gone."""
    listed = [{"uri": source.uri, "etag": source.etag} for unit in units for source in ledger.sources(unit)]
    remember_listing(ledger.storage, ListedSources(pa.Table.from_pylist(listed, schema=LISTED)))
