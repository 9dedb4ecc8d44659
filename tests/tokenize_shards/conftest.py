"""A small text vocabulary and the stand-in vision tokenizer."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from curation.tokenize_shards.vision.emu3 import Emu3Tokenizer, stand_in_model

MERGES = (b"th", b"the", b" the", b"12", b"**")
"""Ranks 256 to 260, behind the 256 single bytes."""


def write_ranks(path: Path, tokens: list[bytes]) -> Path:
    """A vocabulary in the format of `qwen.tiktoken`: base64 of the bytes, and the rank, per line."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def small_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = [*(bytes([value]) for value in range(256)), *MERGES]
    return write_ranks(tmp_path_factory.mktemp("vocabulary") / "small.tiktoken", tokens)


@pytest.fixture(scope="session")
def stand_in() -> Emu3Tokenizer:
    """With its decoder."""
    return Emu3Tokenizer(stand_in_model(), "cpu")
