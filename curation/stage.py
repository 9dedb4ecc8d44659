"""What a stage is: it measures samples; the core does everything else.

A filter is a subclass of `Stage` in one file: its `Config`, its `columns`, the `view` of the pixels
it wants, `setup` (load weights, in the worker) and `measure`. Whether a sample is kept follows from
the row and from the thresholds that `Config` marks with `KeepMin` and `KeepMax`, so a threshold can
be moved without measuring again. `stages/color.py` is the smallest complete example.

Stages that look at all samples at once are in `dataset_stage.py`.
"""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from curation.errors import ContractError
from curation.storage.paths import expand_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curation.errors import SampleError
    from curation.records import Sample, SampleKind, Source


class StageConfig(BaseModel):
    """Base of every stage's settings, and of a run's own: typed, frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """Every key that may stand in these settings."""
        return cls.model_fields

    @classmethod
    def section_class(cls, key: str) -> type[StageConfig] | None:
        """The class of the settings below a key; None where the key holds a value."""
        field = cls.model_fields.get(key)
        inside = None if field is None else field.annotation
        return inside if isinstance(inside, type) and issubclass(inside, StageConfig) else None


PATH_FORMAT = "path"
"""Format of such settings in the JSON schema."""
Location = Annotated[
    str, Field(min_length=1, json_schema_extra={"format": PATH_FORMAT}), AfterValidator(expand_path)
]
"""Type of a setting that names a file, a folder, a model or a URL: `~` and variables are expanded."""


def check_template(name: str, template: str, **fields: object) -> None:
    """Make sure that `template.format(**fields)` works, for validators of settings.

    Raises:
        ValueError: it does not; the message names the fields that there are.
    """
    try:
        template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{field}}}" for field in fields)
        raise ValueError(f"{name} can't be filled in: it may use {known}") from error


@dataclass(frozen=True)
class Column:
    """One column of a stage: what it holds, and where it goes besides the ledger.

    Attributes:
        type: Arrow type.
        meaning: What it says, with unit and range, for people: the dataset card prints it.
        exported: Whether it stands in training shards and on the dataset card.
        large: Whether it is left out where rows are read to decide or to report: pixels, codes, embeddings.

    Raises:
        ValueError: it is both, or says nothing.
    """

    type: pa.DataType
    meaning: str
    exported: bool = False
    large: bool = False

    def __post_init__(self) -> None:
        if not self.meaning:
            raise ValueError("a column must say what it means")
        if self.exported and self.large:
            raise ValueError("a large column stays in the ledger")


@dataclass(frozen=True)
class KeepMin:
    """Marks a setting as a threshold: keep while `column` >= the setting."""

    column: str
    sign: ClassVar[str] = "≥"

    @property
    def reason(self) -> str:
        """Why a sample beyond the threshold is rejected."""
        return f"{self.column}_below_min"

    def passes(self, value: float, threshold: float) -> bool:
        """At the threshold exactly is kept."""
        return value >= threshold

    def passes_each(
        self, values: NDArray[np.float64], threshold: float | NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """`passes` of each value [N], under one threshold or each under its own [N]."""
        return values >= threshold


@dataclass(frozen=True)
class KeepMax:
    """Marks a setting as a threshold: keep while `column` <= the setting."""

    column: str
    sign: ClassVar[str] = "≤"

    @property
    def reason(self) -> str:
        """Why a sample beyond the threshold is rejected."""
        return f"{self.column}_above_max"

    def passes(self, value: float, threshold: float) -> bool:
        """At the threshold exactly is kept."""
        return value <= threshold

    def passes_each(
        self, values: NDArray[np.float64], threshold: float | NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """`passes` of each value [N], under one threshold or each under its own [N]."""
        return values <= threshold


@dataclass(frozen=True)
class KeepFar:
    """Marks a setting as a threshold on a distance to another sample, which the column `reason` names.

    Keep while `column` >= the setting, or is null because nothing is near.
    """

    column: str
    reason: str
    sign: ClassVar[str] = "≥"

    def passes(self, value: float | None, threshold: float) -> bool:
        """At the threshold exactly is kept."""
        return value is None or value >= threshold

    def passes_each(
        self, values: NDArray[np.float64], threshold: float | NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """`passes` of each value [N], NaN for null, under one threshold or each under its own [N]."""
        return ~(values < threshold)


Threshold = KeepMin | KeepMax | KeepFar


@functools.cache
def _thresholds(config: type[StageConfig]) -> Mapping[str, Threshold]:
    return MappingProxyType(
        {
            name: mark
            for name, field in config.model_fields.items()
            for mark in _marks(field)
            if isinstance(mark, Threshold)
        }
    )


def _marks(field: FieldInfo) -> list[Any]:
    """What annotates a field, also inside `Annotated[...] | None`, where pydantic leaves it in place."""
    inside = [mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())]
    return [*field.metadata, *inside]


class Sizing(Protocol):
    """The sizes that a model's own preparation gives a picture. Frozen: equal ones share the work."""

    def steps(self, height: int, width: int) -> Sequence[tuple[int, int]]:
        """Heights and widths that the picture is brought to, one after the other; the last one is shown.

        Raises:
            SampleError: a picture of this size can't be taken.
        """


