"""Which class stands behind a stage's name. Adding a stage means adding one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from curation.errors import ConfigError

if TYPE_CHECKING:
    from curation.stage import Stage

STAGES = {
    "aesthetic": "stages.aesthetic:AestheticStage",
    "clusters": "stages.clusters:ClustersStage",
    "color": "stages.color:ColorStage",
    "duplicates": "stages.duplicates:DuplicatesStage",
    "flow": "stages.flow:FlowStage",
    "hps": "stages.hps:HpsStage",
    "mean_score": "stages.mean_score:MeanScoreStage",
    "phash": "stages.phash:PhashStage",
    "representatives": "stages.representatives:RepresentativesStage",
    "resolution": "stages.resolution:ResolutionStage",
    "scenes": "stages.scenes.splitter:ScenesSplitter",
    "text": "stages.text:TextStage",
    "thumbnail": "stages.thumbnail:ThumbnailStage",
    "captions": "captioner.stage:CaptionStage",
    "tokens": "tokenize_shards.vision.stage:TokenStage",
}

SHARDS = "tokenize_shards.shards.writer:ShardWriter"
PREFERENCE = "tokenize_shards.preference:make_triplets"
EXPORT = "tokenize_shards.shards.export:export"
MANIFEST = "tokenize_shards.shards.manifest:MANIFEST"
"""The name of the file that a folder of shards is known by."""
VERIFY = "tokenize_shards.shards.verify:verify"
CODEBOOK = "tokenize_shards.vision.codebook:codebook_use"
PREVIEW = "tokenize_shards.vision.preview:Previewer"
LABELS = "captioner.labels"
"""The module behind `curation label`."""
SERVER_ENGINE = "captioner.stage:server_engine"


def load(target: str) -> Any:
    """The object behind "module:name".

    Raises:
        ConfigError: there is no such module or name.
    """
    module_name, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"cannot load {target!r}: {error}") from error


def stage_class(name: str, extra: dict[str, str]) -> type[Stage[Any]]:
    """The stage registered as `name`, here or in the configuration's own `stages:` section."""
    stage: type[Stage[Any]] = load({**STAGES, **extra}[name])
    return stage
