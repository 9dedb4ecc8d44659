"""The real engine in this process, on the CPU, with a tiny model of random weights.

Runs in the captioner's own environment (`make test-caption`). Independent of our code: transformers'
own `generate` with the same weights.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.captioner import structure
from curation.captioner.engines.base import ROLE, Answer, AnswerSettings, Question
from curation.captioner.engines.vllm import VLLMEngine
from curation.captioner.gate import VERDICTS
from curation.captioner.settings import CaptionConfig
from curation.errors import CaptionError, EnvironmentFault, MeasureError, WorkerError
from curation.pipeline.models import resolve_revision
from curation.stage import Setup
from datasets_media import ROOT, config_data, worked
from one_by_one import scan_verdicts

if find_spec("vllm") is None:
    if os.environ.get("REQUIRE_VLLM") == "1" and not (ROOT / ".venv-caption/.installed").exists():
        pytest.fail("vLLM is not here: `make caption-env` installs it")
    pytest.skip("`make test-caption` runs these where vLLM is", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
NUM_TOKENS = 40


def clip(seed: int, count: int = 12) -> NDArray[np.uint8]:
    """A texture that moves to the right, [count, 120, 160, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (10, 16, 3)).astype(np.uint8)
    texture = small.repeat(12, 0).repeat(10, 1)
    return np.stack([np.roll(texture, 7 * step, axis=1) for step in range(count)])


def question(frames: NDArray[np.uint8], prompt: str = "What happens?", **more: Any) -> Question:
    is_clip = len(frames) > 1
    return Question(prompt, frames, "clip" if is_clip else "image", 6.0 if is_clip else 0.0, **more)


def texts(answers: list[Answer | CaptionError]) -> list[str]:
    assert not [answer for answer in answers if isinstance(answer, CaptionError)]
    return [answer.text for answer in answers if isinstance(answer, Answer)]


def engine_for(model: Path, args: dict[str, Any], **settings: Any) -> VLLMEngine:
    config = CaptionConfig(engine="vllm", model=str(model), engine_args=args, dtype="float32", **settings)
    schema = structure.schema() if config.structured else None
    max_tokens = 400 if config.structured else NUM_TOKENS
    engine = VLLMEngine(config)
    (ref,) = engine.models()
    engine.setup(
        Setup("cpu", {ROLE: resolve_revision(ref)}), AnswerSettings(max_tokens, schema, config.frames_as)
    )
    return engine


@pytest.fixture(scope="module")
def engine(tiny_model: Path, engine_args: dict[str, Any]) -> VLLMEngine:
    return engine_for(tiny_model, engine_args)


@pytest.fixture(scope="module")
def video_engine(tiny_model: Path, engine_args: dict[str, Any]) -> VLLMEngine:
    return engine_for(tiny_model, engine_args, frames_as="video", structured=True)