@dataclass(frozen=True, kw_only=True)
class View:
    """The pixels that a stage wants of a sample. An image has one frame, whatever is asked in time.

    In time: `fps` frames per second, or `count` frames at the centers of `count` equal parts of the
    clip; neither means the first frame. Filters get the frames of a grid that is fixed to the source
    (`fps`, or `GRID_FPS` for `count`), because theirs are taken in the pass that finds the cuts, when a
    clip's end is not yet known. What is added to kept samples gets times relative to the window's own start.

    In space: `short_side` pixels at most (never enlarged), or the sizes that `sizing` gives, by Pillow's
    bicubic filter from one to the next. Neither means the size as decoded.

    A short side is reached by averaging areas; `halved` by a quicker way that is about as sharp, and whose
    steps all views of a picture share (`curation/media/halvings.py`).
    """

    fps: float | None = None
    count: int | None = None
    max_frames: int | None = None
    short_side: int | None = None
    halved: bool = False
    sizing: Sizing | None = None


GRID_FPS = 4.0
"""Frames per second among which a `View(count=...)` chooses; a choice is off by at most 1/8 s."""


class Shrinking(Protocol):
    """Makes one picture smaller; sizes share the work (`curation/media/halvings.py`)."""

    def at_short_side(self, short_side: int) -> NDArray[np.uint8]:
        """The picture with a short side of so many pixels at most, [H, W, 3] uint8 RGB."""


@dataclass(frozen=True)
class Media:
    """What a stage gets for one sample: its source, and the frames of its view.

    Attributes:
        source: The file that the sample is from.
        pixels: [T, H, W, 3] uint8 RGB, upright; T = 0 for a stage without a view. Read-only.
        pts_s: [T] float64 presentation times in seconds from the start of the source.
        halvings: [T] what makes each frame smaller. Model workers get none: `prepare` is the place for it.
    """

    source: Source
    pixels: NDArray[np.uint8]
    pts_s: NDArray[np.float64]
    halvings: Sequence[Shrinking] = field(default=(), repr=False, compare=False)

    def shrunk(self, short_side: int) -> list[NDArray[np.uint8]]:
        """Each frame with a short side of so many pixels at most, [H, W, 3] uint8 RGB, by halving.

        An image is shrunk from its size as decoded, whatever its view; a frame of a clip from its view.

        Raises:
            ContractError: this is a model worker.
        """
        if len(self.halvings) != len(self.pixels):
            raise ContractError("model workers get no smaller frames; take them in the stage's `prepare`")
        pairs = zip(self.pixels, self.halvings, strict=True)
        return [halvings.at_short_side(short_side) for _, halvings in pairs]


_HUB_NAME = re.compile(r"^[\w.-]+/(?!.*\.(?:onnx|pth?|safetensors|bin|tiktoken|json)$)[\w.-]+$")
"""`org/name`; a name with the suffix of a file of weights or of a vocabulary is one in a folder here."""


