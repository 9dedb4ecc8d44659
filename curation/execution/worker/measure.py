"""Measures samples: the next missing step of each, in batches; a sample that fails, fails alone."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curation.errors import (
    ContractError,
    DeviceMemoryFault,
    MeasureError,
    SampleError,
    UnsupportedMediaError,
)
from curation.errors.isolation import isolated
from curation.errors.visible import spelled
from curation.execution.plan import in_groups
from curation.pipeline.rules import Rows, Step, Verdict
from curation.records import Row, Sample
from curation.stage import Media, Stage, View

MediaOf = Callable[[Sample, View | None], Media]
"""Gives the frames of a view of a sample; raises SampleError if they can't be decoded."""
KnownRows = Callable[[Sample], Rows]
"""Gives the rows of a sample, by step key, that were there before a pass began."""


@dataclass(frozen=True, slots=True)
class RowMeasured:
    """A step has measured a sample."""

    step: Step
    row: Row


@dataclass
class Metrics:
    """What a worker did: rows, failed rows and seconds by step key, and frames decoded by pass.

    `frames_held` counts the frames that the sources of the filter pass hold, so that decoded / held
    says how often each was decoded. `bytes_stored` counts by pass the bytes of the sources that were
    opened, and `bytes_read` what was fetched of them, so that read / stored says how often; a long video
    counts in both once for each part. `usage` is what the stages say about themselves, by step key.
    """

    rows: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    frames_decoded: Counter[str] = field(default_factory=Counter)
    images_decoded: Counter[str] = field(default_factory=Counter)
    frames_held: int = 0
    bytes_read: Counter[str] = field(default_factory=Counter)
    bytes_stored: Counter[str] = field(default_factory=Counter)
    usage: dict[str, Counter[str]] = field(default_factory=dict)

    def record(self, key: str, *, rows: int = 0, failed: int = 0, seconds: float = 0.0) -> None:
        """Count rows of a step, and the time they took."""
        if rows:
            self.rows[key] += rows
        if failed:
            self.failed[key] += failed
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds

    def add(self, other: Metrics) -> None:
        """Sum up."""
        for key in other.seconds:
            self.record(key, rows=other.rows[key], failed=other.failed[key], seconds=other.seconds[key])
        self.frames_decoded.update(other.frames_decoded)
        self.images_decoded.update(other.images_decoded)
        self.frames_held += other.frames_held
        self.bytes_read.update(other.bytes_read)
        self.bytes_stored.update(other.bytes_stored)
        for key, used in other.usage.items():
            self.record_usage(key, used)

    def record_usage(self, key: str, used: Mapping[str, float]) -> None:
        """Sum up what a stage says that measuring took."""
        if used:
            total = self.usage.setdefault(key, Counter())
            for name, number in used.items():
                total[name] += number  # type: ignore[assignment]  # a Counter of floats is one all the same


