"""Where the shards of an output were decided otherwise than a configuration says."""

from __future__ import annotations

from curation.config import Config
from curation.registry import READ_DECISION, load
from curation.storage import Storage


def decided_otherwise(storage: Storage, config: Config) -> list[str]:
    """A sentence for each setting that differs; none where there are no shards, or nobody knows."""
    if config.shards is None:
        return []
    decided = load(READ_DECISION)(storage, config.shards_folder)
    return [] if decided is None else list(decided.differences(config))
