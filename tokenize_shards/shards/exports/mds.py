"""MosaicML streaming (MDS): a folder per split, with a `.mds` file per shard and their index.

The format is version 2 of mosaicml-streaming's (docs.mosaicml.com/projects/streaming, "Dataset Format"): the
number of samples, the offset of each, the settings as JSON, then the samples; all integers are little-endian
uint32. A sample is the sizes of its columns, then the columns. The package itself is not needed to write it,
and pins versions of numpy and transformers that are older than this project's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import StorageError
from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import Export, Exported, FinishedShards, ShardRow
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import document_of, grid_of

_COLUMNS: Mapping[str, str] = {
    "caption": "str",
    "codes": "ndarray:uint16",
    "input_ids": "ndarray:int32",
    "row": "json",
    "sample_id": "str",
}
"""Columns by name, which the format wants sorted, and how they are encoded. It has no nulls but in JSON."""
_SETTINGS: Mapping[str, Any] = {
    "column_encodings": list(_COLUMNS.values()),
    "column_names": list(_COLUMNS),
    "column_sizes": [None] * len(_COLUMNS),
    "compression": None,
    "format": "mds",
    "hashes": [],
    "size_limit": None,
    "version": 2,
}
_SHAPE_TYPES = ("u1", "<u2", "<u4")
"""Types of the shape in an array's header, by number; the smallest that holds it."""
MAX_BYTES = 2**32
"""Offsets are uint32: a file can't be larger."""
_INDEX = "index.json"


class MdsExport(Export[StageConfig]):
    """A `.mds` file per shard, and an index per split."""

    about = (
        "A folder per split for MosaicML's `StreamingDataset`: `caption`, `codes` (uint16 [T, H, W]), "
        "`input_ids` (the ids of the document), `sample_id`, and all other columns of the shard in `row`."
    )
    usage = (
        "from streaming import StreamingDataset\n\n"
        'dataset = StreamingDataset(local="FOLDER", split="train", batch_size=1)\n'
        'dataset[0]["caption"]'
    )
    unread_files = "{split}/*.mds"

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        done = Exported()
        for split in SPLITS:
            entries = []
            for number, shard in enumerate(shards.manifest.of_split(split)):
                name = f"shard.{number:05d}.mds"
                data = _file_of([_sample(row) for row in shards.rows(shard)])
                if len(data) >= MAX_BYTES:
                    raise StorageError(
                        f"{shard.name} makes {len(data)} bytes of MDS; a file holds {MAX_BYTES}"
                    )
                target.write(f"{split}/{name}", data)
                entries.append(_entry(name, len(data), shard.num_samples))
                done.made_of[f"{split}/{name}"] = shard.name
                done.num_samples += shard.num_samples
                done.num_files += 1
            if entries:
                text = json.dumps({"shards": entries, "version": 2}, sort_keys=True)
                target.write(f"{split}/{_INDEX}", text.encode())
                done.num_files += 1
        return done

    def count(self, target: Storage) -> int:
        """Samples that the indexes name and the files hold."""
        number = 0
        for split in SPLITS:
            for entry in json.loads(target.read(f"{split}/{_INDEX}") or b'{"shards": []}')["shards"]:
                data = target.read(f"{split}/{entry['raw_data']['basename']}") or b""
                whole = len(data) == entry["raw_data"]["bytes"]
                number += int.from_bytes(data[:4], "little") if whole else 0
        return number


def _entry(name: str, num_bytes: int, num_samples: int) -> dict[str, Any]:
    raw = {"basename": name, "bytes": num_bytes, "hashes": {}}
    return {**_SETTINGS, "raw_data": raw, "samples": num_samples, "zip_data": None}


def _file_of(samples: list[bytes]) -> bytes:
    settings = json.dumps(_SETTINGS, sort_keys=True).encode()
    sizes = np.array([0, *map(len, samples)], np.int64)
    offsets = sizes.cumsum() + 4 + 4 * len(sizes) + len(settings)
    return b"".join([_uint32(len(samples)), offsets.astype("<u4").tobytes(), settings, *samples])


def _sample(row: ShardRow) -> bytes:
    apart = {"codes", "caption", "sample_id"}
    columns = {
        "caption": row["caption"].encode(),
        "codes": _array(grid_of(row)),
        "input_ids": _array(document_of(row)),
        "row": json.dumps({name: value for name, value in row.items() if name not in apart}).encode(),
        "sample_id": row["sample_id"].encode(),
    }
    return b"".join(
        [*(_uint32(len(columns[name])) for name in _COLUMNS), *(columns[name] for name in _COLUMNS)]
    )


def _array(values: NDArray[Any]) -> bytes:
    """An array of a known type: number of axes and type of the shape in a byte, the shape, the values."""
    kind = (max(values.shape) >= 2**8) + (max(values.shape) >= 2**16)
    header = bytes([values.ndim << 2 | kind])
    shape = np.array(values.shape).astype(_SHAPE_TYPES[kind]).tobytes()
    return header + shape + np.ascontiguousarray(values).tobytes()


def _uint32(number: int) -> bytes:
    return number.to_bytes(4, "little")
