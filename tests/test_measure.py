"""Isolation: one bad sample fails alone, and a stage that breaks its own declaration stops the run."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from curation.errors import (
    ContractError,
    DecodeError,
    DeviceMemoryFault,
    EnvironmentFault,
    StorageError,
    WorkerError,
)
from curation.execution.driver.actor import check_travels
from curation.execution.worker.measure import isolate
from curation.records import Sample, Source
from curation.stage import Column, Media, Stage, StageConfig, View
from datasets_media import built

SOURCE = Source(source_id="s", uri="s.jpg", kind="image", size_bytes=1, etag="e")
SAMPLES = [Sample(sample_id=name, source_id="s", kind="image") for name in "abcd"]


class Answer(Stage[StageConfig]):
    """Returns what it was made with; calls are noted."""

    name = "answer"
    columns = {"value": Column(pa.float32(), "As told.")}
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


@pytest.mark.parametrize(
    ("error", "error_type", "message"),
    [
        (DecodeError("gone"), "DecodeError", "gone"),
        (ZeroDivisionError("oops"), "MeasureError", "ZeroDivisionError: oops"),
        (MemoryError(), "MeasureError", "MemoryError"),
        (cv2.error("size\n of 3 GB"), "MeasureError", "error: size of 3 GB"),
    ],
)
def test_only_the_culprit_fails(error: Exception, error_type: str, message: str) -> None:
    stage = Answer({"c": error})
    rows = isolate(stage, SAMPLES, pixels)
    assert [(row.sample_id, row.ok) for row in rows] == [("a", True), ("b", True), ("c", False), ("d", True)]
    assert (rows[2].error_type, rows[2].error) == (error_type, message)
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


def test_text_that_cannot_be_stored_fails_its_sample() -> None:
    """Half of a surrogate pair is no character (Unicode 16, D72), and Arrow's strings are UTF-8."""
    rows = isolate(Answer({"b": {"value": "\ud83d"}, "c": {"value": ["ok", "\ud83d"]}}), SAMPLES, pixels)
    assert [row.error for row in rows] == [None, *["value is no Unicode text"] * 2, None]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (OSError(errno.EMFILE, "Too many open files"), EnvironmentFault),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), DeviceMemoryFault),
    ],
)
def test_what_this_machine_lacks_is_nobodys_fault(error: Exception, raised: type[Exception]) -> None:
    with pytest.raises(raised, match=str(error.args[-1])):
        isolate(Answer({"b": error}), SAMPLES, pixels)


def test_broken_engine_is_nobodys_fault() -> None:
    with pytest.raises(WorkerError):
        isolate(Answer({"b": WorkerError("server gone")}), SAMPLES, pixels)


class Unprepared(Answer):
    """Forgets to return what it prepared."""

    def prepare(self, media: Media) -> Media:
        return None  # type: ignore[return-value]


class Wordless(Answer):
    """Returns something else than rows."""

    def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> Any:
        return self.answers["all"]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Unprepared({}), "prepared no Media, but NoneType"),
        (Wordless({"all": None}), "returned NoneType rows for 4 samples"),
        (Wordless({"all": [3] * 4}), "returned int in the place of a row"),
    ],
)
def test_what_is_no_answer_stops_the_run(stage: Answer, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        isolate(stage, SAMPLES, pixels)


def test_smaller_frames_are_not_to_be_had_in_a_model_worker() -> None:
    with pytest.raises(ContractError, match="prepare"):
        pixels(SAMPLES[0], None).shrunk(1)


def test_stage_that_ends_its_process_is_no_fault_of_a_sample() -> None:
    class Ending(Answer):
        def measure(self, samples: Sequence[Sample], media: Sequence[Media]) -> list[dict[str, Any]]:
            sys.exit(7)

    with pytest.raises(WorkerError, match="answer told its process to exit: 7"):
        isolate(Ending({}), SAMPLES, pixels)


def test_stage_that_cannot_be_sent_is_named(tmp_path: Path) -> None:
    data = {
        "name": "locked",
        "input": [str(tmp_path)],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["unsendable_color"]},
        "stages": {"unsendable_color": "model_stages:UnsendableColor"},
    }
    with pytest.raises(
        ContractError, match=r"^images.unsendable_color can't be sent to workers: TypeError: "
    ):
        check_travels(built(data)[1])
