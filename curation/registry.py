"""Which class stands behind a name: stages, engines of the captioner, and formats of the exporter.

    STAGES.load("color")       # the class ColorStage, imported now
    list(STAGES)               # every name that there is; imports none of them

Adding a stage, an engine or an export to the project means adding one line here. Other packages add theirs
by entry points, without touching this one:

    [project.entry-points."curation.stages"]       # or curation.engines, curation.exports
    sharpness = "their_package.sharpness:SharpnessStage"

This is the only module of the core that names what lies outside of it.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

from curation.errors import ConfigError, MissingDependencyError
from curation.errors.isolation import isolated


@dataclass(frozen=True)
class Registry:
    """The classes of one kind, by name: those of this project, and those of other packages' entry points.

    Attributes:
        kind: What they are, for messages, such as "stage".
        group: Group of the entry points.
        base: "module:Class" that they derive from.
        built_in: Name -> "module:Class" of this project's own.
    """

    kind: str
    group: str
    base: str
    built_in: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        """Every name, this project's own first, in the order of the registry; then others by name."""
        yield from self.built_in
        yield from sorted(set(_entry_points(self.group)) - set(self.built_in))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in _entry_points(self.group)

    def __len__(self) -> int:
        return len({*self.built_in, *_entry_points(self.group)})

    def load(self, name: str) -> Any:
        """The class of this name.

        Raises:
            ConfigError: there is none, two packages claim the name, or what stands behind it can't be
                imported or is of another kind. The message names the distributions.
        """
        found = _entry_points(self.group).get(name, ())
        if len(found) + (name in self.built_in) > 1:
            who = [*(["curation itself"] if name in self.built_in else []), *map(_distribution, found)]
            raise ConfigError(
                f"the {self.kind} {name!r} is claimed by {' and by '.join(who)}; remove all but one"
            )
        if found:
            try:
                return self.load_from(f"{found[0].module}:{found[0].attr}")
            except ConfigError as error:
                raise ConfigError(
                    f"the {self.kind} {name!r} of {_distribution(found[0])} is broken: {error}"
                ) from error
        if name not in self.built_in:
            raise ConfigError(f"there is no {self.kind} {name!r}; {suggestion(name, self)}")
        return self.load_from(self.built_in[name])

    def load_from(self, target: str) -> Any:
        """The class behind "module:Class".

        Raises:
            ConfigError: there is none, or it is of another kind.
        """
        found, base = load(target), load(self.base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"{target} is no {self.kind}: no subclass of {self.base.replace(':', '.')}")
        return found

    def distributions(self, name: str, found: type[Any]) -> list[str]:
        """The installed package that the class `found`, loaded by this name, is from; none for our own."""
        points = _entry_points(self.group).get(name, ())
        if len(points) != 1 or points[0].dist is None or self.load(name) is not found:
            return []
        return [points[0].dist.name]


STAGES = Registry(
    "stage",
    "curation.stages",
    "curation.stage:Stage",
    {
        "aesthetic": "curation.stages.aesthetic:AestheticStage",
        "clusters": "curation.stages.clusters:ClustersStage",
        "color": "curation.stages.color:ColorStage",
        "duplicates": "curation.stages.duplicates:DuplicatesStage",
        "flow": "curation.stages.flow:FlowStage",
        "hps": "curation.stages.hps:HpsStage",
        "mean_score": "curation.stages.mean_score:MeanScoreStage",
        "phash": "curation.stages.phash:PhashStage",
        "representatives": "curation.stages.representatives:RepresentativesStage",
        "resolution": "curation.stages.resolution:ResolutionStage",
        "scenes": "curation.stages.scenes.splitter:ScenesSplitter",
        "text": "curation.stages.text:TextStage",
        "thumbnail": "curation.stages.thumbnail:ThumbnailStage",
        "captions": "curation.captioner.stage:CaptionStage",
        "tokens": "curation.tokenize_shards.vision.stage:TokenStage",
    },
)
"""Stages that add something to kept samples do their work in this order."""

ENGINES = Registry(
    "caption engine",
    "curation.engines",
    "curation.captioner.engines.base:Engine",
    {
        "vllm": "curation.captioner.engines.vllm:VLLMEngine",
        "serve": "curation.captioner.engines.serve:ServeEngine",
        "openai": "curation.captioner.engines.openai:OpenAIEngine",
        "sidecar": "curation.captioner.engines.sidecar:SidecarEngine",
        "stand-in": "curation.captioner.engines.stand_in:StandInEngine",
    },
)

EXPORTS = Registry(
    "export format",
    "curation.exports",
    "curation.tokenize_shards.shards.exports.base:Export",
    {
        "emu3": "curation.tokenize_shards.shards.exports.emu3:Emu3Export",
        "webdataset": "curation.tokenize_shards.shards.exports.webdataset:WebDatasetExport",
        "datasets": "curation.tokenize_shards.shards.exports.datasets:DatasetsExport",
        "packed": "curation.tokenize_shards.shards.exports.packed:PackedExport",
        "mds": "curation.tokenize_shards.shards.exports.mds:MdsExport",
        "lance": "curation.tokenize_shards.shards.exports.lance:LanceExport",
        "jsonl": "curation.tokenize_shards.shards.exports.jsonl:JsonLinesExport",
    },
)

SPLITTER = "scenes"
"""What splits videos where a configuration names no splitter."""

SHARDS = "curation.tokenize_shards.shards.writer:ShardWriter"
PREFERENCE = "curation.tokenize_shards.preference:make_triplets"
EXPORT = "curation.tokenize_shards.shards.exports:export"
MANIFEST = "curation.tokenize_shards.shards.manifest:MANIFEST"
"""The name of the file that a folder of shards is known by."""
DATASET = "curation.tokenize_shards.shards.loader:ShardDataset"
READ_DECISION = "curation.tokenize_shards.shards.manifest:read_decision"
READ_MANIFEST = "curation.tokenize_shards.shards.manifest:read_manifest"
VERIFY = "curation.tokenize_shards.shards.verify:verify"
RETRACT_SHARDS = "curation.tokenize_shards.shards.retract"
"""The module that takes the samples of some sources out of shards."""
PUBLISH = "curation.tokenize_shards.shards.publish:publish"
CODEBOOK = "curation.tokenize_shards.vision.codebook:codebook_use"
PREVIEW = "curation.tokenize_shards.vision.preview:Previewer"
LABELS = "curation.captioner.labels"
"""The module behind `curation label`."""
SERVER_ENGINE = "curation.captioner.engines.openai:server_engine"


def load(target: str) -> Any:
    """The object behind "module:name".

    Raises:
        ConfigError: there is no such module or name, or the module fails while it is imported.
    """
    module_name, _, name = target.partition(":")
    try:
        with isolated(ConfigError):
            return attrgetter(name)(importlib.import_module(module_name))
    except (ConfigError, MissingDependencyError) as error:
        raise ConfigError(f"cannot load {target!r}: {error}") from error


def suggestion(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """What to say of a name that is not known: the one that was probably meant, or all that there are."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(choices)}"


@functools.cache
def _entry_points(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points that claim it, by distribution."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in sorted(entry_points(group=group), key=_distribution):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _distribution(point: EntryPoint) -> str:
    return (
        f"the package {point.dist.name} {point.dist.version}" if point.dist is not None else repr(point.value)
    )