def test_captions_are_those_of_transformers(engine: VLLMEngine, tiny_model: Path) -> None:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(tiny_model)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_model, dtype=torch.float32)
    for seed, count in ((0, 12), (1, 12), (2, 1)):
        frames = clip(seed, count)
        content = [*({"type": "image"} for _ in frames), {"type": "text", "text": "What happens?"}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(text=[prompt], images=list(frames), return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        expected = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
        (answer,) = engine.answer([question(frames)])
        assert isinstance(answer, Answer)
        assert answer.text == expected
        assert answer.num_prompt_tokens == inputs["input_ids"].shape[1]
        assert (answer.num_output_tokens, answer.finish_reason) == (NUM_TOKENS, "length")


def test_a_batch_says_what_its_questions_say_alone(engine: VLLMEngine) -> None:
    questions = [question(clip(seed, 1 if seed % 3 == 0 else 12)) for seed in range(12)]
    together = texts(engine.answer(questions))
    assert len(set(together)) == 12
    assert together == [texts(engine.answer([item]))[0] for item in questions]


def test_every_frame_and_their_order_count(engine: VLLMEngine) -> None:
    frames = clip(3)
    changed = frames.copy()
    changed[7] = 255 - changed[7]
    ways = [frames, np.ascontiguousarray(frames[::-1]), changed, frames[:11]]
    assert len(set(texts(engine.answer([question(way) for way in ways])))) == 4


def test_seeds_bring_other_texts_and_the_same_again(engine: VLLMEngine) -> None:
    asked = [question(clip(4), temperature=1.0, seed=seed) for seed in (1, 2, 1)]
    one, two, again = texts(engine.answer(asked))
    assert one == again != two


def test_question_that_vllm_refuses_fails_alone(engine: VLLMEngine) -> None:
    fine, refused, also_fine = engine.answer([question(clip(5)), question(clip(5, 13)), question(clip(5))])
    assert isinstance(refused, CaptionError)
    assert "At most 12 image" in str(refused)
    assert texts([fine]) == texts([also_fine])


def test_two_requests_at_once_say_what_they_say_alone(engine: VLLMEngine) -> None:
    requests = [[question(clip(10 * number + seed)) for seed in range(6)] for number in (1, 2)]
    alone = [texts(engine.answer(request)) for request in requests]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            assert [texts(answers) for answers in threads.map(engine.answer, requests)] == alone


def test_request_that_breaks_off_leaves_nothing_to_the_next(engine: VLLMEngine) -> None:
    (alone,) = texts(engine.answer([question(clip(8))]))
    broken = replace(question(clip(7)), frames=np.zeros((1, 8, 8, 5), np.uint8))  # no picture
    with pytest.raises(MeasureError, match="TypeError"):
        engine.answer([question(clip(7)), broken])
    assert texts(engine.answer([question(clip(8))])) == [alone]


def test_engine_that_does_not_start_is_the_machines_fault(
    tiny_model: Path, engine_args: dict[str, Any]
) -> None:
    with pytest.raises(EnvironmentFault, match=r"(?s)vLLM did not start with .*max_model_len"):
        engine_for(tiny_model, {**engine_args, "max_model_len": 10**9})


def test_video_takes_fewer_tokens_and_its_order_counts(engine: VLLMEngine, video_engine: VLLMEngine) -> None:
    frames = clip(6)
    ways = [question(frames), question(np.ascontiguousarray(frames[::-1]))]
    there, back = video_engine.answer(ways)
    (as_images,) = engine.answer(ways[:1])
    assert isinstance(there, Answer)
    assert isinstance(back, Answer)
    assert isinstance(as_images, Answer)
    assert there.text != back.text
    assert there.num_prompt_tokens < as_images.num_prompt_tokens


def test_grammar_holds_even_random_weights_to_the_schema(video_engine: VLLMEngine) -> None:
    asked = [question(clip(seed), temperature=1.0, seed=seed) for seed in range(8)]
    answers = [answer for answer in video_engine.answer(asked) if isinstance(answer, Answer)]
    whole = [answer for answer in answers if answer.finish_reason == "stop"]
    assert len(answers) == 8
    assert whole  # the others ran out of tokens inside a text
    for answer in whole:
        parts = structure.parse(answer.text)
        assert parts is not None
        assert parts.model_dump() == json.loads(answer.text)


@pytest.fixture
def unit_rows(media: Path, tmp_path: Path, tiny_model: Path, engine_args: dict[str, Any]) -> dict[str, Any]:
    """Rows of the captions of the small dataset, measured by one worker in this process."""
    captions = {
        "engine": "vllm",
        "model": str(tiny_model),
        "max_tokens": 24,
        "gate": {"refuse": ["empty"]},
        "engine_args": engine_args,
    }
    data = config_data(media, tmp_path / "out", tmp_path / "none", captions=captions)
    del data["tokens"], data["shards"]
    pipeline, ledger, metrics = worked(data)
    assert metrics.usage["captions"]["engine_s"] > 0
    return {
        leaf.sample.sample_id: leaf.rows["captions"]
        for _, judged in scan_verdicts(ledger, pipeline)
        for source in judged
        for leaf in source.leaves()
        if "captions" in leaf.rows
    }


def test_images_clips_and_windows_of_files_get_captions(unit_rows: dict[str, Any]) -> None:
    assert len(unit_rows) == 7  # three images, two scenes, two windows of the long clip
    values = [row.values for row in unit_rows.values()]
    assert len({value["caption"] for value in values}) == 7
    assert sorted(value["num_frames"] for value in values) == [1, 1, 1, 12, 12, 12, 12]
    assert {value["num_output_tokens"] for value in values} == {24}
    assert {value["finish_reason"] for value in values} == {"length"}
    # Prompts are drawn by ids, ids depend on where the files lie: nonsense that repeats itself is told first.
    assert {value["verdict"] for value in values} <= set(VERDICTS)


class EngineWorker:
    """An engine in an actor, as a model worker holds it."""

    def __init__(self, model: Path, args: dict[str, Any]) -> None:
        self._engine = engine_for(model, args)

    def answer(self, questions: list[Question]) -> list[str]:
        return texts(self._engine.answer(questions))

    def children(self) -> list[int]:
        """Processes of vLLM's engine."""
        ids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in ids}
        return [pid for pid, name in names.items() if "resource_tracker" not in name]

    def how_it_dies(self) -> list[str]:
        """What is said when the engine is killed while it is asked, and of a later question."""
        timer = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in self.children()])
        timer.start()
        said = []
        for number in (200, 1):
            try:
                self._engine.answer([question(clip(seed)) for seed in range(number)])
            except WorkerError as error:
                said.append(str(error))
        return said


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Any]:
    """Makes an actor of `EngineWorker`."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def make(*given: Any, **variables: str) -> Any:
        options = {"num_cpus": 0, "max_concurrency": 2, "runtime_env": {"env_vars": variables}}
        return ray.remote(**options)(EngineWorker).remote(*given)

    yield make
    ray.shutdown()


def test_two_engines_at_once_say_what_one_says(
    on_ray: Any, tiny_model: Path, engine_args: dict[str, Any]
) -> None:
    import ray

    requests = [[question(clip(10 * number + seed)) for seed in range(4)] for number in range(4)]
    workers = [on_ray(tiny_model, engine_args) for _ in range(2)]
    alone = [ray.get(workers[0].answer.remote(request), timeout=300) for request in requests]
    assert len({text for answers in alone for text in answers}) == 16
    # Two requests at a time at each, as decode workers have them under way.
    asked = [workers[number % 2].answer.remote(request) for number, request in enumerate(requests)]
    assert ray.get(asked, timeout=300) == alone
    for worker in workers:
        ray.kill(worker)


def test_engine_whose_process_dies_is_a_worker_that_died(
    on_ray: Any, tiny_model: Path, engine_args: dict[str, Any]
) -> None:
    import ray

    worker = on_ray(tiny_model, engine_args, VLLM_ENABLE_V1_MULTIPROCESSING="1")
    assert ray.get(worker.children.remote(), timeout=300)
    said = ray.get(worker.how_it_dies.remote(), timeout=120)
    assert ["vLLM's engine died" in one for one in said] == [True, True]
    ray.kill(worker)
