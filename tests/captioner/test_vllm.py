"""The real engine in this process, on the CPU, with a tiny model of random weights.

Runs in the captioner's own environment (`make test-caption`). Independent of our code: transformers'
own `generate` with the same weights.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captioner import structure
from captioner.engines.base import ROLE, Answer, AnswerSettings, Question
from captioner.engines.vllm import VLLMEngine
from captioner.gate import VERDICTS
from captioner.settings import CaptionConfig
from curation.errors import CaptionError
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
