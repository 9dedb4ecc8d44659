"""Builds a vision-language model with random weights, offline: python tests/tiny_vlm.py FOLDER.

It has the layout of Qwen2.5-VL and 0.4 million parameters. What it says is nonsense, but a function of
prompt and pixels alone: other frames, another order, another text give another caption, which is what
a test of the plumbing around a captioner needs. Frames are scaled to 16 tokens at most.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PATCH_PX = 14
VOCABULARY = 512
HIDDEN = 64
LAYERS = 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]

CORPUS = """
A wide view of a street at night; the camera pans slowly to the left while cars pass by.
Two children play on a beach, the waves are calm and the evening sky is orange.
Hands cut vegetables on a wooden board in a bright kitchen, seen from close by.
From above: a green forest with mist between the trees, and a small river in the sun.
The camera does not move. A brown dog runs across the meadow and catches a red ball.
Describe the video: subject, motion, camera and style. Write one paragraph of plain text.
{"subject": "a man on a bicycle", "motion": "he turns right", "camera": "static", "style": "film"}
These are 12 frames of a video in the order of time, over 6.0 seconds. system user assistant
"""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type in ('video', 'video_url') -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build(folder: Path, *, seed: int = 0, ends: bool = False) -> Path:
    """Write the checkpoint. It speaks until it is stopped, or with `ends` until it ends by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, unspoken = _write_tokenizer(folder)
    if ends:
        unspoken.remove(ids["<|im_end|>"])
    _write_processor(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write_weights(folder, ids, unspoken, seed)
    stops = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]}
    _write_json(folder / "generation_config.json", {**stops, "do_sample": False})
    return folder


def _write_tokenizer(folder: Path) -> tuple[dict[str, int], list[int]]:
    """A byte-level BPE; the special tokens' ids, and those that no caption should hold."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.strip().splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": SPECIAL[1:]}
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    other = {"model_max_length": 131072, "clean_up_tokenization_spaces": False}
    _write_json(folder / "tokenizer_config.json", {**settings, **ends, **other})
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    texts = {number: tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size())}
    odd = {number for number, text in texts.items() if not (text.isascii() and text.isprintable())}
    return ids, sorted(odd | set(ids.values()))


def _write_processor(folder: Path) -> None:
    token_px = (2 * PATCH_PX) ** 2
    common = {
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "size": {"shortest_edge": 4 * token_px, "longest_edge": 16 * token_px},
        "processor_class": "Qwen2_5_VLProcessor",
    }
    image = {"image_processor_type": "Qwen2VLImageProcessor", **common}
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False, **common}
    _write_json(folder / "preprocessor_config.json", image)
    _write_json(folder / "video_preprocessor_config.json", video)


def _write_weights(folder: Path, ids: dict[str, int], unspoken: list[int], seed: int) -> None:
    """Random weights at a scale at which pixels and words both move the output.

    The output rows of unspoken tokens are zero, and a logit of zero is never the greatest.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        # The 16 pairs of a head of 32, shared out between time, height and width.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    }
    vision = {
        "depth": LAYERS,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": 2,
        "patch_size": PATCH_PX,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        "window_size": 8 * PATCH_PX,
        "fullatt_block_indexes": [LAYERS - 1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = 1.5 / weight[0].numel() ** 0.5
            scale = 1.0 if "embed_tokens" in name else 4 * scale if "lm_head" in name else scale
            weight.copy_(torch.randn(weight.shape, generator=random) * scale)
        model.lm_head.weight[unspoken] = 0.0
    model.to(torch.bfloat16).save_pretrained(folder)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
