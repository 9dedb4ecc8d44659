"""Measures samples: the next missing step of each, in batches; a sample that fails, fails alone.

Most stages are measured here. One that has model workers is not: `Measurer.advance` yields a `ModelCall`, and
goes on when it is sent the rows (`overlap.py` carries it there and back).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from curation.errors import (
    ContractError,
    MeasureError,
    SampleError,
    UnsupportedMediaError,
    WorkerError,
)
from curation.errors.isolation import isolated
from curation.errors.visible import spelled
from curation.execution.plan import in_groups
from curation.execution.worker.metrics import Metrics
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


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a model worker is asked: one batch of one step.

    Attributes:
        samples: At most `batch_size` of them, all from one unit.
        media: What `Stage.prepare` made of each.
    """

    step: Step
    samples: Sequence[Sample]
    media: Sequence[Media]

    @property
    def num_bytes(self) -> int:
        """Bytes of the pixels."""
        return sum(item.pixels.nbytes for item in self.media)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model worker answers.

    Attributes:
        rows: One per sample, in order.
        seconds: What measuring took.
        usage: What `Stage.usage` said.
    """

    rows: Sequence[Row]
    seconds: float
    usage: Mapping[str, float] = field(default_factory=dict)


Measuring: TypeAlias = Generator[RowMeasured | ModelCall, ModelAnswer | None, None]
"""Yields rows, and calls to be answered by `send`."""


class Measurer:
    """Runs each sample's next missing step until its verdict is final or the step is not allowed.

    Attributes:
        allowed: Keys of the steps that may be measured.
        ready: Gives a step's stage with its weights loaded.
        metrics: Counts rows and the time they took.
        remote: Keys of the steps that model workers measure.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        ready: Callable[[Step], Stage[Any]],
        metrics: Metrics,
        on_progress: Callable[[], None],
        *,
        remote: Iterable[str] = (),
    ) -> None:
        """`on_progress` is called after each batch."""
        self.allowed = frozenset(allowed)
        self.ready = ready
        self.metrics = metrics
        self.remote = frozenset(remote)
        self._on_progress = on_progress

    def advance(
        self,
        samples: Sequence[Sample],
        known: KnownRows,
        decide: Callable[[Rows], Verdict],
        media_of: MediaOf,
        *,
        only: Container[str] | None = None,
    ) -> Measuring:
        """Measure what the samples need, until nothing is needed or what is needed is not allowed.

        `only`: keys of the steps that are allowed now; None for all of `allowed`.
        """
        allowed = [key for key in self.allowed if only is None or key in only]
        rows = {sample.sample_id: dict(known(sample)) for sample in samples}
        while True:
            waiting: dict[Step, list[Sample]] = {}
            for sample in samples:
                needs = decide(rows[sample.sample_id]).needs
                if needs is not None and needs.key in allowed:
                    waiting.setdefault(needs, []).append(sample)
            if not waiting:
                return
            step, group = next(iter(waiting.items()))
            for batch in in_groups(group, step.stage.batch_size):
                for row in (yield from self._measure(step, batch, media_of)):
                    rows[row.sample_id][step.key] = row
                    yield RowMeasured(step, row)

    def _measure(
        self, step: Step, batch: Sequence[Sample], media_of: MediaOf
    ) -> Generator[ModelCall, ModelAnswer | None, Sequence[Row]]:
        if step.key not in self.remote:
            stage = self.ready(step)
            started = time.perf_counter()
            rows = isolate(stage, batch, media_of)
            answer = ModelAnswer(rows, time.perf_counter() - started, stage.usage())
        else:
            answer = yield from _asked(step, batch, media_of)
        self.metrics.record_usage(step.key, answer.usage)
        self._on_progress()
        seconds = answer.seconds / len(answer.rows)
        for row in answer.rows:
            self.metrics.record(step.key, rows=1, failed=int(not row.ok), seconds=seconds)
        return [replace(row, seconds=seconds) for row in answer.rows]


