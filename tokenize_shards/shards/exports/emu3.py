"""The layout of Emu3's fine-tuning code: a .pth per image, and a JSON list per split. It knows no clips."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from curation.stage import StageConfig
from curation.storage import Storage
from curation.tokenize_shards.shards.exports.base import Export, Exported, FinishedShards
from curation.tokenize_shards.shards.manifest import SPLITS
from curation.tokenize_shards.shards.rows import grid_of


class Emu3Export(Export[StageConfig]):
    """A file of `name`, `images` (the codes [H, W], int64) and `texts` per image; clips are left out."""

    about = (
        "A `.pth` file per image, with `name`, `images` (the codes, int64 [H, W]) and `texts` (the caption), "
        "and a JSON list of them per split, as Emu3's fine-tuning code reads them. Clips have no place in it."
    )
    usage = (
        "import json\nfrom pathlib import Path\n\nimport torch\n\n"
        'listed = json.loads(Path("FOLDER/train.json").read_text())\n'
        'torch.load(Path(listed["prefix"]) / listed["path_list"][0], weights_only=True)'
    )
    unread_files = "{split}/*/*.pth"

    def write(self, shards: FinishedShards, target: Storage) -> Exported:
        import torch

        done = Exported()
        for split in SPLITS:
            paths = []
            for number, shard in enumerate(shards.manifest.of_split(split)):
                for row in shards.rows(shard):
                    if row["kind"] != "image":
                        done.left_out["clips, which the layout has no place for"] += 1
                        continue
                    codes = torch.from_numpy(grid_of(row)[0].astype(np.int64))
                    sink = io.BytesIO()
                    torch.save({"name": row["sample_id"], "images": codes, "texts": row["caption"]}, sink)
                    paths.append(f"{split}/{number:05d}/{row['sample_id']}.pth")
                    target.write(paths[-1], sink.getvalue())
                    done.made_of[paths[-1]] = shard.name
            if paths:
                # Whoever trains does so from another folder than the one in which this was called.
                prefix = str(Path(target.root).absolute()) if target.is_local else target.root
                listed = {"prefix": prefix, "path_list": paths}
                target.write(f"{split}.json", (json.dumps(listed, indent=1) + "\n").encode())
                done.num_files += len(paths) + 1
                done.num_samples += len(paths)
        return done

    def count(self, target: Storage) -> int:
        """Files that are listed and there, each with the three things that belong in it."""
        import torch

        number = 0
        for split in SPLITS:
            data = target.read(f"{split}.json")
            for path in json.loads(data)["path_list"] if data else ():
                with target.open(path) as file:
                    sample = torch.load(file, weights_only=True)
                number += sample.keys() == {"name", "images", "texts"}
        return number
