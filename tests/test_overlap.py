"""Model workers measure what decode workers send them: the same rows, at most two calls out, one order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from curation.errors import DeviceMemoryFault
from curation.execution.models.groups import model_groups
from curation.execution.models.model_worker import ModelWorker
from curation.execution.worker.measure import ModelAnswer, ModelCall
from curation.execution.worker.overlap import MAX_CALLS
from curation.execution.worker.worker import UnitWorker
from curation.pipeline.rules import Step
from curation.records import Source
from datasets_media import Bench, config_data
from model_stages import CrampedColor


class ModelsHere:
    """Model workers in this process. A call is measured when its answer is waited for."""

    def __init__(self, worker: ModelWorker, steps: Collection[str], max_bytes: int = 2**30) -> None:
        self.steps, self.max_bytes = steps, max_bytes
        self.calls: list[ModelCall] = []
        self.out: list[ModelCall] = []
        self.most_out = 0
        self.num_inferred = 0
        self._worker = worker

    def submit(self, call: ModelCall) -> Callable[[], ModelAnswer]:
        self.calls.append(call)
        self.out.append(call)
        self.most_out = max(self.most_out, len(self.out))
        return lambda: self._answer(call)

    def infer(self, step: Step, source: Source, batch: NDArray[Any]) -> NDArray[Any]:
        self.num_inferred += len(batch)
        return self._worker.infer(step.key, source.uri, batch)

    def _answer(self, call: ModelCall) -> ModelAnswer:
        assert self.out[0] is call  # the oldest is waited for
        self.out.pop(0)
        return self._worker.measure(call.step.key, call.samples, call.media)


def run_apart(bench: Bench, max_bytes: int = 2**30) -> list[ModelsHere]:
    """A whole run with model workers for what would like a GPU."""
    made: list[ModelsHere] = []
    decode = UnitWorker(bench.pipeline)
    for phase in ("probe", "filter", "enrich"):
        for task in bench.tasks(phase):
            groups = model_groups(bench.pipeline, task.needs, "cuda")
            keys = {key for group in groups for key in group.keys}
            worker = ModelWorker(bench.pipeline, keys, "cpu", {})
            worker.load()
            models = ModelsHere(worker, keys, max_bytes)
            made.append(models)
            decode.ask(lambda *_, models=models: models)
            decode.work(task)
    return made


def aesthetic_everywhere(media: Path, output: Path, vocabulary: Path) -> dict[str, Any]:
    data = config_data(media, output, vocabulary)
    data["run"] |= {"unit_images": 6, "unit_videos": 4}
    data["videos"]["filters"] = ["flow", "aesthetic", "color"]
    data["videos"]["aesthetic"] = data["images"]["aesthetic"] | {"min_score": 0.0}
    return data


@pytest.mark.parametrize("max_bytes", [2**30, 1])
def test_rows_are_those_of_a_run_without_model_workers(
    media: Path, vocabulary: Path, tmp_path: Path, max_bytes: int
) -> None:
    fused = Bench(aesthetic_everywhere(media, tmp_path / "fused", vocabulary))
    fused.run()
    data = aesthetic_everywhere(media, tmp_path / "apart", vocabulary)
    data["run"]["max_held_bytes"] = 100_000  # several calls per unit
    apart = Bench(data)
    models = run_apart(apart, max_bytes)
    called = {call.step.key for made in models for call in made.calls}
    assert called == {"images.aesthetic", "tokens", "videos.aesthetic"}
    assert max(made.most_out for made in models) == (MAX_CALLS if max_bytes > 1 else 1)
    keys = [step.key for step in fused.pipeline.steps()]
    assert {key: apart.rows(key) for key in keys} == {key: fused.rows(key) for key in keys}
    assert apart.outcomes() == fused.outcomes()


def cramped(media: Path, output: Path, vocabulary: Path, name: str) -> Bench:
    """A run whose only filter is a stage of `model_stages`, which likes to have a GPU."""
    data = config_data(media, output, vocabulary)
    for section in ("videos", "captions", "tokens", "shards"):
        del data[section]
    data["images"] = {"filters": [name]}
    stages = {"cramped_color": "CrampedColor", "too_large_color": "TooLargeColor"}
    data["stages"] = {name: f"model_stages:{stages[name]}"}
    data["run"]["unit_images"] = 6
    return Bench(data)


def test_batch_that_does_not_fit_is_halved_and_later_ones_start_there(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    bench = cramped(media, tmp_path / "out", vocabulary, "cramped_color")
    models = run_apart(bench)
    (step,) = bench.pipeline.steps()
    # One unit of six images, of which one can't be decoded: 5 do not fit, 2 do, twice, and 1.
    assert CrampedColor.sizes == [5, 2, 2, 1]
    assert [len(call.samples) for made in models for call in made.calls] == [5]
    assert sum(error is None for _, error in bench.rows(step.key).values()) == 5


def test_sample_that_does_not_fit_alone_fails_nobody(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    bench = cramped(media, tmp_path / "out", vocabulary, "too_large_color")
    with pytest.raises(DeviceMemoryFault, match=r"one sample of 1x\d+x\d+x3 does not fit"):
        run_apart(bench)
    (step,) = bench.pipeline.steps()
    assert bench.rows(step.key) == {}


def test_cuts_of_a_model_elsewhere_are_those_of_one_here(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    benches = []
    for name in ("fused", "apart"):
        data = config_data(media, tmp_path / name, vocabulary)
        for section in ("images", "captions", "tokens", "shards"):
            del data[section]
        data["videos"]["scenes"] |= {"content_threshold": None, "transnet_threshold": 0.5}
        benches.append(Bench(data))
    fused, apart = benches
    fused.run()
    models = run_apart(apart)
    assert sum(made.num_inferred for made in models) > 0
    assert apart.rows("videos.scenes") == fused.rows("videos.scenes")
    assert len(apart.rows("videos.scenes")) > 2
