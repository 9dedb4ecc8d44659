"""Captions a second of the caption stage, over those of a bare LLM.chat with the same engine and prompts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import cpu_medians
from curation.captioner.settings import CaptionConfig
from curation.captioner.stage import CaptionStage
from curation.pipeline.models import resolve_revision
from curation.records import Sample, Source
from curation.stage import Media, Setup

ROOT = Path(__file__).parents[1]
NUM_CLIPS = 32
NUM_TOKENS = 64
ENGINE_ARGS = {
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 16,
    "kv_cache_memory_bytes": 64 << 20,
    "enable_prefix_caching": False,  # the rounds repeat their prompts
}


def ratio() -> float:
    """CPU time of LLM.chat over that of the stage, with a tiny model, where vLLM is."""
    if find_spec("vllm") is not None:
        return _measured()
    python = os.environ.get("CAPTION_PYTHON", str(ROOT / ".venv-caption/bin/python"))
    command = [python, "-m", "benchmarks.captions"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    said = done.stdout.splitlines()
    print("\n".join(said[:-1]))
    return float(said[-1])


def _measured() -> float:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny"
        subprocess.run([sys.executable, ROOT / "tests/tiny_vlm.py", model], check=True, capture_output=True)
        stage = CaptionStage(
            CaptionConfig(
                engine="vllm",
                model=str(model),
                max_tokens=NUM_TOKENS,
                gate={"refuse": ["empty"]},
                engine_args=ENGINE_ARGS,
            )
        )
        stage.setup(Setup("cpu", {"captioner": resolve_revision(stage.models()[0])}))
    samples, media = zip(*(_clip(seed) for seed in range(NUM_CLIPS)), strict=True)
    stage_s, chat_s = cpu_medians(
        partial(stage.measure, samples, media), partial(_chat, stage, samples, media)
    )
    print(f"      {NUM_CLIPS / stage_s:.1f} and {NUM_CLIPS / chat_s:.1f} captions per CPU second")
    return chat_s / stage_s


def _chat(stage: CaptionStage, samples: tuple[Sample, ...], media: tuple[Media, ...]) -> Any:
    """What somebody would write who has frames and prompts and knows vLLM's documentation."""
    from PIL import Image
    from vllm import SamplingParams

    chats = []
    for sample, item in zip(samples, media, strict=True):
        content: list[dict[str, Any]] = [
            {"type": "image_pil", "image_pil": Image.fromarray(frame)} for frame in item.pixels
        ]
        text = stage.question(sample, item).prompt
        chats.append([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
    return stage.engine.llm.chat(chats, params, use_tqdm=False)


def _clip(seed: int) -> tuple[Sample, Media]:
    source = Source(source_id=f"v{seed}", uri="v.mp4", kind="video", size_bytes=1, etag="e")
    small = np.random.default_rng(seed).integers(0, 256, (12, 15, 20, 3)).astype(np.uint8)
    return Sample.of_span(source.source_id, 0.0, 6.0), Media(
        source, small.repeat(16, 1).repeat(16, 2), np.arange(12.0)
    )


if __name__ == "__main__":
    print(ratio())
