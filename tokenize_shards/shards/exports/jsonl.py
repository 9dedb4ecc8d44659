"""JSON Lines: a sample a line, with its codes as nested lists."""

from __future__ import annotations

import json

import pyarrow as pa

from curation.report.cards.croissant import JSON_LINES
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import CODES, Export, Exported, FinishedShards
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import grid_of


class JsonLinesExport(Export[StageConfig]):
    """A `.jsonl` file per shard."""

    about = (
        "A JSON Lines file per shard, a sample a line, with the columns of the shards; `codes` are lists "
        "[T][H][W], and what is not known is null."
    )
    usage = (
        "from datasets import load_dataset\n\n"
        'dataset = load_dataset("FOLDER", split="train")\n'
        'dataset[0]["caption"]'
    )
    data_files = "{split}-*.jsonl"
    table_type = JSON_LINES

    def loaded_schema(self, shard: pa.Schema) -> pa.Schema:
        return shard.set(shard.get_field_index("codes"), pa.field("codes", CODES))

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        for split in SPLITS:
            for number, shard in enumerate(shards.manifest.of_split(split)):
                name = f"{split}-{number:05d}.jsonl"
                with target.creating(name) as file:
                    for row in shards.rows(shard):
                        line = json.dumps({**row, "codes": grid_of(row).tolist()}, ensure_ascii=False)
                        file.write(f"{line}\n".encode())
                        done.num_samples += 1
                done.made_of[name] = shard.name
                done.num_files += 1
        return done

    def count(self, target: Storage) -> int:
        """Lines with a sample's id and its codes."""
        number = 0
        for item in target.list(""):
            with target.open(item.key) as file:
                number += sum({"sample_id", "codes"} <= json.loads(line).keys() for line in file)
        return number