@dataclass(frozen=True)
class ModelRef:
    """A model that a stage's numbers depend on.

    `name` is a hub repository ("org/name"), a file or folder, "package:NAME/path" for a file inside an
    installed package, or a URL with its `sha256`. `revision` is what was asked for, not what it resolves to.
    `precision` is said on the card where it changes the numbers.
    """

    role: str
    name: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    stand_in: bool = False
    precision: str | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether the revision is a commit of a remote repository rather than a digest of local files."""
        return bool(_HUB_NAME.match(self.name)) and not self.stand_in and not Path(self.name).exists()


@dataclass(frozen=True)
class Setup:
    """What a worker hands to a stage before the first sample.

    Attributes:
        device: "cpu" or "cuda".
        revisions: role -> commit or sha256, as resolved when the run was planned.
        services: What the stage's own `service` said, where it has one. A service may move to another node:
            who gets no answer looks here again. Empty while it is starting again.
        gpu_fraction: Part of its cards' memory that the worker may fill, above 0 and at most 1.
        in_placement_group: Whether its cards belong to a Ray placement group, one to a bundle, instead of to
            the worker itself: a model on more cards than a node has, or one that shares them.
    """

    device: Literal["cpu", "cuda"]
    revisions: Mapping[str, str]
    services: Mapping[str, str] = field(default_factory=dict)
    gpu_fraction: float = 1.0
    in_placement_group: bool = False


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where a stage is measured. By default in the worker that decodes, on one CPU.

    Attributes:
        gpu: Whether it is faster on a GPU. Where there is one, it is measured in model workers, which have a
            part of a card.
        whole_gpus: GPUs that each of its model workers has for itself.
        apart: Whether it is measured in model workers also where there is no GPU, because its model is too
            large to be loaded by every worker that decodes.
        group: Stages of a pass that name the same group share its model workers.
        max_workers: Most model workers of its group. By default as many as the GPUs have room for, and one
            where there is no GPU.
        concurrency: Requests that a model worker may work on at once, so that one is prepared while the model
            still answers the other: `measure` is then called by so many threads.
    """

    gpu: bool = False
    whole_gpus: int = 0
    apart: bool = False
    group: str = "models"
    max_workers: int | None = None
    concurrency: int = 1


class Service(Protocol):
    """Something that must run beside the workers while a stage measures, such as a server.

    Built by the driver: cheap, and picklable until it is started. The core starts it in a process of its own,
    on a node that has its `resources`; when that process or its node is lost, on another one.

    Attributes:
        max_restarts: How often it is started again when its process was lost.
        start_timeout_s: Seconds that starting may take.
    """

    max_restarts: int
    start_timeout_s: float

    def resources(self) -> Resources:
        """What it needs of its node; one process has `whole_gpus`."""

    def start(self, setup: Setup, host: str) -> Mapping[str, str]:
        """Start, wait until it is ready, and say what the stage's `setup` is to find in `services`.

        `host` is the address of its node that the workers reach.

        Raises:
            EnvironmentFault: it does not start; the message says why.
        """

    def stop(self) -> None:
        """End it and everything that it started, also while it is starting. May be called again."""


C = TypeVar("C", bound=StageConfig)


