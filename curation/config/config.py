"""The configuration: YAML in, typed settings out, every mistake named at once.

A key that nobody knows is an error, never ignored: a misspelt threshold that silently does nothing
costs a dataset. Stage settings are checked by the stage's own `Config`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from curation.config.settings_file import read_settings
from curation.errors import ConfigError
from curation.media.decoder import DecoderName, DecoderSettings
from curation.media.image import MAX_PIXELS
from curation.records import SampleKind
from curation.registry import SHARDS, STAGES, load, stage_class
from curation.splitter import Splitter
from curation.stage import GIVEN_COLUMNS, DatasetStage, Location, Stage, StageConfig


class General(StageConfig):
    """What a run is about."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The dataset's name: letters, digits, `.`, `_`, `-`; the shards go to `<output>/shards/<name>`."""
    input: list[Location] = Field(min_length=1)
    """Folders to read, all files below them. A source's identity is its path as spelled here, `./in` being
    `in`."""
    output: Location
    """Folder for ledger, shards and report."""
    stand_ins: Literal["refuse", "allow"] = "refuse"
    """Whether untrained stand-in models may be used."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; `auto` takes a GPU where there is one."""
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS
    """Images and videos of more pixels (of videos: a frame, with square pixels) are FAILED, by their header
    alone, or where frames grow in mid-stream; with a new limit use `--retry-failed`."""
    image_decode_short_side: Annotated[int, Field(ge=32)] | None = None
    """Pixels that a JPEG's short side keeps at least when it is decoded for the image filters, at 1/2, 1/4 or
    1/8 of its size; null: at full size. Quicker where every filter of `images` sees a short side of at most
    so many pixels, which is checked. Pixels differ a little, so the filters of `images` measure anew.
    Captions and tokens are made of full-sized pixels in any case."""
    hdr: Literal["tone_map", "flag", "reject"] = "tone_map"
    """Video in PQ or HLG: `tone_map` makes it SDR; `reject` rejects it (`hdr_rejected`) without looking at
    it; `flag` takes its code values for SDR, so that it looks dull, and measures all videos, captions and
    tokens anew. The column `color_transfer` names it in any case."""
    license: str = "unknown"
    """Licence of the media, written to every shard row and to the dataset card."""


class RunSettings(StageConfig):
    """How a run is carried out; nothing here changes a number."""

    workers: Annotated[int, Field(ge=1)] | None = None
    """Worker processes; by default one per CPU of the cluster."""
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a GPU that each worker takes where models run on GPUs."""
    unit_images: Annotated[int, Field(ge=1)] = 256
    """Images in a unit: what is committed, and done again after a crash, together."""
    unit_videos: Annotated[int, Field(ge=1)] = 8
    """Videos in a unit."""
    max_kills: Annotated[int, Field(ge=1)] = 2
    """A source that killed its worker this many times is recorded as FAILED (PoisonSource)."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of sources and samples that may fail before the run ends with exit code 1."""
    max_held_bytes: Annotated[int, Field(ge=1)] = 2**29
    """Decoded pixels that a worker holds: of images that are filtered together, and of kept samples before
    captions and tokens are measured together. At least one image or sample is held, whatever its size."""
    max_rss_bytes: Annotated[int, Field(ge=2**28)] | None = None
    """A worker that holds more memory than this after a unit is replaced; for libraries that leak."""
    decoder: DecoderName = "pyav"
    """Library that decodes videos; what `decord` is known to get wrong is decoded by PyAV all the same."""
    segment_s: Annotated[float, Field(ge=1)] | None = 900.0
    """Videos longer than this many seconds are worked on in such parts, by several workers at once."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without progress after which a worker is killed and its source blamed."""
    report_samples: Annotated[int, Field(ge=0)] = 1
    """Samples of each shard, up to eight in all, whose tokens the report shows decoded; 0 for none."""


@dataclass(frozen=True)
class StageChoice:
    """A stage chosen in the configuration: where, which class, with what settings."""

    key: str
    stage: type[Stage[Any]]
    settings: StageConfig

    def build(self) -> Stage[Any]:
        """The stage itself; cheap, no weights."""
        return self.stage(self.settings)


@dataclass(frozen=True)
class RuleChoice:
    """`all` or `any` of stages (by their key) and further rules."""

    mode: Literal["all", "any"]
    parts: tuple[str | RuleChoice, ...]


@dataclass(frozen=True)
class BranchChoice:
    """What happens to one kind of source: how it is split, and the rule that its samples go through."""

    rule: RuleChoice
    splitter: StageChoice | None
    stages: Mapping[str, StageChoice]


@dataclass(frozen=True)
class Config:
    """A whole configuration, checked. `resolved` is the YAML with overrides, as it goes to run.json."""

    general: General
    run: RunSettings
    images: BranchChoice | None
    videos: BranchChoice | None
    captions: StageChoice | None
    tokens: StageChoice | None
    shards: Any
    resolved: Mapping[str, Any]

    @property
    def decoder(self) -> DecoderSettings:
        """How videos are decoded."""
        return DecoderSettings(self.run.decoder, self.general.hdr != "flag", self.general.max_pixels)


