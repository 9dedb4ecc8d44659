"""The configuration: YAML in, typed settings out, every mistake named at once.

A key that nobody knows is an error, never ignored: a misspelt threshold that silently does nothing
costs a dataset. Stage settings are checked by the stage's own `Config`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from curation.config.choices import (
    SAMPLES,
    BranchChoice,
    Chooser,
    StageChoice,
    StageNames,
    adds_to_kept,
)
from curation.config.problems import Problems
from curation.config.resolved import resolved
from curation.config.settings_file import parse_settings, read_bytes
from curation.errors import ConfigError
from curation.media.decoder import DecoderName, DecoderSettings
from curation.media.image import MAX_PIXELS
from curation.registry import SHARDS, load
from curation.stage import Location, StageConfig
from curation.storage.hub.place import NO_OUTPUT, is_on_hub


class General(StageConfig):
    """Settings at the top of a configuration."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The dataset's name: letters, digits, `.`, `_`, `-`; the shards go to `<output>/shards/<name>`."""
    input: list[Location] = Field(min_length=1)
    """Folders to read, all files below them; also in buckets, or on the Hub, there as
    `hf://datasets/ORG/NAME[@REVISION]/FOLDER`. A source's identity is its path as spelled here, `./in` being
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
    it; `flag` takes its code values for SDR, so that it looks dull, and measures all videos, and all that
    is added to kept samples, anew. The column `color_transfer` names it in any case."""
    license: str = "unknown"
    """Licence of the media, written to every shard row and to the dataset card."""
    license_link: str | None = None
    """URL of the licence's text, for the card, where the licence is none of those that the Hub lists."""

    @field_validator("output")
    @classmethod
    def _can_be_written(cls, output: str) -> str:
        if is_on_hub(output):
            raise ValueError(NO_OUTPUT)
        return output