class Stage(abc.ABC, Generic[C]):
    """One measurement. Built by the driver (cheap, picklable), set up in the worker.

    Class attributes:
        name: as in the configuration, the ledger and the report.
        kinds: the samples that it can measure; a configuration that gives it others is refused.
        version: raise it when `measure` gives other numbers; earlier rows are then measured again.
        produces: for a stage that adds something to the samples that the filters keep: the column that shards
            take from it, such as "caption". It has a section of its own at the top of a configuration. None
            for what stands in `filters`, and for splitters.
        columns: what `measure` gives for every sample, by name.
        batch_size: samples per `measure` call, at most.
        counted_columns: what `counts` reads of the rows; it is asked where that is not empty.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[SampleKind]] = frozenset({"image", "clip"})
    version: ClassVar[int] = 1
    produces: ClassVar[str | None] = None
    columns: ClassVar[Mapping[str, Column]]
    batch_size: ClassVar[int] = 16
    counted_columns: ClassVar[Sequence[str]] = ()
    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: C) -> None:
        self.config = config

    def view(self, kind: SampleKind) -> View | None:
        """The pixels wanted of an image or a clip; None where the header says enough."""
        return None

    def models(self) -> Sequence[ModelRef]:
        """The models behind the numbers."""
        return ()

    def packages(self) -> Mapping[str, str]:
        """Packages beyond the base install that `setup` imports: name -> the extra that brings it."""
        return {}

    def distributions(self) -> Sequence[str]:
        """Installed packages that the numbers come from, by their names on PyPI, for run.json."""
        return ()

    def resources(self) -> Resources:
        """Where it is measured."""
        return Resources()

    def service(self) -> Service | None:
        """Something that must run beside the workers while this stage measures, such as a server.

        The core starts it before a pass that needs it, and stops it whatever happens.
        """
        return None

    def setup(self, setup: Setup) -> None:
        """Load weights. Runs once, in the worker; heavy imports belong here."""

    def expand(self, sample: Sample) -> Sequence[Sample]:
        """The parts of a kept sample that this stage measures one by one; by default the sample itself."""
        return (sample,)

    def check_device(self, device: Literal["cpu", "cuda"]) -> None:
        """Make sure that it can compute there as its settings say. Called before any pass.

        Raises:
            ConfigError: it can't.
        """

    def prepare(self, media: Media) -> Media:
        """What `measure` gets of a sample, from the pixels of its view; by default these as they are.

        Runs in the worker that decodes, so that a model's own resizing is spread over its CPUs, and only
        small pictures travel to a model worker. It must not depend on `setup`.

        Raises:
            SampleError: the sample cannot be measured.
        """
        return media

    @abc.abstractmethod
    def measure(
        self, samples: Sequence[Sample], media: Sequence[Media]
    ) -> Sequence[dict[str, Any] | SampleError]:
        """One dict per sample, in order, holding exactly `columns`.

        Where repeating the others would be dear, a sample's error can stand in its place.

        Raises:
            SampleError: a sample cannot be measured. The core repeats the batch one by one and
                records the culprit as FAILED, so a stage never catches errors for isolation.
        """

    def reads_metadata(self) -> bool:
        """Whether its numbers depend on what came along with a source, such as a text about it.

        When something else comes along, the rows of that source's samples are measured again.
        """
        return False

    def usage(self) -> Mapping[str, float]:
        """What measuring took since the last call, as numbers that can be summed up, for the report."""
        return {}

    def counts(self, rows: pa.Table) -> Iterable[tuple[str, str, int]]:
        """What the report sums up over all rows: group, name in it, number.

        `rows` are some of the stage's rows, failed ones included: `counted_columns`, `status` (`ok` or
        `failed`), `error_type` and `error`.
        """
        return ()

    def reject_reason(self, row: Mapping[str, Any]) -> str | None:
        """Why the thresholds reject a measured row, as their `reason` says; None if kept.

        Pure. A threshold that is None is switched off.
        """
        for name, mark in self.thresholds().items():
            threshold = getattr(self.config, name)
            if threshold is not None and not mark.passes(row[mark.column], threshold):
                return mark.reason
        return None

    @classmethod
    def thresholds(cls) -> Mapping[str, Threshold]:
        """The settings that decide about keeping, in order of declaration."""
        return _thresholds(cls.Config)

    def measure_settings(self) -> dict[str, Any]:
        """The settings that the numbers depend on: all but thresholds and where to run."""
        left_out = set(self.thresholds()) | self.placement_settings()
        return self.config.model_dump(mode="json", exclude=left_out)

    @classmethod
    def placement_settings(cls) -> set[str]:
        """Settings that say where and how fast, not what: they don't change the numbers."""
        return set()