def _asked(
    step: Step, batch: Sequence[Sample], media_of: MediaOf
) -> Generator[ModelCall, ModelAnswer | None, ModelAnswer]:
    """Have a model worker measure what could be prepared of a batch."""
    started = time.perf_counter()
    prepared = _prepared(step.stage, batch, media_of)
    answer, seconds = None, time.perf_counter() - started
    if any(isinstance(item, Media) for item in prepared):
        answer = yield ModelCall(step, *_measurable(batch, prepared))
        if answer is None:
            raise ContractError(f"a call of {step.key} was not answered")
    if answer is None:
        return ModelAnswer(_in_place(prepared, ()), seconds)
    return replace(answer, rows=_in_place(prepared, answer.rows), seconds=seconds + answer.seconds)


def isolate(stage: Stage[Any], batch: Sequence[Sample], media_of: MediaOf) -> list[Row]:
    """One row per sample, of which one that can't be measured fails alone.

    Raises:
        ContractError: the stage breaks its own declaration.
        CurationError: anything else that is not about one sample.
    """
    prepared = _prepared(stage, batch, media_of)
    samples, media = _measurable(batch, prepared)
    return _in_place(prepared, measure_rows(stage, samples, media) if samples else ())


def measure_rows(stage: Stage[Any], samples: Sequence[Sample], media: Sequence[Media]) -> list[Row]:
    """One row per sample. A batch that raises is repeated one by one, so that only the culprit fails.

    Raises:
        ContractError: the stage breaks its own declaration.
        DeviceMemoryFault: the batch does not fit into the GPU.
        WorkerError: the stage told its process to exit.
        CurationError: anything else that is not about one sample.
    """
    try:
        with isolated(MeasureError):
            measured = stage.measure(samples, media)
    except SystemExit as error:
        raise WorkerError(f"stage {stage.name} told its process to exit: {error}") from error
    except SampleError as error:
        if len(samples) == 1:
            return [failed_row(samples[0].sample_id, error)]
        pairs = zip(samples, media, strict=True)
        return [row for sample, item in pairs for row in measure_rows(stage, [sample], [item])]
    return _checked(stage, samples, measured)


def _prepared(stage: Stage[Any], batch: Sequence[Sample], media_of: MediaOf) -> list[Media | Row]:
    """What the stage gets of each sample; the failed row of one that has no media."""
    found: list[Media | Row] = []
    for sample in batch:
        try:
            found.append(_media(stage, sample, media_of))
        except SampleError as error:
            found.append(failed_row(sample.sample_id, error))
    return found


def _measurable(batch: Sequence[Sample], prepared: Sequence[Media | Row]) -> tuple[list[Sample], list[Media]]:
    pairs = zip(batch, prepared, strict=True)
    there = [(sample, item) for sample, item in pairs if isinstance(item, Media)]
    return [sample for sample, _ in there], [item for _, item in there]


def _in_place(prepared: Sequence[Media | Row], measured: Sequence[Row]) -> list[Row]:
    """The rows of a batch in order: the measured ones where there was something to measure."""
    rows = iter(measured)
    return [item if isinstance(item, Row) else next(rows) for item in prepared]


def _media(stage: Stage[Any], sample: Sample, media_of: MediaOf) -> Media:
    view = stage.view(sample.kind)
    media = media_of(sample, view)
    if view is not None and len(media.pixels) == 0:
        raise UnsupportedMediaError(
            f"{sample.duration_s:.3f} s are too short to hold a frame of this stage's view"
        )
    with isolated(MeasureError):
        prepared: object = stage.prepare(media)
    if not isinstance(prepared, Media):
        raise ContractError(f"stage {stage.name} prepared no Media, but {type(prepared).__name__}")
    return prepared


def failed_row(sample_id: str, error: SampleError) -> Row:
    """The row of a sample that could not be measured."""
    return Row(sample_id, {}, type(error).__name__, str(error) or type(error).__name__)


def _checked(
    stage: Stage[Any], batch: Sequence[Sample], measured: Sequence[Mapping[str, Any] | SampleError]
) -> list[Row]:
    number = len(measured) if isinstance(measured, Sequence) else type(measured).__name__
    if number != len(batch):
        raise ContractError(f"stage {stage.name} returned {number} rows for {len(batch)} samples")
    declared = set(stage.columns)
    for values in measured:
        if isinstance(values, SampleError):
            continue
        if not isinstance(values, Mapping):
            raise ContractError(f"stage {stage.name} returned {type(values).__name__} in the place of a row")
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