class Measurer:
    """Runs each sample's next missing step until its verdict is final or the step is not allowed.

    Attributes:
        allowed: Keys of the steps that may be measured.
        ready: Gives a step's stage with its weights loaded.
        metrics: Counts rows and the time they took.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        ready: Callable[[Step], Stage[Any]],
        metrics: Metrics,
        on_progress: Callable[[], None],
    ) -> None:
        """`on_progress` is called after each batch."""
        self.allowed = frozenset(allowed)
        self.ready = ready
        self.metrics = metrics
        self._on_progress = on_progress

    def advance(
        self,
        samples: Sequence[Sample],
        known: KnownRows,
        decide: Callable[[Rows], Verdict],
        media_of: MediaOf,
    ) -> Iterator[RowMeasured]:
        """Measure what the samples need, until nothing is needed or what is needed is not allowed."""
        rows = {sample.sample_id: dict(known(sample)) for sample in samples}
        while True:
            waiting: dict[Step, list[Sample]] = {}
            for sample in samples:
                needs = decide(rows[sample.sample_id]).needs
                if needs is not None and needs.key in self.allowed:
                    waiting.setdefault(needs, []).append(sample)
            if not waiting:
                return
            step, group = next(iter(waiting.items()))
            for batch in in_groups(group, step.stage.batch_size):
                for row in self._measure(step, batch, media_of):
                    rows[row.sample_id][step.key] = row
                    yield RowMeasured(step, row)

    def _measure(self, step: Step, batch: Sequence[Sample], media_of: MediaOf) -> Iterator[Row]:
        stage = self.ready(step)
        started = time.perf_counter()
        rows = isolate(stage, batch, media_of)
        seconds = (time.perf_counter() - started) / len(rows)
        self.metrics.record_usage(step.key, stage.usage())
        self._on_progress()
        for row in rows:
            self.metrics.record(step.key, rows=1, failed=int(not row.ok), seconds=seconds)
            yield Row(row.sample_id, row.values, row.error_type, row.error, seconds)


def isolate(stage: Stage[Any], batch: Sequence[Sample], media_of: MediaOf) -> list[Row]:
    """One row per sample. A batch that raises is repeated one by one, so that only the culprit fails.

    Raises:
        ContractError: the stage breaks its own declaration.
        DeviceMemoryFault: one sample alone does not fit into the GPU.
        CurationError: anything else that is not about one sample.
    """
    try:
        media = [_media(stage, sample, media_of) for sample in batch]
        with isolated(MeasureError):
            measured = stage.measure(batch, media)
    except (SampleError, DeviceMemoryFault) as error:
        if len(batch) > 1:
            return [row for sample in batch for row in isolate(stage, [sample], media_of)]
        if isinstance(error, DeviceMemoryFault):
            raise
        return [failed_row(batch[0].sample_id, error)]
    return _checked(stage, batch, measured)


def _media(stage: Stage[Any], sample: Sample, media_of: MediaOf) -> Media:
    view = stage.view(sample.kind)
    media = media_of(sample, view)
    if view is not None and len(media.pixels) == 0:
        raise UnsupportedMediaError(
            f"{sample.duration_s:.3f} s are too short to hold a frame of this stage's view"
        )
    with isolated(MeasureError):
        return stage.prepare(media)


def failed_row(sample_id: str, error: SampleError) -> Row:
    """The row of a sample that could not be measured."""
    return Row(sample_id, {}, type(error).__name__, str(error) or type(error).__name__)


def _checked(
    stage: Stage[Any], batch: Sequence[Sample], measured: Sequence[Mapping[str, Any] | SampleError]
) -> list[Row]:
    if len(measured) != len(batch):
        raise ContractError(f"stage {stage.name} returned {len(measured)} rows for {len(batch)} samples")
    declared = set(stage.columns)
    for values in measured:
        if isinstance(values, SampleError):
            continue
        if set(values) != declared:
            odd = sorted(set(values) ^ declared)
            raise ContractError(
                f"stage {stage.name} declares other columns than it returned: {', '.join(odd)}"
            )
        for column, value in values.items():
            if not _is_finite(value):
                raise ContractError(f"stage {stage.name} returned {value} as {column}")
    return [_row(sample, values) for sample, values in zip(batch, measured, strict=True)]


def _row(sample: Sample, values: Mapping[str, Any] | SampleError) -> Row:
    """The row of a sample; failed if its text cannot be stored, as half of a surrogate pair cannot."""
    if isinstance(values, SampleError):
        return failed_row(sample.sample_id, values)
    for column, value in values.items():
        if not _is_text(value):
            return failed_row(sample.sample_id, MeasureError(f"{column} is no Unicode text"))
    return Row(sample.sample_id, values)


def _is_text(value: Any) -> bool:
    """Whether every string in a value can be encoded."""
    if isinstance(value, list):
        return all(_is_text(item) for item in value)
    return not isinstance(value, str) or spelled(value) == value


def _is_finite(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return True
