"""Settings of the shards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from curation.stage import Location
from curation.tokenize_shards.documents.document import DocumentConfig


class ShardConfig(DocumentConfig):
    """Settings of the shards."""

    vocabulary: Location
    """Emu3's text vocabulary: a file (`qwen.tiktoken` or a `tokenizer.json`), `package:NAME/path`, a URL with
    its sha256, or a folder or hub name of a tokenizer; files and folders may lie in buckets."""
    vocabulary_file: str = "tokenizer.json"
    """Which file of a folder or of a hub name's repository."""
    vocabulary_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """sha256 that the vocabulary must have."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of sources, 0..1, whose samples go to validation shards; a source is never in both splits."""
    shard_bytes: Annotated[int, Field(ge=1)] = 256_000_000
    """Largest size of a shard in bytes, about; a larger one holds a single sample. The smallest is more than
    half as large, unless the whole split is smaller than that."""
    row_group_bytes: Annotated[int, Field(ge=1)] = 16_000_000
    """Size of a row group in bytes, about: what a reader loads at a time."""
    shuffle_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000
    """Bytes of samples that are shuffled together, about; at least one unit. Each task that writes shards
    holds so much in memory."""
    seed: int = 0
    """Seed of the order, of the split, and of what each document is for."""
