"""Isolation: one bad sample fails alone, and a stage that breaks its own declaration stops the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.errors import ContractError, DecodeError, WorkerError
from curation.measure import isolate
from curation.records import Sample, Source
from curation.stage import Media, Stage, StageConfig, View

SOURCE = Source(source_id="s", uri="s.jpg", kind="image", size_bytes=1, etag="e")
SAMPLES = [Sample(sample_id=name, source_id="s", kind="image") for name in "abcd"]


class Answer(Stage[StageConfig]):
    """Returns what it was made with; calls are noted."""

    name = "answer"
    columns = {"value": pa.float32()}
    Config = StageConfig

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(StageConfig())
        self.answers = answers
        self.calls: list[str] = []

    def view(self, kind: str) -> View:
        return View()

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
        self.calls.append("".join(sample.sample_id for sample in samples))
        rows = []
        for sample in samples:
            answer = self.answers.get(sample.sample_id, 1.0)
            if isinstance(answer, Exception):
                raise answer
            rows.append(answer if isinstance(answer, dict) else {"value": answer})
        return rows


class Polite(Answer):
    """Puts errors in the place of rows."""

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[Any]:
        self.calls.append("".join(sample.sample_id for sample in samples))
        answers = [self.answers.get(sample.sample_id, 1.0) for sample in samples]
        return [answer if isinstance(answer, Exception) else {"value": answer} for answer in answers]


def pixels(sample: Sample, view: View | None) -> Media:
    return Media(SOURCE, np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1))


def test_batch_that_goes_well_is_measured_in_one_call() -> None:
    stage = Answer({})
    assert [row.values for row in isolate(stage, SAMPLES, pixels)] == [{"value": 1.0}] * 4
    assert stage.calls == ["abcd"]


def test_error_in_the_place_of_a_row_fails_that_sample_and_repeats_nothing() -> None:
    stage = Polite({"c": DecodeError("gone")})
    rows = isolate(stage, SAMPLES, pixels)
    assert [(row.error_type, row.error) for row in rows] == [(None, None)] * 2 + [
        ("DecodeError", "gone"),
        (None, None),
    ]
    assert [row.values for row in rows] == [{"value": 1.0}, {"value": 1.0}, {}, {"value": 1.0}]
    assert stage.calls == ["abcd"]


@pytest.mark.parametrize("error", [DecodeError("gone"), ZeroDivisionError("oops"), MemoryError()])
def test_only_the_culprit_fails(error: Exception) -> None:
    stage = Answer({"c": error})
    rows = isolate(stage, SAMPLES, pixels)
    assert [(row.sample_id, row.ok) for row in rows] == [("a", True), ("b", True), ("c", False), ("d", True)]
    assert rows[2].error_type == type(error).__name__
    assert rows[2].error == (str(error) or type(error).__name__)
    assert rows[2].values == {}
    assert stage.calls == ["abcd", "a", "b", "c", "d"]


def test_media_that_cannot_be_read_fails_its_sample_alone() -> None:
    def broken(sample: Sample, view: View | None) -> Media:
        if sample.sample_id == "b":
            raise DecodeError("cut off")
        return pixels(sample, view)

    rows = isolate(Answer({}), SAMPLES, broken)
    assert [row.error for row in rows] == [None, "cut off", None, None]


def test_sample_without_a_frame_fails() -> None:
    def empty(sample: Sample, view: View | None) -> Media:
        return Media(SOURCE, np.empty((0, 0, 0, 3), np.uint8), np.empty(0))

    (row,) = isolate(Answer({}), SAMPLES[:1], empty)
    assert row.error_type == "UnsupportedMediaError"


@pytest.mark.parametrize("answer", [{"valeu": 1.0}, {"value": 1.0, "more": 2}, {}])
def test_other_columns_than_declared_stop_the_run(answer: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="declares other columns"):
        isolate(Answer({"a": answer}), SAMPLES, pixels)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), [1.0, float("nan")]])
def test_number_that_is_none_stops_the_run(value: Any) -> None:
    with pytest.raises(ContractError, match="as value"):
        isolate(Answer({"a": value}), SAMPLES, pixels)


def test_broken_engine_is_nobodys_fault() -> None:
    with pytest.raises(WorkerError):
        isolate(Answer({"b": WorkerError("server gone")}), SAMPLES, pixels)