class WorkerRange(StageConfig):
    """How many workers a run has: as many as the cluster has CPUs, within these limits."""

    min: Annotated[int, Field(ge=1)] = 1
    """The fewest that are wanted, whatever the cluster has."""
    max: Annotated[int, Field(ge=1)] | None = None
    """The most. A cluster that grows by itself grows until it has room for so many, while there is work for
    them; null: as many as it has CPUs of its own accord."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def wanted(self, num_cpus: int, *, can_grow: bool) -> int:
        """How many there should be in a cluster that has so many CPUs now, and may get more or may not."""
        most = self.max if self.max is not None and (can_grow or self.max < num_cpus) else num_cpus
        return max(self.min, most)


def _worker_range(value: object) -> object:
    """A number of workers is the range that holds it alone; none is the default."""
    if value is None:
        return WorkerRange()
    if isinstance(value, Mapping | WorkerRange):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return WorkerRange(min=value, max=value)
    raise ValueError(f"must be a number from 1 on, or min and max, not {value!r}")


class RunSettings(StageConfig):
    """How a run is carried out; nothing here changes a number."""

    workers: Annotated[
        WorkerRange,
        BeforeValidator(
            _worker_range, json_schema_input_type=Annotated[int, Field(ge=1)] | WorkerRange | None
        ),
    ] = WorkerRange()
    """Processes that read, decode and measure, each on a CPU: a number, or `{min: 4, max: 64}`, where either
    may be left out. By default one per CPU of the cluster, more as it grows and fewer as it shrinks."""
    model_workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that hold the models which want a GPU. By default as many as GPUs have room for, and none
    where there is no GPU: every worker then holds the models itself. Only `engine: vllm` has a model worker
    on a CPU, too. A number holds on any machine."""
    unit_images: Annotated[int, Field(ge=1)] = 256
    """Images in a unit: what is committed, and done again after a crash, together."""
    unit_videos: Annotated[int, Field(ge=1)] = 8
    """Videos in a unit; fewer of larger ones, so that `scratch_bytes` are enough for all of a unit."""
    max_kills: Annotated[int, Field(ge=1)] = 2
    """A source that killed its worker this many times is recorded as FAILED (PoisonSource)."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of sources and samples that may fail before the run ends with exit code 1."""
    max_held_bytes: Annotated[int, Field(ge=1)] = 2**29
    """Decoded pixels that a worker holds: of images that are filtered together, and of kept samples that are
    worked on together. At least one image or sample is held, whatever its size."""
    max_rss_bytes: Annotated[int, Field(ge=2**28)] | None = None
    """A worker that holds more memory than this after a unit is replaced; for libraries that leak."""
    scratch: str | None = None
    """Folder on a local disk into which workers fetch what lies in buckets, and what is in tars and Parquet
    files, as files without names, of which nothing is left when a worker ends; by default the one for
    temporary files."""
    scratch_bytes: Annotated[int, Field(ge=2**26)] = 2**32
    """Room that one worker may take there, for what it works on, what it fetches ahead, and long videos while
    their segments are filtered. A video that is larger is read in ranges, and fetched twice; pictures that
    are worked on at the same time are fetched in any case."""
    decoder: DecoderName = "pyav"
    """Library that decodes videos; what `decord` is known to get wrong is decoded by PyAV all the same."""
    segment_s: Annotated[float, Field(ge=1)] | None = 900.0
    """Videos longer than this many seconds are filtered in segments of at most this length, by several
    workers at once. Of a bucket such a video is fetched once by the node that reads it first, if its
    worker lives; workers of other nodes that have nothing else to do fetch the segments that they take over.
    null: each video is filtered by the worker that reads it."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds without progress on a source after which its worker is killed, and the source blamed."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a worker gets to start, and a stage to load models; if none ever does, the run ends."""
    compact_files: Annotated[int, Field(ge=1)] | None = 256
    """A run with work ends by merging the unit files of each stage that has more than this many into a few
    large ones, which are read faster; null leaves that to `curation compact`."""
    report_samples: Annotated[int, Field(ge=0)] = 1
    """Samples of each shard, up to eight in all, whose tokens the report shows decoded; 0 for none."""


class Prices(StageConfig):
    """What computing costs, for the report and for `curation plan`; nothing here changes what is done."""

    currency: str = "USD"
    """As it is written behind amounts."""
    cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one CPU core for an hour; null: unknown."""
    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one GPU for an hour; null: unknown."""
    terabyte_month: Annotated[float, Field(ge=0)] | None = None
    """Price of 10^12 bytes of output kept for a month; null: unknown."""


@dataclass(frozen=True)
class Config:
    """A whole configuration, checked.

    Attributes:
        additions: The sections that add something to kept samples, in the order of the work.
        resolved: The YAML with overrides, and with whole paths, as it goes to run.json.
        overrides: What replaced settings of the file, as `--set` takes it.
    """

    general: General
    run: RunSettings
    prices: Prices
    images: BranchChoice | None
    videos: BranchChoice | None
    additions: Mapping[str, StageChoice]
    shards: Any
    resolved: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    @property
    def shards_folder(self) -> str:
        """Where the shards lie, below the output."""
        return f"shards/{self.general.name}"

    @property
    def decoder(self) -> DecoderSettings:
        """How videos are decoded."""
        return DecoderSettings(self.run.decoder, self.general.hdr != "flag", self.general.max_pixels)

    def choices(self) -> list[StageChoice]:
        """Every stage that is chosen, in the order of the work."""
        branches = [branch for branch in (self.images, self.videos) if branch is not None]
        return _choices(branches, self.additions)


_SECTIONS = ("images", "videos", "shards", "run", "prices", "stages")
"""Keys at the top that hold settings of their own, besides the stages that add to kept samples."""