_SECTIONS = ("images", "videos", "captions", "tokens", "shards", "run", "stages")
_SPLITTERS = {"videos": "scenes"}
_SAMPLES: Mapping[str, SampleKind] = {"images": "image", "videos": "clip"}
"""What the filters of a section measure."""


class _Problems:
    """Collects what is wrong, so that all of it can be said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def unknown(self, where: str, key: str, known: Iterable[str]) -> None:
        choices = sorted(known)
        close = difflib.get_close_matches(key, choices, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(choices)}"
        self.add(_dotted(where, key), f"unknown; {hint}")

    def check(self, model: type[BaseModel], where: str, data: Any) -> Any:
        """`data` as `model`, or None after noting every problem."""
        if data is None:
            data = {}
        if not isinstance(data, Mapping):
            self.add(where or "file", f"must be a mapping of settings, not {type(data).__name__}")
            return None
        try:
            return model.model_validate(dict(data))
        except ValidationError as error:
            for item in error.errors():
                self._add_item(model, where, item)
            return None

    def _add_item(self, model: type[BaseModel], where: str, item: Mapping[str, Any]) -> None:
        *path, last = [str(part) for part in item["loc"] if not _is_union_tag(part)] or [""]
        if item["type"] == "extra_forbidden":
            self.unknown(".".join(filter(None, [where, *path])), last, _model_at(model, path).model_fields)
            return
        message = item["msg"][0].lower() + item["msg"][1:]
        if item["type"] == "missing":
            message = "is required"
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message += f", not {item['input']!r}"
        self.add(".".join(filter(None, [where, *path, last])), message)


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The model of the settings at a path inside of others."""
    for name in path:
        field = model.model_fields.get(name)
        if (
            field is not None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            model = field.annotation
    return model


def _is_union_tag(part: object) -> bool:
    """Pydantic puts the tried type of a union into the location, such as "constrained-float"."""
    return isinstance(part, str) and part.startswith(("constrained-", "function-", "list["))


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def load_config(path: str, overrides: Sequence[str] = (), **fields: Any) -> Config:
    """Read and check a configuration file.

    Args:
        path: YAML file.
        overrides: "a.b=value" settings that replace the file's, value in YAML; null drops a section.
        fields: Top-level settings that replace the file's; None leaves it.

    Raises:
        ConfigError: with every problem, each under its dotted name.
    """
    data = read_settings(path, overrides)
    data.update({key: value for key, value in fields.items() if value is not None})
    return parse_config(data, path)


def parse_config(data: Mapping[str, Any], name: str = "configuration") -> Config:
    """Check a configuration given as nested mappings.

    Raises:
        ConfigError: with every problem, each under its dotted name.
    """
    problems = _Problems()
    top = {key: value for key, value in data.items() if key not in _SECTIONS}
    for key in [key for key in top if key not in General.model_fields]:
        problems.unknown("", str(key), [*General.model_fields, *_SECTIONS])
        del top[key]
    general = problems.check(General, "", top)
    run = problems.check(RunSettings, "run", data.get("run"))
    extra = _extra_stages(data.get("stages"), problems)
    branches = {
        kind: _branch(kind, data[kind], extra, problems) for kind in ("images", "videos") if kind in data
    }
    if not branches:
        problems.add("images", "at least one of images and videos must be there")
    ends = {
        key: _choice(key, key, data[key], extra, problems) for key in ("captions", "tokens") if key in data
    }
    shards = problems.check(load(SHARDS).Config, "shards", data["shards"]) if "shards" in data else None
    for key in ("captions", "tokens"):
        if "shards" in data and key not in data:
            problems.add(
                "shards", f"needs {key}, which the configuration does not have; add it or drop shards"
            )
    _check_decode_size(general, branches.get("images"), problems)
    _check_stand_ins(general, [branches, ends], problems)
    if problems.found:
        raise ConfigError("\n  ".join([f"{name}: {_count(len(problems.found))}", *problems.found]))
    return Config(
        general=general,
        run=run,
        images=branches.get("images"),
        videos=branches.get("videos"),
        captions=ends.get("captions"),
        tokens=ends.get("tokens"),
        shards=shards,
        resolved=dict(data),
    )


def _check_decode_size(general: General | None, images: BranchChoice | None, problems: _Problems) -> None:
    """No filter may want more pixels of an image than are decoded."""
    decoded = general.image_decode_short_side if general else None
    if decoded is None or images is None:
        return
    for key, choice in images.stages.items():
        view = choice.build().view("image")
        if view is not None and (view.short_side is None or view.short_side > decoded):
            seen = "at full size" if view.short_side is None else f"at a short side of {view.short_side}"
            problems.add(key, f"sees images {seen}, more than image_decode_short_side: {decoded} leaves")


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"


def _extra_stages(section: Any, problems: _Problems) -> dict[str, str]:
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        problems.add("stages", "must map a stage's name to 'module:Class'")
        return {}
    found = {}
    for name, target in section.items():
        try:
            stage = load(str(target))
        except ConfigError as error:
            problems.add(f"stages.{name}", str(error))
            continue
        if isinstance(stage, type) and issubclass(stage, Stage):
            found[str(name)] = str(target)
        else:
            problems.add(f"stages.{name}", f"{target} is no stage: no subclass of curation.stage.Stage")
    return found


def _choice(
    key: str, name: str, settings: Any, extra: dict[str, str], problems: _Problems
) -> StageChoice | None:
    stage = stage_class(name, extra)
    checked = problems.check(stage.Config, key, settings)
    return None if checked is None else StageChoice(key, stage, checked)


def _branch(kind: str, section: Any, extra: dict[str, str], problems: _Problems) -> BranchChoice | None:
    if not isinstance(section, Mapping):
        problems.add(kind, "must be a mapping of settings")
        return None
    splitter_name = _SPLITTERS.get(kind)
    known = {name for name in {**STAGES, **extra} if _is_filter(name, extra)}
    used: list[str] = []
    rule = _rule(kind, section.get("filters", []), "all", known, used, problems)
    for key in section:
        if key in ("filters", splitter_name) or key in used:
            continue
        if key in known:
            problems.add(
                f"{kind}.{key}",
                f"has settings but does not stand in {kind}.filters; put it there, or drop {kind}.{key} (by "
                f"--set {kind}.{key}=null on the command line)",
            )
        else:
            problems.unknown(kind, str(key), {*known, "filters", *filter(None, [splitter_name])})
    for name in used:
        _check_kind(kind, name, known, extra, problems)
    stages = {
        f"{kind}.{name}": _choice(f"{kind}.{name}", name, section.get(name), extra, problems) for name in used
    }
    splitter = None
    if splitter_name:
        key = f"{kind}.{splitter_name}"
        splitter = _choice(key, splitter_name, section.get(splitter_name), extra, problems)
    order = [splitter, *(stages[f"{kind}.{name}"] for name in used)]
    _check_inputs([choice for choice in order if choice], {**STAGES, **extra}, problems)
    return BranchChoice(rule, splitter, {key: choice for key, choice in stages.items() if choice})


def _check_kind(
    section: str, name: str, known: Iterable[str], extra: dict[str, str], problems: _Problems
) -> None:
    """A filter must be able to measure what the section holds."""
    kind = _SAMPLES[section]
    if kind not in stage_class(name, extra).kinds:
        able = sorted(other for other in known if kind in stage_class(other, extra).kinds)
        problems.add(f"{section}.filters", f"{name} measures no {kind}s; {', '.join(able)} do")


def _check_inputs(order: Sequence[StageChoice], registered: Mapping[str, str], problems: _Problems) -> None:
    """A dataset-wide stage reads columns that a stage before it in the rule must measure."""
    known = set(GIVEN_COLUMNS)
    for choice in order:
        chosen = choice.build()
        for column in chosen.inputs() if isinstance(chosen, DatasetStage) else ():
            if column not in known:
                sources = [
                    name for name in registered if column in stage_class(name, dict(registered)).columns
                ]
                hint = f"put {' or '.join(sources)} before it" if sources else "no stage has it"
                problems.add(choice.key, f"needs the column {column}; {hint}")
        known |= set(chosen.columns)


def _is_filter(name: str, extra: dict[str, str]) -> bool:
    return name not in ("captions", "tokens") and not issubclass(stage_class(name, extra), Splitter)


def _rule(
    kind: str, parts: Any, mode: Literal["all", "any"], known: set[str], used: list[str], problems: _Problems
) -> RuleChoice:
    where = f"{kind}.filters"
    if not isinstance(parts, list):
        problems.add(where, "must be a list of stages, any_of: [...] and all_of: [...]")
        return RuleChoice(mode, ())
    found: list[str | RuleChoice] = []
    for part in parts:
        if isinstance(part, str) and part in used:
            problems.add(where, f"{part} stands there twice")
        elif isinstance(part, str) and part in known:
            used.append(part)
            found.append(f"{kind}.{part}")
        elif isinstance(part, Mapping) and len(part) == 1 and next(iter(part)) in ("any_of", "all_of"):
            ((key, inner),) = part.items()
            if inner == []:
                problems.add(where, f"{key} is empty")
            found.append(_rule(kind, inner, "any" if key == "any_of" else "all", known, used, problems))
        else:
            problems.unknown(where, str(part), known)
    return RuleChoice(mode, tuple(found))


def _check_stand_ins(general: General | None, groups: list[dict[str, Any]], problems: _Problems) -> None:
    if general is None or general.stand_ins == "allow":
        return
    choices: list[StageChoice] = []
    for item in (item for group in groups for item in group.values() if item):
        choices += (
            [*item.stages.values(), *filter(None, [item.splitter])]
            if isinstance(item, BranchChoice)
            else [item]
        )
    for choice in choices:
        if any(ref.stand_in for ref in choice.build().models()):
            problems.add(choice.key, "names a stand-in model, which `stand_ins: refuse` does not allow")