def load_config(path: str, overrides: Sequence[str] = (), **fields: Any) -> Config:
    """Read and check a configuration file.

    Args:
        path: YAML file.
        overrides: "a.b=value" settings that replace the file's, value in YAML; null drops a section.
        fields: Top-level settings that replace the file's; None leaves it.

    Raises:
        ConfigError: with every problem, each under its dotted name.
    """
    data = parse_settings(read_bytes(path), path, overrides)
    data.update({key: value for key, value in fields.items() if value is not None})
    return replace(parse_config(data, path), overrides=tuple(overrides))


def parse_config(data: Mapping[str, Any], name: str = "configuration") -> Config:
    """Check a configuration given as nested mappings.

    Raises:
        ConfigError: with every problem, each under its dotted name.
    """
    problems = Problems()
    names = StageNames(data.get("stages"), problems)
    chooser = Chooser(names, problems)
    additions, others = chooser.additions({key: data[key] for key in _open_keys(data)})
    for key in others:
        known = [*General.model_fields, *_SECTIONS, *names.matching(adds_to_kept)]
        problems.unknown("", str(key), known)
    general = problems.check(General, "", {key: data[key] for key in General.model_fields if key in data})
    run = problems.check(RunSettings, "run", data.get("run"))
    prices = problems.check(Prices, "prices", data.get("prices"))
    found = {kind: chooser.branch(kind, data[kind]) for kind in SAMPLES if kind in data}
    if not found:
        problems.add("images", "at least one of images and videos must be there")
    branches = {kind: branch for kind, branch in found.items() if branch}
    shards = _shards(data, chooser, problems)
    _check_decode_size(general, branches.get("images"), problems)
    if general is not None and general.stand_ins == "refuse":
        _refuse_stand_ins(_choices(branches.values(), additions), problems)
    if problems.found:
        raise ConfigError("\n  ".join([f"{name}: {_count(len(problems.found))}", *problems.found]))
    choices = {choice.key: choice.settings for choice in _choices(branches.values(), additions)}
    checked = {"": general, "run": run, "prices": prices, "shards": shards, **choices}
    return Config(
        general=general,
        run=run,
        prices=prices,
        images=branches.get("images"),
        videos=branches.get("videos"),
        additions=additions,
        shards=shards,
        resolved=resolved(data, checked),
    )


def _check_decode_size(general: General | None, images: BranchChoice | None, problems: Problems) -> None:
    """No filter may want more pixels of an image than are decoded."""
    decoded = general.image_decode_short_side if general else None
    if decoded is None or images is None:
        return
    for key, choice in images.stages.items():
        view = choice.build().view("image")
        if view is not None and (view.short_side is None or view.short_side > decoded):
            seen = "at full size" if view.short_side is None else f"at a short side of {view.short_side}"
            problems.add(key, f"sees images {seen}, more than image_decode_short_side: {decoded} leaves")


def _open_keys(data: Mapping[str, Any]) -> list[str]:
    """Keys at the top that may name a stage."""
    return [key for key in data if key not in General.model_fields and key not in _SECTIONS]


def _shards(data: Mapping[str, Any], chooser: Chooser, problems: Problems) -> Any:
    """Settings of the shards; what they are made of must be there."""
    if "shards" not in data:
        return None
    writer = load(SHARDS)
    chooser.check_needs("shards", writer.needs)
    return problems.check(writer.Config, "shards", data["shards"])


def _choices(branches: Iterable[BranchChoice], additions: Mapping[str, StageChoice]) -> list[StageChoice]:
    found: list[StageChoice] = []
    for branch in branches:
        found += [*filter(None, [branch.splitter]), *branch.stages.values()]
    return [*found, *additions.values()]


def _refuse_stand_ins(choices: Iterable[StageChoice], problems: Problems) -> None:
    for choice in choices:
        if any(ref.stand_in for ref in choice.build().models()):
            problems.add(choice.key, "names a stand-in model, which `stand_ins: refuse` does not allow")


def _count(number: int) -> str:
    return "1 problem" if number == 1 else f"{number} problems"
